"""Votes other than the method's own: a map per stream, vote weights, a rounding step; and operating points.

The method has no map, weights 2 : 1 : 2 and steps of 0.1: `PAPER_VOTE`. Others are fitted on labelled images and come
from a calibration file (`ensemble.calibration_file`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ensemble.streams import STREAMS
from ensemble.voting import WEIGHTS, EnsembleScore, fake_probability

ROUNDING_STEPS = (0.2, 0.1, 0.05, 0.02, 0.01)
"""Steps that a vote can have: fractions 1/n, so that 0 and 1 are votes."""

SMALLEST_PROBABILITY = 1e-7
"""Probabilities are held this far from 0 and 1 before their logit is taken: about the resolution of float32 at 1."""

Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NoMap:
    """The stream's probability as it is."""

    kind: ClassVar[str] = "none"

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        return probabilities


@dataclass(frozen=True)
class Temperature:
    """Divides the logit (Guo et al. 2017): above 1 for a stream that is too sure of itself."""

    kind: ClassVar[str] = "temperature"
    temperature: float

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        return _sigmoid(logit(probabilities) / self.temperature)


@dataclass(frozen=True)
class Platt:
    """An affine map of the logit (Platt 1999); its slope is positive, so that no ranking is reversed."""

    kind: ClassVar[str] = "platt"
    slope: float
    intercept: float

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        return _sigmoid(self.slope * logit(probabilities) + self.intercept)


@dataclass(frozen=True)
class Isotonic:
    """A rising line through knots (Zadrozny & Elkan 2002), level beyond the first and the last.

    Attributes:
        x: Probabilities of the stream, strictly rising.
        y: What they become, never falling; as many.
    """

    kind: ClassVar[str] = "isotonic"
    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        return np.interp(probabilities.astype(np.float64), self.x, self.y).astype(np.float32)


ProbabilityMap = NoMap | Temperature | Platt | Isotonic
"""float32 [...] in [0, 1] to the same; NaN stays NaN."""


@dataclass(frozen=True)
class Vote:
    """How stream probabilities become a score.

    Attributes:
        maps: One a stream, in the order of `STREAMS`.
        weights: One a stream, at least 0 and not all 0.
        rounding_step: One of `ROUNDING_STEPS`.
    """

    maps: tuple[ProbabilityMap, ...]
    weights: tuple[float, ...]
    rounding_step: float

    def score(self, probabilities: Probabilities) -> EnsembleScore:
        """The vote on N images.

        Args:
            probabilities: float32 [N, 3], softmax of the logits, before any map.

        Returns:
            The score, whose stream probabilities are those after the maps.
        """
        columns = [each(column) for each, column in zip(self.maps, probabilities.T, strict=True)]
        mapped = np.stack(columns, axis=-1)
        votes = round_to(mapped, self.rounding_step)
        return EnsembleScore(
            score=round_to(np.average(votes, axis=-1, weights=self.weights), self.rounding_step).astype(np.float32),
            probability=np.average(mapped.astype(np.float64), axis=-1, weights=self.weights).astype(np.float32),
            stream_probabilities=mapped,
            stream_votes=votes.astype(np.float32),
        )


PAPER_VOTE = Vote(tuple(NoMap() for _ in STREAMS), WEIGHTS, 0.1)
"""The method's own; its scores equal those of `ensemble.voting.score_logits` bit for bit."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the probability: an image counts as fake strictly above it. Intervals are of 95 %.

    Attributes:
        far: The false-alarm rate that was asked for: the share of real images that may count as fake.
        threshold: In [0, 1].
        threshold_interval: By bootstrap over the real images.
        false_alarm_rate: What the threshold gave on the data, at most `far`.
        false_alarm_interval: Where the rate on further such images lies.
        detection_rate: Share of the fake images above the threshold.
        detection_interval: Of that rate.
    """

    far: float
    threshold: float
    threshold_interval: tuple[float, float]
    false_alarm_rate: float
    false_alarm_interval: tuple[float, float]
    detection_rate: float
    detection_interval: tuple[float, float]


def score_logits_calibrated(logits: npt.NDArray[np.float32], vote: Vote) -> EnsembleScore:
    """As `ensemble.voting.score_logits`, by another vote: float32 [N, 3, 2], streams in order, classes real, fake."""
    return vote.score(fake_probability(logits))


def round_to(values: npt.NDArray[np.floating[Any]], step: float) -> npt.NDArray[np.float64]:
    """Rounds to multiples of a step 1/n, ties to even.

    For float32 it is correct rounding: 24 bits times n up to 100 is exact in float64. At 0.1 it equals
    `ensemble.voting.quantise` on float32 and `numpy.round(…, 1)` on float64.
    """
    levels = round(1 / step)
    return np.asarray(np.rint(values.astype(np.float64) * levels) / levels, np.float64)


def logit(probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """log(p / (1 − p)) in float64, with p held `SMALLEST_PROBABILITY` away from 0 and 1."""
    held = np.clip(probabilities.astype(np.float64), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return np.asarray(np.log(held) - np.log1p(-held), np.float64)


def _sigmoid(values: npt.NDArray[np.float64]) -> Probabilities:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)), np.float32)
