"""How many requests one server gets at once: as many as it takes for throughput to stop growing with them.

By Little's law, throughput is requests in flight divided by latency. So twice the requests give twice the throughput
where latency stays the same, and none more where latency doubles too: they wait in the server's queue. How latency
answers to a change of ours is all that counts here, not how long it is. A least latency, as in TCP Vegas and BBR,
cannot tell a queue from images that take longer or a server that has become slower: the limit stayed near 4 for them.

- Two limits take turns and are compared, as by PCC Vivace (Dong et al., NSDI 2018).
- What is sought is the most of throughput ^ p / latency, Kleinrock's generalised power.
- Where an answer says "overloaded", the limit is halved, as by TCP Reno.

No clock and no network in here: times are those that the caller passes, in seconds.
"""

import math
from dataclasses import dataclass

_START = 4
"""Requests at once with which a server that nothing is known of begins."""

_LEAST = 2.0
"""Latency alone never takes the limit below this: one slow image would hold up all others."""

_SHARE = 0.7
"""Part of a growth in requests that may be found again in latency: p / (p + 1), with p = 7/3."""

_GAIN = 0.3
"""How far one comparison moves the limit. What is measured is noisy: the mean of many small steps is what counts."""

_FULL, _FULL_AT_MOST = 6, 24
"""Windows with the whole limit for each one with half of it; the second number where it is at its upper bound."""

_ROUNDS, _ROUNDS_RISING, _LEAST_ANSWERS = 4, 3, 8
"""How long a window is: answers for each request in flight, the same while the limit still doubles, and at least."""

_CERTAIN = 3.0
"""Standard errors by which latency must have grown for the limit to stop doubling."""


@dataclass
class _Window:
    """Latencies of the requests that were sent, and answered, under one limit.

    Their logarithms are taken: then the few images that take 50 times as long do not hide what the others tell.
    """

    limit: int
    since: float
    answers: int = 0
    peak: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / self.answers

    @property
    def error(self) -> float:
        """Square of the standard error of the mean."""
        return max(0.0, self.squares / self.answers - self.mean**2) / self.answers

    def add(self, latency: float, in_flight: int) -> None:
        logarithm = math.log(max(latency, 1e-9))
        self.answers += 1
        self.peak = max(self.peak, in_flight)
        self.total += logarithm
        self.squares += logarithm**2


class ConcurrencyLimit:
    """The limit on the requests that are under way at one server.

    It doubles, window by window, until latency grows with it. From then on it is the whole of `_level` for some
    windows and half of it for one, and `_level` grows while less than `_SHARE` of the difference is found in latency.
    For a server that works on n at once, it comes to rest at about 1.4 n. It is halved, at most once for all that was
    sent before, where the server is overloaded or an answer took more than half of its deadline.
    """

    def __init__(self, most: int) -> None:
        """Begins.

        Args:
            most: Upper bound of the limit, at least 1.
        """
        self._most = most
        self._level = float(min(most, _START))
        self._window = _Window(int(self._level), -math.inf)
        self._other: _Window | None = None  # what the present window is compared with
        self._rising = True
        self._turn = 0  # 0 is that of the half
        self._images = 0
        self._halved = -math.inf

    @property
    def limit(self) -> int:
        """Requests that may be under way at once, 1 to `most`."""
        return self._window.limit

    def answered(self, started: float, now: float, *, deadline: float, in_flight: int, images: int = 1) -> None:
        """Notes an answer.

        Args:
            started: When its request was sent.
            now: When it came.
            deadline: Seconds after which the request would have been given up.
            in_flight: Requests that were under way, this one included.
            images: Images in the request. Larger ones than ever make what was measured before worthless.
        """
        if now - started > deadline / 2:
            self.overloaded(started, now)
            return
        if images > self._images:
            self._images, self._other = images, None
            self._window = _Window(self.limit, self._window.since)
        if started < self._window.since:
            return
        self._window.add(now - started, in_flight)
        rounds = _ROUNDS_RISING if self._rising else _ROUNDS
        if self._window.answers >= max(_LEAST_ANSWERS, rounds * self.limit):
            self._window = _Window(self._next(self._window, self._other), now)

    def overloaded(self, started: float, now: float) -> None:
        """Notes that a request was turned away, or not answered in time; arguments as for `answered`."""
        if started < self._halved:
            return
        self._level = max(1.0, min(self._level, self.limit) / 2)
        self._rising, self._turn, self._other, self._halved = False, _FULL_AT_MOST, None, now
        self._window = _Window(int(self._level), now)

    def _next(self, window: _Window, other: _Window | None) -> int:
        """The limit after a window that is over."""
        share, certain = None, False
        if other is not None and other.limit != window.limit:
            smaller, larger = sorted((window, other), key=lambda window: window.limit)
            if larger.peak > smaller.limit:  # a limit that is not used tells nothing
                change = larger.mean - smaller.mean
                share = change / math.log(larger.limit / smaller.limit)
                certain = change > _CERTAIN * math.sqrt(larger.error + smaller.error)
        if self._rising:
            stop = share is not None and share > _SHARE and certain
            if not stop and window.limit < self._most:
                if share is None and (other is not None or 2 * window.peak < window.limit):
                    return window.limit
                self._other = window
                self._level = float(min(self._most, 2 * window.limit))
                return int(self._level)
            self._rising, self._other, self._turn = False, window, 0
            self._level *= math.sqrt(0.5) if stop else 1.0
        else:
            if share is not None:
                step = _GAIN * max(-0.75, min(0.75, _SHARE - share))
                least = min(_LEAST, self._level)
                self._level = max(least, min(float(self._most), self._level * math.exp(step)))
            full = _FULL if self._level < self._most else _FULL_AT_MOST
            # No queue explains this: has the server become slower, or faster, since the half was measured?
            again = self._turn > 0 and share is not None and abs(share) > 1
            following = 0 if again or self._turn >= full else self._turn + 1
            if 0 in (self._turn, following):
                self._other = window
            self._turn = following
        half = max(int(min(_LEAST, self._level)), round(self._level / 2))
        return half if self._turn == 0 else min(self._most, max(half + 1, round(self._level)))
