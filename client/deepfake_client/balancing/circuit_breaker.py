"""Circuit breaker: when a server is left out, and when it is tried again. Times are passed in, in seconds."""

_FAILURES = 3
"""Failures in a row, of any request, after which a server is left out; one alone may be the image's fault."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
"""A server that is left out is probed after the first pause; each probe that fails doubles it, up to the longest."""


class CircuitBreaker:
    """Closed: the server gets requests. Open: it gets none. Half open: one probe is under way, which decides."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause = _FIRST_PAUSE
        self._due: float | None = None
        self._probing = False

    @property
    def closed(self) -> bool:
        """Whether the server gets requests."""
        return self._due is None

    def succeeded(self) -> None:
        """Notes a real inference that succeeded: the server is back."""
        self._failures = 0
        self._pause = _FIRST_PAUSE
        self._due = None
        self._probing = False

    def failed(self, now: float, *, certain: bool) -> None:
        """Notes a request that failed.

        Args:
            now: When.
            certain: Whether the next request will fail as well, as where nothing listens at the address.
        """
        self._failures += 1
        if self._due is None and (certain or self._failures >= _FAILURES):
            self._due = now + self._pause

    def start_probe(self, now: float) -> bool:
        """Whether it is time for a probe; if so, the caller sends one and reports how it ended."""
        if self._due is None or self._probing or now < self._due:
            return False
        self._probing = True
        return True

    def probe_failed(self, now: float) -> None:
        """Notes that a probe failed."""
        if self._due is not None:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._due = now + self._pause
            self._probing = False
