"""Thresholds for given false-alarm rates; pure.

What a threshold gave on the data says little of other people, photographs or videos, so rates are bounded and tried
over groups: a point is supported only by as many independent real images as its rate needs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from ensemble.calibration import OperatingPoint
from forensics.common.arrays import Floats, Groups, Labels
from forensics.common.groups import count_groups, count_independent, resample
from forensics.common.metrics import CONFIDENCE, Estimate

FALSE_ALARM_RATES = (0.001, 0.01, 0.05, 0.1)
"""Those that are asked for where none are given."""


@dataclass(frozen=True)
class Support:
    """Whether the data support a false-alarm rate.

    Attributes:
        far: The rate that was asked for.
        needed: Independent real images that it needs (`images_needed`).
        independent: How many there are (`count_independent`).
        left_out: False alarms on real images of groups that neither the threshold nor the vote was fitted on, with the
            interval over groups; None where no group can be left out.
    """

    far: float
    needed: int
    independent: int
    left_out: Estimate | None

    @property
    def supported(self) -> bool:
        """Whether there is an operating point for it."""
        return self.independent >= self.needed


def images_needed(far: float) -> int:
    """Real images without which a false-alarm rate cannot be told from none: on average one of them is an alarm.

    They are independent ones. Where none of as many is an alarm, the rate can still be three times as high.
    """
    return int(np.ceil(1 / far - 1e-9))


def find_operating_points(
    labels: Labels,
    scores: Floats,
    rates: Sequence[float],
    *,
    resamples: int,
    seed: int = 0,
    groups: Groups | None = None,
) -> tuple[OperatingPoint, ...]:
    """The lowest thresholds that keep false alarms within given rates on labelled images.

    Args:
        labels: bool [N], True for fake.
        scores: float64 [N] in [0, 1]; an image counts as fake strictly above a threshold.
        rates: False-alarm rates, each above 0 and below 1.
        resamples: Of the bootstrap over groups of real images, for the thresholds' intervals.
        seed: Of its draws.
        groups: Of the images; None where all are independent.

    Returns:
        A point for each rate that has independent real images enough (`images_needed`), by rising rate.
    """
    real, fake = scores[~labels], scores[labels]
    independent_real, independent_fake = (count_independent(kind, groups) for kind in (~labels, labels))
    usable = [far for far in sorted(set(rates)) if independent_real >= images_needed(far)]
    resampled = np.array(
        [
            [_threshold(np.repeat(real, drawn.astype(np.int64)), far) for far in usable]
            for drawn in resample(labels[~labels], None if groups is None else groups[~labels], resamples, seed)
        ]
    )
    points = []
    for index, far in enumerate(usable):
        threshold = _threshold(real, far)
        false_alarms, detections = (real > threshold).mean(), (fake > threshold).mean()
        low, high = np.quantile(resampled[:, index], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        points.append(
            OperatingPoint(
                far=far,
                threshold=threshold,
                threshold_interval=(float(low), float(high)),
                false_alarm_rate=float(false_alarms),
                false_alarm_interval=proportion_interval(false_alarms * independent_real, independent_real),
                detection_rate=float(detections),
                detection_interval=proportion_interval(detections * independent_fake, independent_fake),
            )
        )
    return tuple(points)


def find_support(
    labels: Labels,
    rates: Sequence[float],
    left_out: Iterable[tuple[Labels, Floats]],
    groups: Groups | None = None,
) -> tuple[Support, ...]:
    """Whether the data support given rates, and what the rates become on groups left out.

    Args:
        labels: bool [N], True for fake.
        rates: False-alarm rates.
        left_out: Pairs of images left out, bool [N], and scores of all images by a vote fitted without those, float64
            [N] in [0, 1]. No group is on both sides.
        groups: Of the images; None where all are independent.

    Returns:
        One for each rate, by rising rate.
    """
    rates = sorted(set(rates))
    alarms: Mapping[float, list[bool]] = {far: [] for far in rates}
    seen = np.zeros(len(labels), np.bool_)
    for held, scores in left_out:
        known, held_real = ~held & ~labels, held & ~labels
        if known.any():
            seen |= held_real
            for far in rates:
                alarms[far] += (scores[held_real] > _threshold(scores[known], far)).tolist()
    independent, tried = (count_independent(kind, groups) for kind in (~labels, seen))
    return tuple(
        Support(
            far=far,
            needed=images_needed(far),
            independent=independent,
            left_out=_rate(alarms[far], tried) if count_groups(seen, groups) > 1 else None,
        )
        for far in rates
    )


def proportion_interval(count: float, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Where a rate lies of which `count` in `total` were seen (Clopper & Pearson 1934: never too narrow).

    For a threshold taken from the same images its upper end is exact: the rate above the (k+1)-th highest of n scores
    has the distribution Beta(k+1, n−k). Of images in groups, `total` is the number of independent ones and `count` a
    share of it, which need not be whole: shares of groups vary less than a count of as many images (Hoeffding 1956).
    """
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, count, total - count + 1)) if count > 0 else 0.0
    high = float(beta.isf(tail, count + 1, total - count)) if count < total else 1.0
    return low, high


def _threshold(real: Floats, far: float) -> float:
    """The lowest score of real images, float64 [n], above which at most the share `far` of them lies."""
    alarms = int(np.floor(far * len(real) + 1e-9))
    return float(np.partition(real, len(real) - 1 - alarms)[len(real) - 1 - alarms])


def _rate(alarms: Sequence[bool], independent: int) -> Estimate:
    value = float(np.mean(alarms))
    return Estimate(value, *proportion_interval(value * independent, independent))
