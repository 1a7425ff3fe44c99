"""Choosing between alternatives on data: what is in force stays unless a gain is certain; pure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forensics.common.arrays import Floats, Groups, Labels
from forensics.common.metrics import (
    CONFIDENCE,
    Estimate,
    bootstrap_auc,
    bootstrap_mean,
    brier_score,
    estimate,
    roc_auc,
)
from forensics.common.progress import Advance

ROC_AUC = "ROC AUC"
BRIER = "Brier score"


@dataclass(frozen=True)
class Candidate:
    """An alternative that was tried.

    Attributes:
        name: What it is.
        gain: Over the choice then in force, on groups of images that it was not fitted on; above 0 is better.
        adopted: Whether it replaced that.
    """

    name: str
    gain: Estimate
    adopted: bool


@dataclass(frozen=True)
class Decision:
    """How one question was decided.

    Attributes:
        subject: What it is about.
        measure: What the gains are measured in.
        paper: The paper's choice, to start from.
        candidates: In the order in which they were tried.
    """

    subject: str
    measure: str
    paper: str
    candidates: tuple[Candidate, ...]

    @property
    def choice(self) -> str:
        """What it came to."""
        return next((each.name for each in reversed(self.candidates) if each.adopted), self.paper)


@dataclass(frozen=True)
class Trial:
    """Compares scores of the same images.

    Attributes:
        labels: bool [N], True for fake.
        resamples: Of the bootstrap.
        seed: Of its draws.
        advance: Called after each resample.
        groups: Of the images, which are resampled whole; None where all are independent.
    """

    labels: Labels
    resamples: int
    seed: int
    advance: Advance
    groups: Groups | None = None

    def gain(self, measure: str, old: Floats, new: Floats, confidence: float = CONFIDENCE) -> Estimate:
        """What new scores gain over old ones, float64 [N] each, with its interval.

        Args:
            measure: `ROC_AUC`, or `BRIER`, of which less is better: its gain is the decrease.
            old: Scores in force.
            new: Scores that might replace them.
            confidence: Of the interval.
        """
        options = (self.resamples, self.seed, self.advance)
        if measure == ROC_AUC:
            areas = bootstrap_auc(self.labels, [old, new], *options, groups=self.groups)
            value = roc_auc(self.labels, new) - roc_auc(self.labels, old)
            return estimate(value, areas[:, 1] - areas[:, 0], confidence)
        errors = [(scores - self.labels) ** 2 for scores in (old, new)]
        means = bootstrap_mean(self.labels, [np.subtract(*errors)], *options, groups=self.groups)
        return estimate(brier_score(self.labels, old) - brier_score(self.labels, new), means[:, 0], confidence)

    def decide(self, subject: str, measure: str, choices: Mapping[str, Floats]) -> Decision:
        """Goes through alternatives, each of which must beat what is in force by then.

        The intervals share the error of 5 % among the candidates (Bonferroni).

        Args:
            subject: What is decided.
            measure: As in `gain`.
            choices: Scores by the name of the choice: the paper's first, then the candidates, the simplest first.
        """
        (paper, in_force), *others = choices.items()
        confidence = 1 - (1 - CONFIDENCE) / len(others)
        candidates = []
        for name, scores in others:
            gain = self.gain(measure, in_force, scores, confidence)
            adopted = gain.low > 0
            candidates.append(Candidate(name, gain, adopted))
            if adopted:
                in_force = scores
        return Decision(subject, measure, paper, tuple(candidates))
