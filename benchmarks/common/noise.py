"""What is a difference, and what is noise: intervals and tests on the few rounds that a benchmark has."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

_RESAMPLES = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with its interval of 95 %."""

    value: float
    low: float
    high: float


def ratio_of_medians(over: Sequence[float], under: Sequence[float], *, paired: bool) -> Interval:
    """One median over the other, with the bootstrap's percentile interval.

    Args:
        over: Rounds, above 0.
        under: Rounds, above 0.
        paired: Whether round i of both was measured side by side; they are drawn together then.
    """
    value = float(np.median(over) / np.median(under))
    if min(len(over), len(under)) < 2:
        return Interval(value, value, value)
    drawn = stats.bootstrap(
        (over, under),
        _ratio,
        n_resamples=_RESAMPLES,
        vectorized=True,
        paired=paired,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(value, float(drawn.low), float(drawn.high))


def chance(one: Sequence[float], other: Sequence[float]) -> float:
    """How likely rounds so far apart are where nothing differs: Student's t-test, two-sided.

    A test of ranks alone says 3 % at best of four rounds against four, which is much where many figures are looked at.
    """
    freedom = len(one) + len(other) - 2
    apart = float(np.mean(one) - np.mean(other))
    variance = (np.var(one) * len(one) + np.var(other) * len(other)) / freedom
    if variance == 0:  # no noise to hold a difference against
        return float(apart == 0)
    t = apart / np.sqrt(variance * (1 / len(one) + 1 / len(other)))
    return float(2 * special.stdtr(freedom, -abs(t)))


def corrected(chances: Sequence[float]) -> list[float]:
    """Chances by Holm's method: that of any of these figures seeming to differ stays below what one is held to."""
    found = [0.0] * len(chances)
    largest = 0.0
    for rank, place in enumerate(np.argsort(chances)):
        largest = max(largest, min(1.0, chances[place] * (len(chances) - rank)))
        found[place] = largest
    return found


def _ratio(over: npt.NDArray[np.float64], under: npt.NDArray[np.float64], axis: int = -1) -> npt.NDArray[np.float64]:
    return np.asarray(np.median(over, axis=axis) / np.median(under, axis=axis), np.float64)
