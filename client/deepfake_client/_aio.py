"""The asyncio client."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import suppress
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self, TypeVar

from tenacity import AsyncRetrying
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ._addresses import Address, resolve
from ._balancer import Balancer, Route, Server
from ._budget import BYTES, AsyncBudget
from ._calibration import Calibration
from ._calls import (
    PROBE_INTERVAL,
    PROBE_SECONDS,
    Call,
    calibration_call,
    max_batch_size_call,
    max_bytes_call,
    metadata_call,
    not_ready,
    polling,
    probe_call,
    provenance_call,
    score_call,
)
from ._errors import (
    AccessDeniedError,
    DetectorError,
    InvalidResponseError,
    RequestFailedError,
    denied,
    is_absent,
    is_retryable,
)
from ._intake import STALL_SECONDS, ataking
from ._items import (
    MAX_IMAGE_BYTES,
    Encoded,
    FaceBox,
    Group,
    Image,
    ImageItem,
    Item,
    failed,
    images_of,
    make_item,
    may_be_one_image,
    merge,
    numbered,
    planned,
    read,
    read_group,
)
from ._overdue import ainfer
from ._results import Provenance, ServerInfo, ServerStatus, Verdict
from ._retries import Patience
from ._settings import Configured
from ._tls import diagnose
from ._window import Window
from ._wire import usable_batch_size

T = TypeVar("T")


class AsyncDetectorClient(Configured):
    """Asyncio client of the detector, for one event loop. Its methods are those of `DetectorClient`."""

    _fleet: Balancer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connections and what is in flight on them."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """What is known of each server: see `DetectorClient.servers`."""
        return () if self._fleet is None else self._fleet.status()

    async def score(self, image: Image, face_box: FaceBox | None = None) -> Verdict:
        """Scores one image: see `DetectorClient.score`."""
        images = [await asyncio.to_thread(read, make_item(image, face_box))]
        return (await self._retry(score_call(self._settings, images), Route()))[0]

    async def score_many(
        self, items: Iterable[ImageItem] | AsyncIterable[ImageItem], *, ordered: bool = True
    ) -> AsyncGenerator[Verdict, None]:
        """Scores any number of images in constant memory: see `DetectorClient.score_many`.

        The items may come asynchronously. Those of a plain iterable are taken on the event loop, which they hold up
        while they are made. Close an iterator that is left early (`contextlib.aclosing`): its requests end there.
        """
        balancer = await self._balancer()
        budget = AsyncBudget(BYTES * len(balancer.status()))
        events: asyncio.Queue[asyncio.Task[list[Verdict]] | None] = asyncio.Queue()  # see `DetectorClient`
        start = 0
        limit = await self._retry(max_batch_size_call(self._settings), Route())
        size = usable_batch_size(self._settings.batch_size, self._settings.model, limit)
        most_bytes = await self._retry(max_bytes_call(self._settings), Route()) or MAX_IMAGE_BYTES
        window: Window[asyncio.Task[list[Verdict]]] = Window(size, ordered=ordered)
        try:
            async with ataking(items, size, partial(events.put_nowait, None)) as intake:
                while window.pending or not intake.exhausted:
                    while window.has_room(balancer.limit) and (batch := intake.take()):
                        work = asyncio.create_task(self._score_batch(budget, most_bytes, start, batch))
                        work.add_done_callback(events.put_nowait)
                        window.begin(work)
                        start += len(batch)
                    try:
                        async with asyncio.timeout(STALL_SECONDS):
                            scored = await events.get()
                    except TimeoutError:
                        intake.hurry()
                        continue
                    for each in window.end(scored) if scored else ():
                        for verdict in each.result():
                            yield verdict
                intake.check()
        finally:
            for task in window.pending:
                task.cancel()
            await asyncio.gather(*window.pending, return_exceptions=True)

    async def provenance(self) -> Provenance | None:
        """Which weights give the verdicts: see `DetectorClient.provenance`."""
        return await self._once(provenance_call(self._settings))

    async def calibration(self) -> Calibration | None:
        """What the vote was calibrated with: see `DetectorClient.calibration`."""
        return await self._once(calibration_call(self._settings))

    async def server_info(self) -> ServerInfo:
        """Name, version and limits of the server: see `DetectorClient.server_info`."""
        name, version = await self._once(metadata_call(self._settings))
        limit = await self._once(max_batch_size_call(self._settings))
        return ServerInfo(name, version, self._settings.model, limit)

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Waits until the server scores an image: see `DetectorClient.wait_ready`."""
        end = time.monotonic() + timeout

        async def probe() -> None:
            servers = len((await self._balancer()).status())
            await self._once(probe_call(self._settings, max((end - time.monotonic()) / servers, 0.1)))

        try:
            await AsyncRetrying(**polling(timeout))(probe)
        except DetectorError as error:
            if not is_retryable(error):
                raise
            raise not_ready(self._settings, timeout, error) from error

    @cached_property
    def _channels(self) -> dict[Address, InferenceServerClient]:
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

    async def _score_batch(self, budget: AsyncBudget, most_bytes: int, start: int, batch: list[Item]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for size, items in await asyncio.to_thread(planned, batch, most_bytes):
            async with budget.spending(size):
                verdicts += await self._score_read(await asyncio.to_thread(read_group, items, most_bytes))
        return numbered(verdicts, start)

    async def _score_read(self, group: Group) -> list[Verdict]:
        images = images_of(group)
        try:
            scored = await self._score_group(images) if images else []
        except AccessDeniedError:
            raise
        except (RequestFailedError, InvalidResponseError) as error:
            scored = await self._score_apart(images, error)
        return merge(group, scored)

    async def _score_apart(self, images: list[Encoded], error: DetectorError) -> list[Verdict]:
        if not may_be_one_image(images, error):
            return failed(images, error)
        verdicts: list[Verdict] = []
        for image in images:
            try:
                verdicts += await self._score_group([image])
            except AccessDeniedError:
                raise
            except (RequestFailedError, InvalidResponseError) as its_own:
                verdicts += failed([image], its_own)
        return verdicts

    async def _score_group(self, images: list[Encoded]) -> list[Verdict]:
        return await self._retry(score_call(self._settings, images), Route(bounded=True))

    async def _once(self, call: Call[T]) -> T:
        return await self._retry(call, Route(), retries=0)

    async def _retry(self, call: Call[T], route: Route, retries: int | None = None) -> T:
        balancer = await self._balancer()
        retries = self._settings.retries if retries is None else retries
        policy = Patience(balancer, route, retries, self._settings.timeout).tenacity()
        try:
            result: T = await AsyncRetrying(**policy)(self._try, balancer, call, route)
        except DetectorError as error:
            raise balancer.explain(error) from error
        return result

    async def _try(self, balancer: Balancer, call: Call[T], route: Route) -> T:
        self._watch_servers(balancer)
        while (server := balancer.pick(route)) is None:
            self._room.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), PROBE_INTERVAL)
            self._watch_servers(balancer)
        with balancer.request(server, route, call.timeout, scores=call.scores, images=call.images):
            return await self._send(balancer, server, call, route)

    async def _send(self, balancer: Balancer, server: Server, call: Call[T], route: Route | None = None) -> T:
        address = server.address
        if address not in self._channels:  # made on first use: a channel belongs to the event loop that is running then
            self._channels[address] = InferenceServerClient(**self._settings.channel(address))
        client, patience = self._channels[address], partial(balancer.patience, server, route, call.timeout)
        try:
            if call.scores and balancer.several:
                response: Any = await ainfer(client, call.arguments, call.timeout, patience)
            else:
                response = await getattr(client, call.method)(**call.arguments, client_timeout=call.timeout)
        except InferenceServerException as error:
            explained = call.explain(error, address, patience())
            if call.optional and isinstance(explained, RequestFailedError) and explained.code == "NOT_FOUND":
                return None  # type: ignore[return-value]
            if not server.seen and is_absent(explained):
                fault = await asyncio.to_thread(diagnose, address, self._settings.tls)
                explained = denied(address, fault) or explained
            raise explained from error
        return call.parse(response)

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
