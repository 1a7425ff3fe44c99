"""How the asyncio client sends a call: to which server, how often, and what it learns from it."""

import asyncio
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, TypeVar

from tenacity import AsyncRetrying
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ..balancing.addresses import Address, resolve
from ..balancing.balancer import Balancer
from ..balancing.request_state import RequestState, Server
from ..balancing.retries import RetryPolicy
from ..errors import DetectorError, is_unavailable
from ..results import Provenance
from .calls import PROBE_INTERVAL, PROBE_SECONDS, Call, explain_absence, probe_call, provenance_call
from .early_timeout import ainfer
from .flows import Flow
from .settings import ClientBase

T = TypeVar("T")


class AsyncCalls(ClientBase):
    """The connections of an asyncio client, and the way of each call through them. It is for one event loop."""

    _fleet: Balancer | None = None

    @cached_property
    def _channels(self) -> dict[tuple[Address, bool], InferenceServerClient]:
        return {}

    @cached_property
    def _room(self) -> asyncio.Event:
        return asyncio.Event()

    @cached_property
    def _watching(self) -> set[asyncio.Task[None]]:
        return set()

    async def _balancer(self) -> Balancer:
        if self._fleet is None:
            addresses = await asyncio.to_thread(resolve, self._settings.urls)
            if self._fleet is None:  # two may have waited
                self._fleet = Balancer(addresses, self._settings.max_in_flight, on_room=self._room.set)
        return self._fleet

    async def _run(self, flow: Flow[T]) -> T:
        """What a flow comes to."""
        try:
            ask = next(flow)
            while True:
                try:
                    result = await self._retry(ask.call, ask.state, ask.retries)
                except DetectorError as error:
                    ask = flow.throw(error)
                else:
                    ask = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _retry(self, call: Call[T], state: RequestState, retries: int | None = None) -> T:
        balancer = await self._balancer()
        retries = self._settings.retries if retries is None else retries
        policy = RetryPolicy(balancer, state, retries, self._settings.timeout).tenacity()
        try:
            result: T = await AsyncRetrying(**policy)(self._try, balancer, call, state)
        except DetectorError as error:
            raise balancer.explain(error, state) from error
        finally:
            balancer.release(state)
        return result

    async def _try(self, balancer: Balancer, call: Call[T], state: RequestState) -> T:
        self._watch_servers(balancer)
        while (server := balancer.pick(state)) is None:
            self._room.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), PROBE_INTERVAL)
            self._watch_servers(balancer)
        with balancer.request(server, state, call.timeout, scores=call.scores, images=call.images):
            return await self._send(balancer, server, call, state)

    async def _send(self, balancer: Balancer, server: Server, call: Call[T], state: RequestState | None = None) -> T:
        address, kind = server.address, (server.address, call.pixels)
        if kind not in self._channels:  # made on first use: a channel belongs to the event loop that is running then
            self._channels[kind] = InferenceServerClient(**self._settings.channel(address, pixels=call.pixels))
        client, early_timeout = self._channels[kind], partial(balancer.early_timeout, server, state, call.timeout)
        try:
            if call.scores and balancer.several:
                response: Any = await ainfer(client, call.arguments, call.timeout, early_timeout)
            else:
                response = await getattr(client, call.method)(**call.arguments, client_timeout=call.timeout)
        except InferenceServerException as error:
            explained = call.failure(error, address, early_timeout())
            if explained is None:
                return None  # type: ignore[return-value]
            if not server.seen and is_unavailable(explained):
                reason = await asyncio.to_thread(explain_absence, address, self._settings)
                explained = reason or explained
            raise explained from error
        result = call.parse(response)
        return result if call.label is None else call.label(result, await self._weights_of(balancer, server))

    async def _weights_of(self, balancer: Balancer, server: Server) -> Provenance | None:
        if server.weights is None:
            with suppress(DetectorError):  # it is asked again with the next request
                server.weights = await self._send(balancer, server, provenance_call(self._settings))
        return server.weights

    def _watch_servers(self, balancer: Balancer) -> None:
        probes = [self._probe(balancer, server) for server in balancer.start_probes()]
        look_ups = [self._look_up(balancer, url) for url in balancer.start_look_ups()]
        for each in (*probes, *look_ups):
            task = asyncio.create_task(each)
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)

    async def _look_up(self, balancer: Balancer, url: str) -> None:
        balancer.update(url, await asyncio.to_thread(resolve, [url]))

    async def _probe(self, balancer: Balancer, server: Server) -> None:
        await self._look_up(balancer, server.address.url)
        failure: DetectorError | None = None
        try:
            await self._send(balancer, server, probe_call(self._settings, PROBE_SECONDS))
        except DetectorError as error:
            failure = error
        balancer.probed(server, failure)
