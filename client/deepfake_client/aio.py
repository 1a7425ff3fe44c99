"""The asyncio client."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Self

from tenacity import AsyncRetrying

from .bulk.batcher import STALL_SECONDS, abatching
from .bulk.memory_budget import BYTES, AsyncMemoryBudget
from .bulk.reorder import ReorderBuffer
from .calibration import Calibration
from .early import EarlyVerdict
from .errors import DetectorError, is_retryable
from .images.items import (
    FaceBox,
    Faces,
    Image,
    ImageItem,
    ImageSource,
    Item,
    make_item,
    plan_requests,
    read,
    read_group,
    with_indexes,
)
from .results import Provenance, ServerInfo, ServerStatus, Verdict
from .transport.asynchronous import AsyncCalls
from .transport.calls import calibration_call, not_ready, polling, probe_call, provenance_call
from .transport.flows import limits, once, score_group, score_one, server_info


class AsyncDetectorClient(AsyncCalls):
    """Asyncio client of the detector, for one event loop. Its methods are those of `DetectorClient`."""

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

    async def score(
        self, image: ImageSource | Image, face_box: FaceBox | None = None, *, faces: Faces = "main"
    ) -> Verdict:
        """Scores one image: see `DetectorClient.score`."""
        encoded = await asyncio.to_thread(read, make_item(image, face_box, faces))
        return await self._run(score_one(self._settings, encoded))

    async def score_many(
        self, items: Iterable[ImageItem] | AsyncIterable[ImageItem], *, ordered: bool = True
    ) -> AsyncGenerator[Verdict, None]:
        """Scores any number of images in constant memory: see `DetectorClient.score_many`.

        The items may come asynchronously. Those of a plain iterable are taken on the event loop, which they hold up
        while they are made. Close an iterator that is left early (`contextlib.aclosing`): its requests end there.
        """
        balancer = await self._balancer()
        budget = AsyncMemoryBudget(BYTES * len(balancer.status()))
        events: asyncio.Queue[asyncio.Task[list[Verdict]] | None] = asyncio.Queue()  # see `DetectorClient`
        start = 0
        size, most_bytes = await self._run(limits(self._settings))
        window: ReorderBuffer[asyncio.Task[list[Verdict]]] = ReorderBuffer(size, ordered=ordered)
        try:
            async with abatching(items, size, partial(events.put_nowait, None)) as batcher:
                while window.pending or not batcher.exhausted:
                    while window.has_room(balancer.limit) and (batch := batcher.take()):
                        work = asyncio.create_task(self._score_batch(budget, most_bytes, start, batch))
                        work.add_done_callback(events.put_nowait)
                        window.begin(work)
                        start += len(batch)
                    try:
                        async with asyncio.timeout(STALL_SECONDS):
                            scored = await events.get()
                    except TimeoutError:
                        batcher.flush()
                        continue
                    for each in window.end(scored) if scored else ():
                        for verdict in each.result():
                            yield verdict
                batcher.check()
        finally:
            for task in window.pending:
                task.cancel()
            await asyncio.gather(*window.pending, return_exceptions=True)

    async def decide(
        self, image: ImageSource | Image, face_box: FaceBox | None = None, *, threshold: float | None = None
    ) -> EarlyVerdict:
        """The verdict on one image, by as few streams as it takes: see `DetectorClient.decide`."""
        verdict = await (await self.deciding(threshold)).score(image, face_box)
        assert isinstance(verdict, EarlyVerdict)
        return verdict

    async def decide_many(
        self,
        items: Iterable[ImageItem] | AsyncIterable[ImageItem],
        *,
        threshold: float | None = None,
        ordered: bool = True,
    ) -> AsyncGenerator[Verdict, None]:
        """The verdicts on any number of images, by as few streams as they take: see `DetectorClient.decide_many`."""
        async with aclosing((await self.deciding(threshold)).score_many(items, ordered=ordered)) as verdicts:
            async for verdict in verdicts:
                yield verdict

    async def deciding(self, threshold: float | None = None) -> Self:
        """A client on the connections of this one: see `DetectorClient.deciding`."""
        _ = await self._balancer(), self._channels, self._room, self._watching  # made here, so that both have the same
        return self._deciding(threshold)

    async def provenance(self) -> Provenance | None:
        """Which weights give the verdicts: see `DetectorClient.provenance`."""
        return await self._run(once(provenance_call(self._settings)))

    async def calibration(self) -> Calibration | None:
        """What the vote was calibrated with: see `DetectorClient.calibration`."""
        return await self._run(once(calibration_call(self._settings)))

    async def server_info(self) -> ServerInfo:
        """Name, version and limits of the server: see `DetectorClient.server_info`."""
        return await self._run(server_info(self._settings))

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Waits until the server scores an image: see `DetectorClient.wait_ready`."""
        end = time.monotonic() + timeout

        async def probe() -> None:
            servers = len((await self._balancer()).status())
            await self._run(once(probe_call(self._settings, max((end - time.monotonic()) / servers, 0.1))))

        try:
            await AsyncRetrying(**polling(timeout))(probe)
        except DetectorError as error:
            if not is_retryable(error):
                raise
            raise not_ready(self._settings, timeout, error) from error

    async def _score_batch(
        self, budget: AsyncMemoryBudget, most_bytes: int, start: int, batch: list[Item]
    ) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for size, items in await asyncio.to_thread(plan_requests, batch, most_bytes):
            async with budget.reserve(size):
                group = await asyncio.to_thread(read_group, items, most_bytes)
                verdicts += await self._run(score_group(self._settings, group))
        return with_indexes(verdicts, start)
