"""Which server gets the next request. It sends none: the clients do, and tell it how they ended."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count

from ..errors import (
    ConnectionLostError,
    DetectorError,
    FailureKind,
    ServerDiedError,
    all_servers_failed,
    failure_kind,
    is_unavailable,
)
from ..results import ServerStatus
from .addresses import Address, is_name
from .concurrency import ConcurrencyLimit
from .request_state import RequestState, Server

_log = logging.getLogger("deepfake_client")

EARLY_TIMEOUT = 30.0
"""Where there are other servers, seconds after which a request may be given up before its deadline and sent to one."""

LOOK_UP_SECONDS = 30.0
"""While requests are sent, names are looked up so often: servers come and go."""

_EARLY_TIMEOUT_FACTOR = 8
"""It is given up so only after this many times the longest that any answer has taken."""


class Balancer:
    """Spreads requests by least in flight, and leaves out servers that fail. Threads may share it."""

    def __init__(
        self,
        addresses: Sequence[Address],
        max_in_flight: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        """Begins with all servers in.

        Args:
            addresses: The servers, at least one.
            max_in_flight: Most requests that one of them gets at once.
            clock: Tells the time in seconds.
            on_room: Called when a server that was picked may be picked again. `room` is notified as well.
        """
        self.room = threading.Condition()
        self._max_in_flight = max_in_flight
        self._clock = clock
        self._on_room = on_room
        self._order = count()
        self._slowest = 0.0
        self._looked_up = clock()
        self._servers = [self._server(address) for address in addresses]

    def pick(self, state: RequestState) -> Server | None:
        """The server for a request, which is then under way there; None where it must wait for room.

        Servers that have failed this request come last. One that is out is picked only where all are: a request is
        better tried than failed.
        """
        with self.room:
            inside = self._inside()
            candidates = [server for server in inside if server not in state.tried] or inside
            if state.deaths:
                server = self._reserve(candidates, state)
            else:
                if not state.light:
                    candidates = [server for server in candidates if server.reserved is None]
                if state.bounded:
                    candidates = [server for server in candidates if server.has_room]
                server = _idlest(candidates)
            if server is not None:
                server.in_flight += 1
                server.picked = next(self._order)
            return server

    @contextmanager
    def request(
        self, server: Server, state: RequestState, deadline: float, *, scores: bool, images: int = 0
    ) -> Iterator[None]:
        """Goes around one request to a server that was picked, and learns from how it ends.

        Args:
            server: Where it goes.
            state: Its way.
            deadline: Seconds after which it is given up.
            scores: Whether it asks for scores: only these tell that a server is well.
            images: Images in it, whose scores tell how busy the server is; 0 where they do not.
        """
        started = self._clock()
        try:
            yield
        except DetectorError as error:
            with self._ended(server, state):
                if failure_kind(error) is FailureKind.REQUEST:
                    self._answered(server, started, deadline, scores, 0)
                else:
                    state.deaths += scores and isinstance(error, ConnectionLostError)
                    self._failed(server, state, started, error)
            raise
        except BaseException:  # the caller has given it up, which says nothing about the server
            with self._ended(server, state):
                raise
        else:
            with self._ended(server, state):
                self._answered(server, started, deadline, scores, images)

    @property
    def limit(self) -> int:
        """Requests that may be under way at once at all servers together, at present."""
        with self.room:
            return sum(server.concurrency.limit for server in self._servers)

    @property
    def several(self) -> bool:
        """Whether there are other servers than one."""
        return len(self._servers) > 1

    def early_timeout(self, server: Server, state: RequestState | None, timeout: float) -> float:
        """Seconds to wait for an answer: the deadline, less where a server that has not failed it could be faster.

        Without a state, as for a test image, there is no other to send it to.
        """
        with self.room:
            others = [other for other in self._servers if other.breaker.closed and other is not server]
            if state is not None and self._slowest and any(other not in state.tried for other in others):
                return min(timeout, max(EARLY_TIMEOUT, _EARLY_TIMEOUT_FACTOR * self._slowest))
            return timeout

    def has_other(self, state: RequestState) -> bool:
        """Whether a server is left that has not failed this request since it last waited."""
        with self.room:
            return any(server not in state.tried for server in self._inside())

    def release(self, state: RequestState) -> None:
        """Lets others to the server that a request has for itself, once it is over."""
        with self.room:
            for server in self._servers:
                if server.reserved is state:
                    server.reserved = None
            self.room.notify_all()
        self._on_room()

    def explain(self, error: DetectorError, state: RequestState) -> DetectorError:
        """The error for a request that is given up: where no server answers, it says of each why."""
        if state.killed:
            return ServerDiedError(f"the server died {state.deaths} times while it had this image: {error}")
        with self.room:
            reasons = {str(server.address): server.error for server in self._servers if server.error is not None}
            return (
                all_servers_failed(reasons, len(self._servers)) if is_unavailable(error) and len(reasons) > 1 else error
            )

    def start_probes(self) -> list[Server]:
        """The servers that are to be probed now; a lone one is not, because it gets all requests anyway."""
        with self.room:
            now = self._clock()
            several = len(self._servers) > 1
            return [server for server in self._servers if several and server.breaker.start_probe(now)]

    def probed(self, server: Server, error: DetectorError | None) -> None:
        """Notes how a probe ended."""
        with self.room:
            if error is None:
                self._is_well(server)
                self.room.notify_all()
            else:
                server.error = error
                server.breaker.probe_failed(self._clock())
        self._on_room()

    def start_look_ups(self) -> list[str]:
        """The addresses whose names are to be looked up now."""
        with self.room:
            now = self._clock()
            if now < self._looked_up + LOOK_UP_SECONDS:
                return []
            self._looked_up = now
            return [url for url in dict.fromkeys(server.address.url for server in self._servers) if is_name(url)]

    def update(self, url: str, addresses: Sequence[Address]) -> None:
        """Takes in what the name in an address stands for now: new servers come in, those that are gone leave."""
        with self.room:
            known = {server.address: server for server in self._servers if server.address.url == url}
            if len(known) > 1 and [address.target for address in addresses] == [url]:
                # The name is not known now, or has one address only: no reason to lose servers that answer, and those
                # that do not are left out anyway. What the name leads to is tried where none of them is in.
                lost = not any(server.breaker.closed for server in known.values())
                addresses = [*known, *(addresses if lost and addresses[0] not in known else ())]
            place = next((n for n, server in enumerate(self._servers) if server.address.url == url), 0)
            servers = [server for server in self._servers if server.address.url != url]
            servers[place:place] = [known.get(address) or self._server(address) for address in addresses]
            self._servers = servers

    def status(self) -> tuple[ServerStatus, ...]:
        """What is known of each server."""
        with self.room:
            return tuple(
                ServerStatus(
                    address=str(server.address),
                    available=server.breaker.closed,
                    in_flight=server.in_flight,
                    limit=server.concurrency.limit,
                    answered=server.answered,
                    failed=server.failed,
                    error=None if server.error is None else str(server.error),
                    p50=server.latencies.quantile(0.5),
                    p95=server.latencies.quantile(0.95),
                )
                for server in self._servers
            )

    @contextmanager
    def _ended(self, server: Server, state: RequestState) -> Iterator[None]:
        with self.room:
            try:
                yield
            finally:
                server.in_flight -= 1
                if server.reserved is state:
                    server.reserved = None
                self.room.notify_all()
        self._on_room()

    def _server(self, address: Address) -> Server:
        return Server(address, ConcurrencyLimit(self._max_in_flight))

    def _reserve(self, candidates: Sequence[Server], state: RequestState) -> Server | None:
        """A server for a request alone: no other is sent to it from now on, and it is picked when the last one ends."""
        server = next((each for each in candidates if each.reserved is state), None)
        if server is None:
            for each in self._servers:
                if each.reserved is state:
                    each.reserved = None
            server = _idlest([each for each in candidates if each.reserved is None])
            if server is not None:
                server.reserved = state
        return server if server is not None and not server.in_flight else None

    def _inside(self) -> list[Server]:
        return [server for server in self._servers if server.breaker.closed] or self._servers

    def _answered(self, server: Server, started: float, deadline: float, scores: bool, images: int) -> None:
        server.seen = True
        if not scores:
            return
        now = self._clock()
        self._slowest = max(self._slowest, now - started)
        if images:
            server.concurrency.answered(started, now, deadline=deadline, in_flight=server.in_flight, images=images)
        server.latencies.add(now - started)
        server.answered += 1
        self._is_well(server)

    def _failed(self, server: Server, state: RequestState, started: float, error: DetectorError) -> None:
        now = self._clock()
        server.failed += 1
        server.error = error
        state.tried[server] = error
        fault = failure_kind(error)
        if fault in (FailureKind.OVERLOADED, FailureKind.TIMEOUT):
            server.concurrency.overloaded(started, now)
        if fault is FailureKind.OVERLOADED:
            return
        server.weights = None
        was_in = server.breaker.closed
        server.breaker.failed(now, certain=fault is FailureKind.UNAVAILABLE)
        if was_in and not server.breaker.closed and len(self._servers) > 1:
            _log.warning("%s is left out until it scores a test image: %s", server.address, error)

    def _is_well(self, server: Server) -> None:
        if not server.breaker.closed and len(self._servers) > 1:
            _log.warning("%s scores again", server.address)
        server.seen = True
        server.breaker.succeeded()
        server.error = None


def _idlest(servers: Sequence[Server]) -> Server | None:
    return min(servers, key=lambda server: (server.in_flight, server.picked), default=None)
