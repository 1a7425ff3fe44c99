"""All measures of a scored data set, with their intervals; pure."""

from dataclasses import dataclass

import numpy as np
from deepfake_client.video import DEFAULT_FPS

from ensemble.calibration import PAPER_VOTE
from ensemble.streams import STREAMS
from forensics.common.arrays import Floats, Labels
from forensics.common.metrics import (
    Confusion,
    Estimate,
    average_precision,
    best_threshold,
    bootstrap_auc,
    brier_score,
    confusion,
    equal_error_rate,
    estimate,
    expected_calibration_error,
    roc_auc,
)
from forensics.common.progress import Advance, silent
from forensics.common.scoring.scores import MEAN, VOTE, Scores
from forensics.evaluate.agreement import PairAgreement, ensemble_score, pairwise_agreement, weight_choices
from forensics.evaluate.challenge import Challenge, challenge
from forensics.evaluate.videos import VideoRules, video_rules


@dataclass(frozen=True)
class Measures:
    """What one column of scores is worth.

    Attributes:
        auc: ROC AUC.
        average_precision: Area under the precision-recall curve.
        equal_error_rate: Where false alarms and misses are as frequent.
        at_half: Counts where images above 0.5 are called fake.
        undecided: Images at exactly 0.5, which count there as called real.
        best_threshold: The threshold of the highest accuracy on these very images.
        at_best: Counts there.
        calibration_error: Expected calibration error.
        brier: Brier score.
    """

    auc: Estimate
    average_precision: float
    equal_error_rate: float
    at_half: Confusion
    undecided: int
    best_threshold: float
    at_best: Confusion
    calibration_error: float
    brier: float


@dataclass(frozen=True)
class WeightChoice:
    """The ensemble by other vote weights.

    Attributes:
        weights: One a stream.
        mean_auc: ROC AUC of the unrounded weighted mean.
        vote_auc: ROC AUC of the vote.
        gain: ROC AUC of the mean above that by the weights in force, paired.
    """

    weights: tuple[int, ...]
    mean_auc: Estimate
    vote_auc: Estimate
    gain: Estimate


@dataclass(frozen=True)
class Evaluation:
    """What a data set says of an ensemble.

    Attributes:
        real: Number of real images.
        fake: Number of fake ones.
        resamples: Of the bootstrap that gives the intervals.
        measures: By column: the streams, the unrounded mean, the vote.
        contributions: What each stream adds, by its name: ROC AUC of the mean of all above that without it, paired.
        rounding_cost: ROC AUC of the unrounded mean above that of the vote, paired.
        weight_choices: The ensemble by other weights, fewest streams first.
        agreement: Every pair of streams.
        challenge: The challenge's numbers, by column.
        videos: Rules that make one score of a video's frames; None where the images are no frames of videos.
    """

    real: int
    fake: int
    resamples: int
    measures: dict[str, Measures]
    contributions: dict[str, Estimate]
    rounding_cost: Estimate
    weight_choices: list[WeightChoice]
    agreement: list[PairAgreement]
    challenge: dict[str, Challenge]
    videos: VideoRules | None


def evaluate(
    scores: Scores,
    weights: tuple[float, ...] = PAPER_VOTE.weights,
    rounding_step: float = PAPER_VOTE.rounding_step,
    *,
    frame_rate: float = DEFAULT_FPS,
    resamples: int,
    seed: int = 0,
    advance: Advance = silent,
) -> Evaluation:
    """Measures a scored data set.

    Args:
        scores: The images.
        weights: Vote weights that the server has in force.
        rounding_step: Its rounding step.
        frame_rate: Frames a second, where the images are frames of videos.
        resamples: Of the bootstrap.
        seed: Of its draws.
        advance: Called after each resample.
    """
    labels = scores.labels
    columns: dict[object, Floats] = dict(scores.columns.items())
    for choice in weight_choices():
        voted = ensemble_score(scores, choice, rounding_step)
        columns[MEAN, choice] = voted.probability.astype(np.float64)
        columns[VOTE, choice] = voted.score.astype(np.float64)
    for index, stream in enumerate(STREAMS):
        rest = tuple(0.0 if n == index else float(weight) for n, weight in enumerate(weights))
        # Where a calibration left one stream alone in the vote, nothing is left without it: a guess.
        mean = ensemble_score(scores, rest, rounding_step).probability if any(rest) else np.full(len(labels), 0.5)
        columns["without", stream.name] = mean.astype(np.float64)
    names = {name: column for column, name in enumerate(columns)}
    areas = np.array([roc_auc(labels, column) for column in columns.values()])
    resampled = bootstrap_auc(labels, list(columns.values()), resamples, seed, advance, groups=scores.groups)

    def area(name: object) -> Estimate:
        return estimate(areas[names[name]], resampled[:, names[name]])

    def gain(name: object, over: object) -> Estimate:
        a, b = names[name], names[over]
        return estimate(areas[a] - areas[b], resampled[:, a] - resampled[:, b])

    return Evaluation(
        real=scores.real,
        fake=scores.fake,
        resamples=resamples,
        measures={name: _measure(labels, column, area(name)) for name, column in scores.columns.items()},
        contributions={stream.name: gain(MEAN, ("without", stream.name)) for stream in STREAMS},
        rounding_cost=gain(MEAN, VOTE),
        weight_choices=[
            WeightChoice(choice, area((MEAN, choice)), area((VOTE, choice)), gain((MEAN, choice), MEAN))
            for choice in weight_choices()
        ],
        agreement=pairwise_agreement(scores),
        challenge=challenge(scores),
        videos=video_rules(scores, frame_rate, resamples=resamples, seed=seed),
    )


def _measure(labels: Labels, scores: Floats, auc: Estimate) -> Measures:
    threshold = best_threshold(labels, scores)
    return Measures(
        auc=auc,
        average_precision=average_precision(labels, scores),
        equal_error_rate=equal_error_rate(labels, scores),
        at_half=confusion(labels, scores, 0.5),
        undecided=int((scores == 0.5).sum()),
        best_threshold=threshold,
        at_best=confusion(labels, scores, threshold),
        calibration_error=expected_calibration_error(labels, scores),
        brier=brier_score(labels, scores),
    )
