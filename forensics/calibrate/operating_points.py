"""Thresholds for given false-alarm rates; pure."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import beta

from ensemble.calibration import OperatingPoint
from forensics.common.metrics import CONFIDENCE
from forensics.common.scoring.scores import Floats, Labels

FALSE_ALARM_RATES = (0.001, 0.01, 0.05, 0.1)
"""Those that are asked for where none are given."""


def images_needed(far: float) -> int:
    """Real images without which a false-alarm rate cannot be told from none: on average one of them is an alarm."""
    return int(np.ceil(1 / far - 1e-9))


def find_operating_points(
    labels: Labels, scores: Floats, rates: Sequence[float], *, resamples: int, seed: int = 0
) -> tuple[OperatingPoint, ...]:
    """The lowest thresholds that keep false alarms within given rates on labelled images.

    Args:
        labels: bool [N], True for fake.
        scores: float64 [N] in [0, 1]; an image counts as fake strictly above a threshold.
        rates: False-alarm rates, each above 0 and below 1.
        resamples: Of the bootstrap over real images, for the thresholds' intervals.
        seed: Of its draws.

    Returns:
        A point for each rate that has real images enough (`images_needed`), by rising rate.
    """
    real, fake = np.sort(scores[~labels])[::-1], scores[labels]
    usable = [far for far in sorted(set(rates)) if len(real) >= images_needed(far)]
    alarms = [int(np.floor(far * len(real) + 1e-9)) for far in usable]
    rng = np.random.default_rng(seed)
    resampled = np.array([np.sort(rng.choice(real, len(real)))[::-1][alarms] for _ in range(resamples)])
    points = []
    for index, far in enumerate(usable):
        threshold = float(real[alarms[index]])
        false_alarms, detections = int((real > threshold).sum()), int((fake > threshold).sum())
        low, high = np.quantile(resampled[:, index], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        points.append(
            OperatingPoint(
                far=far,
                threshold=threshold,
                threshold_interval=(float(low), float(high)),
                false_alarm_rate=false_alarms / len(real),
                false_alarm_interval=proportion_interval(false_alarms, len(real)),
                detection_rate=detections / len(fake),
                detection_interval=proportion_interval(detections, len(fake)),
            )
        )
    return tuple(points)


def proportion_interval(count: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Where a rate lies of which `count` in `total` were seen (Clopper & Pearson 1934: never too narrow).

    For a threshold taken from the same images its upper end is exact: the rate above the (k+1)-th highest of n scores
    has the distribution Beta(k+1, n−k).
    """
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, count, total - count + 1)) if count else 0.0
    high = float(beta.isf(tail, count + 1, total - count)) if count < total else 1.0
    return low, high
