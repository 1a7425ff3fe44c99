"""How long a request is tried, and how long it waits in between. The clients sleep and send."""

import random
import time
from collections.abc import Callable
from typing import Any

from ..errors import DetectorError, FailureKind, failure_kind, is_retryable
from .balancer import Balancer
from .request_state import RequestState

_RESTART_SECONDS = 60.0
"""A request that got no answer is sent again for at least this long: a supervised server is back by then."""


class RetryPolicy:
    """The tries of one request: at once at a server that has not failed it, and after a while at all of them again."""

    def __init__(
        self,
        balancer: Balancer,
        state: RequestState,
        retries: int,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins with the first try.

        Args:
            balancer: Knows the servers.
            state: The way of the request.
            retries: Times that it waits.
            timeout: Seconds that it may wait for servers that are overloaded.
            clock: Tells the time in seconds.
        """
        self._balancer = balancer
        self._state = state
        self._retries = retries
        self._timeout = timeout
        self._clock = clock
        self._started = clock()
        self._waits = self._turned_away = 0

    def goes_on(self, error: BaseException) -> bool:
        """Whether the request is sent again."""
        if not isinstance(error, DetectorError) or failure_kind(error) is FailureKind.REQUEST or self._state.killed:
            return False
        if self._balancer.has_other(self._state):
            return True
        if not any(is_retryable(each) for each in (error, *self._state.tried.values())):
            return False
        waited = self._clock() - self._started
        match failure_kind(error):
            case FailureKind.OVERLOADED if self._retries:
                self._turned_away += 1
                return waited < self._timeout
            case FailureKind.TIMEOUT if self._waits and waited >= _RESTART_SECONDS:
                # With a deadline of minutes, ten tries would hold a run up for an hour over one request.
                return False
            case _:
                return self._waits - self._turned_away < self._retries

    def pause(self) -> float:
        """Seconds until it is sent again: exponential from 0.5 to 8, with up to one more of jitter."""
        if self._balancer.has_other(self._state):
            return 0.0
        self._state.tried.clear()
        self._waits += 1
        return min(0.25 * 2.0**self._waits, 8.0) + random.random()

    def tenacity(self) -> dict[str, Any]:
        """The same as tenacity's settings."""
        return {
            "retry": lambda state: state.outcome.failed and self.goes_on(state.outcome.exception()),
            "wait": lambda state: self.pause(),
            "reraise": True,
        }
