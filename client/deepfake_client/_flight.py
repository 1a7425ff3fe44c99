"""How many requests one server gets at once: TCP Vegas on latency, TCP Reno on answers that say "overloaded".

No clock and no network in here: times are those that the caller passes, in seconds.
"""

import math

_START = 4
"""Requests at once with which a server that nothing is known of begins."""

_QUEUED_LEAST, _QUEUED_MOST = 2.0, 4.0
"""Vegas' α and β: requests of ours that should wait in the server's queue, so that it is never idle, nor filled."""


class Flight:
    """The limit on the requests that are under way at one server.

    Of `limit` requests, `limit * (1 - least latency / latency)` wait in the server's queue. The limit grows while these
    are few and shrinks while they are many: it comes to rest a little above what the server works on at once, and
    latency alone never takes it below `_QUEUED_MOST`. It is halved, at most once for all that was sent before, where
    the server is overloaded or an answer took more than half of its deadline.
    """

    def __init__(self, most: int) -> None:
        """Begins.

        Args:
            most: Upper bound of the limit, at least 1.
        """
        self._most = most
        self._limit = float(min(most, _START))
        self._least = math.inf
        self._images = 0
        self._probing = True  # Reno's slow start: one more for each answer, until the first sign of a queue
        self._halved = -math.inf

    @property
    def limit(self) -> int:
        """Requests that may be under way at once, 1 to `most`."""
        return int(self._limit)

    def answered(self, started: float, now: float, *, deadline: float, in_flight: int, images: int = 1) -> None:
        """Notes an answer. Only the largest requests are compared: a small one is quick however busy the server is.

        Args:
            started: When its request was sent.
            now: When it came.
            deadline: Seconds after which the request would have been given up.
            in_flight: Requests that were under way, this one included.
            images: Images in the request.
        """
        latency = now - started
        if latency > deadline / 2:
            self.overloaded(started, now)
            return
        if images < self._images:
            return
        if images > self._images:
            self._images, self._least = images, math.inf
        self._least = min(self._least, latency)
        queued = self._limit * (1 - self._least / latency) if latency > 0 else 0.0
        if queued >= _QUEUED_LEAST:
            self._probing = False
        step = 1.0 if self._probing else 1 / self._limit
        if queued > _QUEUED_MOST:
            self._limit = max(1.0, self._limit - step)
        elif queued < _QUEUED_LEAST and 2 * in_flight >= self._limit:  # a limit that is not used tells nothing
            self._limit = min(float(self._most), self._limit + step)

    def overloaded(self, started: float, now: float) -> None:
        """Notes that a request was turned away, or not answered in time; arguments as for `answered`."""
        if started < self._halved:
            return
        self._limit = max(1.0, self._limit / 2)
        self._probing = False
        self._halved = now
