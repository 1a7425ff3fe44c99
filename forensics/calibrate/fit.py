"""Which vote labelled images call for: maps, weights and rounding step, by cross-validation; pure.

The paper's choices stay wherever the gain of another is not certain (`decisions`). Gains are measured out of fold: on
images of groups that the map or the weights were not fitted on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from ensemble.calibration import PAPER_VOTE, ROUNDING_STEPS, Isotonic, Probabilities, ProbabilityMap, Vote, round_to
from ensemble.streams import STREAMS
from forensics.calibrate.decisions import BRIER, ROC_AUC, Decision, Trial
from forensics.calibrate.maps import FITTERS, Fitter
from forensics.common.arrays import Floats, Groups, Labels
from forensics.common.groups import kinds_of_groups, numbered
from forensics.common.metrics import Estimate, expected_calibration_error, roc_auc
from forensics.common.progress import Advance, silent
from forensics.common.scoring.scores import MEAN, TITLES, VOTE, Scores

FOLDS = 5
LEAST_OF_A_CLASS = 50
"""Independent real and fake images each, below which nothing is changed: intervals so wide hold 0 for any gain worth
having, and resampled groups so few give intervals that are too narrow. A group counts as one (`count_independent`)."""
LEAST_FOR_ISOTONIC = 500
"""The same for isotonic maps, which have as many parameters as the data have steps."""

PAPER_WEIGHTS = " : ".join(f"{weight:g}" for weight in PAPER_VOTE.weights)
FITTED_WEIGHTS = "fitted"

_TENTHS = 10

Folds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fit:
    """What the data call for.

    Attributes:
        vote: The vote to use: the paper's where nothing gains.
        decisions: How each part was decided; none where the data are too small.
        gains: Of the fitted vote as a whole over the paper's, out of fold, by what is measured; empty where no part
            changes.
        calibration_errors: Expected calibration error of the unrounded mean by the paper's vote and by the fitted one.
        conclusion: The result in a sentence.
        left_out: Which images each fold holds, bool [N], and the vote that the others give; no group is in two folds.
    """

    vote: Vote
    decisions: tuple[Decision, ...]
    gains: Mapping[str, Estimate]
    calibration_errors: tuple[float, float] | None
    conclusion: str
    left_out: tuple[tuple[Labels, Vote], ...]


def count_rounds(scores: Scores) -> int:
    """How often `fit_vote` resamples at most: once a candidate, and three times for the whole."""
    if _independent(scores) < LEAST_OF_A_CLASS:
        return 0
    return len(STREAMS) * (len(_fitters(scores)) - 1) + 1 + (len(ROUNDING_STEPS) - 1) + 3


def fit_vote(scores: Scores, *, resamples: int, seed: int = 0, advance: Advance = silent) -> Fit:
    """Fits a vote.

    Args:
        scores: Labelled images, scored without any calibration in force.
        resamples: Of the bootstrap, in each of `count_rounds`.
        seed: Of folds and draws.
        advance: Called after each resample.
    """
    labels, raw, groups = scores.labels, scores.streams, scores.groups
    folds = assign_folds(labels, groups, seed=seed)
    untouched = Fit(PAPER_VOTE, (), {}, None, "", tuple((folds == fold, PAPER_VOTE) for fold in range(FOLDS)))
    if _independent(scores) < LEAST_OF_A_CLASS:
        conclusion = (
            f"the data are too small to change anything ({describe_size(scores)}): the paper's vote "
            "stays; add images of other people, photographs or videos"
        )
        return replace(untouched, conclusion=conclusion)
    trial = Trial(labels, resamples, seed, advance, groups)

    decisions, columns = [], []
    for stream, column in zip(STREAMS, raw.T, strict=True):
        choices = {kind: _map_out_of_fold(each, column, labels, folds) for kind, each in _fitters(scores).items()}
        decision = trial.decide(f"map, {TITLES[stream.name]}", BRIER, _as_floats(choices))
        decisions.append(decision)
        columns.append(choices[decision.choice])
    held_out = np.stack(columns, axis=-1)

    weights = {
        PAPER_WEIGHTS: np.tile(np.array(PAPER_VOTE.weights, np.float64), (len(labels), 1)),
        FITTED_WEIGHTS: _weights_out_of_fold(held_out, labels, folds),
    }
    means = {name: np.average(held_out.astype(np.float64), axis=1, weights=each) for name, each in weights.items()}
    decisions.append(trial.decide("vote weights", ROC_AUC, means))
    chosen_weights = decisions[-1].choice

    steps = sorted(ROUNDING_STEPS, key=lambda step: (step != PAPER_VOTE.rounding_step, -step))
    votes = {f"{step:g}": _vote_out_of_fold(held_out, weights[chosen_weights], step) for step in steps}
    decisions.append(trial.decide("rounding step", ROC_AUC, votes))

    untouched = replace(untouched, decisions=tuple(decisions))
    if all(decision.choice == decision.paper for decision in decisions):
        return replace(untouched, conclusion="no change gains for certain: the paper's vote stays")

    gains = {
        f"{TITLES[VOTE]}, {ROC_AUC}": trial.gain(ROC_AUC, scores.vote, votes[decisions[-1].choice]),
        f"{TITLES[MEAN]}, {ROC_AUC}": trial.gain(ROC_AUC, scores.mean, means[chosen_weights]),
        f"{TITLES[MEAN]}, {BRIER}": trial.gain(BRIER, scores.mean, means[chosen_weights]),
    }
    errors = (
        expected_calibration_error(labels, scores.mean),
        expected_calibration_error(labels, means[chosen_weights]),
    )
    untouched = replace(untouched, gains=gains, calibration_errors=errors)
    losses = [name for name, gain in gains.items() if gain.high < 0]
    if _loses_ranking(gains):
        conclusion = f"the fitted vote as a whole loses for certain in {', '.join(losses)}: the paper's vote stays"
        return replace(untouched, conclusion=conclusion)
    if not any(gain.low > 0 for gain in gains.values()):
        conclusion = "parts gain, and the fitted vote as a whole in nothing for certain: the paper's vote stays"
        return replace(untouched, conclusion=conclusion)
    changed = [decision.subject for decision in decisions if decision.choice != decision.paper]
    conclusion = f"changed, each for a certain gain: {'; '.join(changed)}"
    if losses:  # a mean of well calibrated streams is too unsure of itself, which costs no ranking
        conclusion += f"; the price, also certain: {', '.join(losses)}"
    return replace(
        untouched,
        vote=_chosen_vote(decisions, raw, labels),
        conclusion=conclusion,
        left_out=tuple((held, _chosen_vote(decisions, raw[~held], labels[~held])) for held, _ in untouched.left_out),
    )


def _chosen_vote(decisions: Sequence[Decision], raw: Probabilities, labels: Labels) -> Vote:
    """The vote that was decided on, fitted on some images."""
    *maps, weights, step = (decision.choice for decision in decisions)
    fitted = tuple(FITTERS[kind](column, labels) for kind, column in zip(maps, raw.T, strict=True))
    vote = Vote(fitted, PAPER_VOTE.weights, float(step))
    if weights == FITTED_WEIGHTS:
        return replace(vote, weights=fit_weights(vote.score(raw).stream_probabilities, labels))
    return vote


def _loses_ranking(gains: Mapping[str, Estimate]) -> bool:
    """Whether a certain loss in ranking is not made up for by a larger certain gain in it.

    Maps rank the vote's tenths anew, and may cost the unrounded mean a little: each fold's images have a map of their
    own, so that images of two folds are out of order though no map is.
    """
    ranking = [gain for name, gain in gains.items() if ROC_AUC in name]
    lost = max((-gain.value for gain in ranking if gain.high < 0), default=0.0)
    won = max((gain.value for gain in ranking if gain.low > 0), default=0.0)
    return lost > won


def assign_folds(labels: Labels, groups: Groups | None = None, *, seed: int) -> Folds:
    """Fold of each image, 0 to `FOLDS` − 1: random, no group in two, each kind of group as evenly as can be."""
    own = numbered(groups, len(labels))
    kinds = kinds_of_groups(labels, own)
    order = np.lexsort((np.random.default_rng(seed).random(len(kinds)), kinds))
    folds = np.empty(len(kinds), np.int64)
    folds[order] = np.arange(len(kinds)) % FOLDS
    return folds[own]


def describe_size(scores: Scores) -> str:
    """How many independent images of each kind there are, and how many are needed, in words."""
    needed = f"at least {LEAST_OF_A_CLASS} of each are needed"
    if scores.groups is None:
        return f"{scores.kinds}, {needed}"
    return f"{scores.independent_real} real and {scores.independent_fake} fake groups, {needed}"


def fit_weights(probabilities: Probabilities, labels: Labels) -> tuple[float, ...]:
    """The weights of the highest ROC AUC of the weighted mean, in tenths; of equals the nearest to the paper's.

    Args:
        probabilities: float32 [N, 3], after the maps.
        labels: bool [N], True for fake.
    """
    paper = np.array(PAPER_VOTE.weights, np.float64) * _TENTHS / sum(PAPER_VOTE.weights)
    grid = [each for each in product(range(_TENTHS + 1), repeat=len(STREAMS)) if sum(each) == _TENTHS]
    grid.sort(key=lambda weights: float(np.abs(weights - paper).sum()))
    areas = [roc_auc(labels, np.average(probabilities.astype(np.float64), axis=1, weights=each)) for each in grid]
    return tuple(float(weight) for weight in grid[int(np.argmax(areas))])


def _independent(scores: Scores) -> int:
    return min(scores.independent_real, scores.independent_fake)


def _fitters(scores: Scores) -> dict[str, Fitter]:
    enough = _independent(scores) >= LEAST_FOR_ISOTONIC
    return {kind: fitter for kind, fitter in FITTERS.items() if enough or kind != Isotonic.kind}


def _map_out_of_fold(fitter: Fitter, column: Probabilities, labels: Labels, folds: Folds) -> Probabilities:
    mapped = np.empty_like(column)
    for fold in range(FOLDS):
        held = folds == fold
        fitted: ProbabilityMap = fitter(column[~held], labels[~held])
        mapped[held] = fitted(column[held])
    return mapped


def _weights_out_of_fold(probabilities: Probabilities, labels: Labels, folds: Folds) -> Floats:
    weights = np.empty(probabilities.shape)
    for fold in range(FOLDS):
        held = folds == fold
        weights[held] = fit_weights(probabilities[~held], labels[~held])
    return weights


def _vote_out_of_fold(probabilities: Probabilities, weights: Floats, step: float) -> Floats:
    return round_to(np.average(round_to(probabilities, step), axis=1, weights=weights), step)


def _as_floats(columns: Mapping[str, Probabilities]) -> dict[str, Floats]:
    return {name: column.astype(np.float64) for name, column in columns.items()}
