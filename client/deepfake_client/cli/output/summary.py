"""Counts of a run, and its summary."""

import time
from collections import Counter
from collections.abc import Sequence

from ...early import EarlyVerdict
from ...results import STREAM_NAMES, ServerStatus, Verdict
from ...status import explain
from ...text import printable


class RunSummary:
    """Counts verdicts as they come."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._verdicts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._first_error: dict[str, str] = {}
        self._copies = 0
        self._left_out: Counter[str] = Counter()  # by stream: images that it was not asked about

    def add(self, verdict: Verdict) -> None:
        """Counts one verdict."""
        if verdict.verdict is not None:
            self._verdicts[verdict.verdict] += 1
            if isinstance(verdict, EarlyVerdict):
                self._left_out.update(set(STREAM_NAMES).difference(verdict.streams_run))
        else:
            self._failures[verdict.status] += 1
            self._first_error.setdefault(verdict.status, verdict.error or explain(verdict.status))

    def add_copy(self) -> None:
        """Counts an image that was not sent, because another of equal content was; its verdict counts as others do."""
        self._copies += 1

    @property
    def total(self) -> int:
        """Images that have a row."""
        return self._verdicts.total() + self.failed

    @property
    def failed(self) -> int:
        """Images that could not be scored."""
        return self._failures.total()

    def text(self, servers: Sequence[ServerStatus] = ()) -> str:
        """A line of counts and speed, one for each server, one for each kind of failure with its reason or its fix."""
        seconds = time.monotonic() - self._started
        scored = self._verdicts.total()
        line = f"scored {scored} of {self.total} images in {seconds:.1f} s ({scored / max(seconds, 1e-9):.1f} images/s)"
        if self._verdicts:
            line += ": " + _list(self._verdicts)
        if self._failures:
            line += "; not scored: " + _list(self._failures)
        saved = [
            f"  {name} was not needed for {count} of {scored} images ({count / scored:.0%})"
            for name, count in self._left_out.items()
        ]
        if self._copies:
            saved.append(f"  {self._copies} of {self.total} images were copies of others and were not sent again")
        reasons = (f"  {s}: {printable(text)}" for s, text in self._first_error.items() if s != text)
        return "\n".join((line, *saved, *map(_describe, servers), *reasons))


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _describe(server: ServerStatus) -> str:
    line = f"  requests to {server.address}: {server.answered} answered"
    if server.p50 is not None and server.p95 is not None:
        line += f", p50 {server.p50:.3g} s, p95 {server.p95:.3g} s"
    return line + (f"; {server.failed} failed" if server.failed else "")
