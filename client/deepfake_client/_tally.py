"""Counts of a run, and its summary."""

import math
import time
from collections import Counter

import click

from ._results import Verdict
from ._status import explain


class Tally:
    """Counts verdicts as they come."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._verdicts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._first_error: dict[str, str] = {}
        self._latencies = Latencies()

    def add(self, verdict: Verdict) -> None:
        """Counts one verdict."""
        if verdict.seconds is not None:
            self._latencies.add(verdict.seconds)
        if verdict.verdict is not None:
            self._verdicts[verdict.verdict] += 1
        else:
            self._failures[verdict.status] += 1
            self._first_error.setdefault(verdict.status, verdict.error or explain(verdict.status))

    @property
    def total(self) -> int:
        """Images that have a row."""
        return self._verdicts.total() + self.failed

    @property
    def failed(self) -> int:
        """Images that could not be scored."""
        return self._failures.total()

    def summary(self) -> str:
        """A line of counts and speed, one of latencies, one for each kind of failure with its reason or its fix."""
        seconds = time.monotonic() - self._started
        scored = self._verdicts.total()
        line = f"scored {scored} of {self.total} images in {seconds:.1f} s ({scored / max(seconds, 1e-9):.1f} images/s)"
        if self._verdicts:
            line += ": " + _list(self._verdicts)
        if self._failures:
            line += "; not scored: " + _list(self._failures)
        reasons = (f"  {s}: {click.format_filename(text)}" for s, text in self._first_error.items() if s != text)
        p50, p95 = self._latencies.quantile(0.5), self._latencies.quantile(0.95)
        latency = [f"  time of an image's request: p50 {p50:.3g} s, p95 {p95:.3g} s"] if p50 and p95 else []
        return "\n".join((line, *latency, *reasons))


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


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
