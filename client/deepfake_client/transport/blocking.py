"""How the blocking client sends a call: to which server, how often, and what it learns from it."""

import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from tenacity import Retrying, sleep_using_event, stop_when_event_set
from tritonclient.utils import InferenceServerException

from ..balancing.addresses import resolve
from ..balancing.balancer import Balancer
from ..balancing.request_state import RequestState, Server
from ..balancing.retries import RetryPolicy
from ..errors import DetectorError, is_unavailable
from ..results import Provenance
from .calls import PROBE_INTERVAL, PROBE_SECONDS, Call, explain_absence, probe_call, provenance_call
from .channels import ChannelPool
from .early_timeout import infer
from .flows import Flow
from .settings import ClientBase

T = TypeVar("T")


class BlockingCalls(ClientBase):
    """The connections of a blocking client, and the way of each call through them. Threads may share it."""

    _shared: ChannelPool | None = None
    _fleet: Balancer | None = None
    _connecting = threading.Lock()

    @property
    def _balancer(self) -> Balancer:
        with self._connecting:
            if self._fleet is None:
                self._fleet = Balancer(resolve(self._settings.urls), self._settings.max_in_flight)
            return self._fleet

    @property
    def _channels(self) -> ChannelPool:
        with self._connecting:
            if self._shared is None:
                self._shared = ChannelPool(self._settings)
            return self._shared

    def _run(self, flow: Flow[T], channels: ChannelPool | None = None, stop: threading.Event | None = None) -> T:
        """What a flow comes to; its calls go through `channels`, or those of the client."""
        channels = channels or self._channels
        try:
            ask = next(flow)
            while True:
                try:
                    result = self._retry(channels, ask.call, ask.state, stop, ask.retries)
                except DetectorError as error:
                    ask = flow.throw(error)
                else:
                    ask = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    def _retry(
        self,
        channels: ChannelPool,
        call: Call[T],
        state: RequestState,
        stop: threading.Event | None = None,
        retries: int | None = None,
    ) -> T:
        balancer = self._balancer
        retries = self._settings.retries if retries is None else retries
        policy = RetryPolicy(balancer, state, retries, self._settings.timeout).tenacity()
        if stop is not None:
            policy |= {"sleep": sleep_using_event(stop), "stop": stop_when_event_set(stop)}
        try:
            result: T = Retrying(**policy)(self._try, channels, call, state, stop)
        except DetectorError as error:
            raise balancer.explain(error, state) from error
        finally:
            balancer.release(state)
        return result

    def _try(self, channels: ChannelPool, call: Call[T], state: RequestState, stop: threading.Event | None) -> T:
        balancer = self._balancer
        self._watch_servers()
        with balancer.room:
            while (server := balancer.pick(state)) is None:
                if stop is not None and stop.is_set():
                    raise CancelledError
                balancer.room.wait(PROBE_INTERVAL)
                self._watch_servers()
        with balancer.request(server, state, call.timeout, scores=call.scores, images=call.images):
            try:
                return self._send(channels, server, call, state)
            except DetectorError:
                if stop is not None and stop.is_set():  # its connection was closed on purpose
                    raise CancelledError from None
                raise

    def _send(self, channels: ChannelPool, server: Server, call: Call[T], state: RequestState | None = None) -> T:
        early_timeout = partial(self._balancer.early_timeout, server, state, call.timeout)
        client = channels.to(server.address, pixels=call.pixels)
        try:
            if call.scores and self._balancer.several:
                response: Any = infer(client, call.arguments, call.timeout, early_timeout)
            else:
                response = getattr(client, call.method)(**call.arguments, client_timeout=call.timeout)
        except InferenceServerException as error:
            explained = call.failure(error, server.address, early_timeout())
            if explained is None:
                return None  # type: ignore[return-value]
            if not server.seen and is_unavailable(explained):
                explained = explain_absence(server.address, self._settings) or explained
            raise explained from error
        result = call.parse(response)
        return result if call.label is None else call.label(result, self._weights_of(channels, server))

    def _weights_of(self, channels: ChannelPool, server: Server) -> Provenance | None:
        if server.weights is None:
            with suppress(DetectorError):  # it is asked again with the next request
                server.weights = self._send(channels, server, provenance_call(self._settings))
        return server.weights

    def _watch_servers(self) -> None:
        for server in self._balancer.start_probes():
            threading.Thread(target=self._probe, args=(server,), daemon=True).start()
        for url in self._balancer.start_look_ups():
            threading.Thread(target=self._look_up, args=(url,), daemon=True).start()

    def _look_up(self, url: str) -> None:
        self._balancer.update(url, resolve([url]))

    def _probe(self, server: Server) -> None:
        balancer = self._balancer
        self._look_up(server.address.url)
        failure: DetectorError | None = None
        try:
            self._send(self._channels, server, probe_call(self._settings, PROBE_SECONDS))
        except DetectorError as error:
            failure = error
        except ValueError:  # the client was closed
            return
        balancer.probed(server, failure)
