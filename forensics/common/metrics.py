"""Measures of a detector on labelled images; pure functions of arrays.

Everywhere labels are bool [N], True for fake, with both kinds among them; scores are float64 [N] in [0, 1], higher for
fake; and an image is called fake where its score is above the threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, roc_auc_score, roc_curve

from forensics.common.arrays import Floats, Groups, Labels
from forensics.common.groups import resample
from forensics.common.progress import Advance, silent

CONFIDENCE = 0.95
CALIBRATION_BINS = 15
"""Bins of equal width of the expected calibration error, as in Guo et al. 2017."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Confusion:
    """Counts at a threshold."""

    true_fake: int
    false_fake: int
    true_real: int
    false_real: int

    @property
    def accuracy(self) -> float:
        """Share of the images that are called what they are."""
        right = self.true_fake + self.true_real
        return right / (right + self.false_fake + self.false_real)


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose scores fall into one bin."""

    count: int
    mean_score: float
    fake_share: float


def roc_auc(labels: Labels, scores: Floats) -> float:
    """Area under the ROC curve: the chance that a fake image scores above a real one, ties half."""
    return float(roc_auc_score(labels, scores))


def average_precision(labels: Labels, scores: Floats) -> float:
    """Area under the precision-recall curve, as a sum of steps; a guess reaches the share of fake images."""
    return float(average_precision_score(labels, scores))


def roc_points(labels: Labels, scores: Floats) -> tuple[Floats, Floats]:
    """The ROC curve's corners: false-alarm rates and detection rates."""
    false_alarms, detections, _ = roc_curve(labels, scores)
    return false_alarms, detections


def equal_error_rate(labels: Labels, scores: Floats) -> float:
    """Where the false-alarm rate equals the miss rate, on straight lines between the ROC curve's corners."""
    false_alarms, detections = roc_points(labels, scores)
    excess = false_alarms - (1 - detections)  # rises from −1 to 1
    right = int(np.argmax(excess >= 0))
    left = right - 1
    share = -excess[left] / (excess[right] - excess[left])
    return float(false_alarms[left] + share * (false_alarms[right] - false_alarms[left]))


def confusion(labels: Labels, scores: Floats, threshold: float) -> Confusion:
    """Counts of right and wrong calls."""
    (true_real, false_fake), (false_real, true_fake) = confusion_matrix(labels, scores > threshold).tolist()
    return Confusion(true_fake, false_fake, true_real, false_real)


def best_threshold(labels: Labels, scores: Floats) -> float:
    """The threshold of the highest accuracy on these very images, so an optimistic one; the lowest of several.

    It lies midway between neighbouring scores, and below 0 where all are called fake though one scores 0.
    """
    order = np.argsort(scores)
    values, first = np.unique(scores[order], return_index=True)
    fake_up_to = np.append(0, np.cumsum(labels[order]))[np.append(first, len(scores))]
    images_up_to = np.append(first, len(scores))
    right = (images_up_to - fake_up_to) + (labels.sum() - fake_up_to)
    best = int(np.argmax(right))
    if best == 0:
        return float(values[0]) / 2 if values[0] > 0 else -1.0
    return float(values[best - 1]) if best == len(values) else float((values[best - 1] + values[best]) / 2)


def brier_score(labels: Labels, scores: Floats) -> float:
    """Mean squared difference between score and label; 0.25 for a constant 0.5."""
    return float(brier_score_loss(labels, scores))


def reliability(labels: Labels, scores: Floats, bins: int = CALIBRATION_BINS) -> list[ReliabilityBin]:
    """Scores against the share of fake images, in bins of equal width; empty bins are left out."""
    index = np.minimum((scores * bins).astype(np.int64), bins - 1)
    counts = np.bincount(index, minlength=bins)
    score_sums = np.bincount(index, scores, bins)
    fakes = np.bincount(index, labels, bins)
    return [
        ReliabilityBin(int(counts[n]), float(score_sums[n] / counts[n]), float(fakes[n] / counts[n]))
        for n in np.flatnonzero(counts)
    ]


def expected_calibration_error(labels: Labels, scores: Floats, bins: int = CALIBRATION_BINS) -> float:
    """Mean distance of score and share of fake images over the bins, weighted by their images (Guo et al. 2017)."""
    each = reliability(labels, scores, bins)
    return sum(each.count * abs(each.mean_score - each.fake_share) for each in each) / len(scores)


def bootstrap_auc(
    labels: Labels,
    columns: Sequence[Floats],
    resamples: int,
    seed: int,
    advance: Advance = silent,
    *,
    groups: Groups | None = None,
) -> Floats:
    """ROC AUC on resampled images: groups drawn with replacement, real and fake ones apart, the same for every column.

    Args:
        labels: bool [N].
        columns: S arrays of scores, float64 [N].
        resamples: B, the number of resamples.
        seed: Of the draws.
        advance: Called after each resample.
        groups: Of the images; None where all are independent.

    Returns:
        float64 [B, S]. Differences of columns are paired.
    """
    levels = [np.unique(column, return_inverse=True)[1] for column in columns]
    fakes = [level[labels] for level in levels]
    reals = [level[~labels] for level in levels]
    sizes = [int(level.max()) + 1 for level in levels]
    areas = np.empty((resamples, len(columns)))
    for row, counts in zip(areas, resample(labels, groups, resamples, seed), strict=True):
        fake, real = counts[labels], counts[~labels]
        for column, size in enumerate(sizes):
            above = np.bincount(fakes[column], fake, size)
            below = np.bincount(reals[column], real, size)
            row[column] = above @ (np.cumsum(below) - 0.5 * below) / (fake.sum() * real.sum())
        advance()
    return areas


def bootstrap_mean(
    labels: Labels,
    columns: Sequence[Floats],
    resamples: int,
    seed: int,
    advance: Advance = silent,
    *,
    groups: Groups | None = None,
) -> Floats:
    """Means of per-image values on the resamples of `bootstrap_auc`: float64 [B, S]."""
    values = np.stack(columns)
    means = np.empty((resamples, len(columns)))
    for row, counts in zip(means, resample(labels, groups, resamples, seed), strict=True):
        row[:] = values @ counts / counts.sum()
        advance()
    return means


def estimate(value: float, resampled: Floats, confidence: float = CONFIDENCE) -> Estimate:
    """A value with the percentile interval of its resampled values, float64 [B]."""
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(value), float(low), float(high))
