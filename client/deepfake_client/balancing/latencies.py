"""Quantiles of times, in constant memory."""

import math
from collections import Counter


class Latencies:
    """Quantiles of any number of times, within 1 %: counts of them in steps of 2 %."""

    _STEP = math.log(1.02)

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Counts one; less than a microsecond is taken as one."""
        self._counts[round(math.log(max(seconds, 1e-6)) / self._STEP)] += 1

    def quantile(self, share: float) -> float | None:
        """The time in seconds that this share of all, 0 to 1, were within; None where there are none."""
        left = share * self._counts.total()
        for step, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return math.exp(step * self._STEP)
        return None
