"""The asyncio client."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from tenacity import AsyncRetrying
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ._calibration import Calibration
from ._calls import (
    Call,
    calibration_call,
    max_batch_size_call,
    metadata_call,
    not_ready,
    polling,
    probe_call,
    provenance_call,
    retrying,
    score_call,
)
from ._errors import DetectorError, InvalidResponseError, RequestFailedError, is_retryable
from ._items import (
    FaceBox,
    Image,
    ImageItem,
    Item,
    abatched,
    failed,
    images_of,
    make_item,
    merge,
    numbered,
    read,
    read_groups,
)
from ._results import Provenance, ServerInfo, Verdict
from ._settings import CHANNEL_ARGS, Configured
from ._wire import usable_batch_size

T = TypeVar("T")


class AsyncDetectorClient(Configured):
    """Asyncio client of the detector, for one event loop. Its methods are those of `DetectorClient`."""

    _channel: InferenceServerClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and what is in flight on it."""
        if self._channel is not None:
            await self._channel.close()

    async def score(self, image: Image, face_box: FaceBox | None = None) -> Verdict:
        """Scores one image: see `DetectorClient.score`."""
        images = [await asyncio.to_thread(read, make_item(image, face_box))]
        return (await self._retry(score_call(self._settings, images)))[0]

    async def score_many(
        self, items: Iterable[ImageItem] | AsyncIterable[ImageItem], *, ordered: bool = True
    ) -> AsyncGenerator[Verdict, None]:
        """Scores any number of images in constant memory: see `DetectorClient.score_many`.

        The items may come asynchronously. Those of a plain iterable are taken on the event loop, which they hold up
        while they are made. Close an iterator that is left early (`contextlib.aclosing`): its requests end there.
        """
        gate = asyncio.Semaphore(self._settings.max_in_flight)
        pending: list[asyncio.Task[list[Verdict]]] = []
        start = 0
        try:
            limit = await self._retry(max_batch_size_call(self._settings))
            size = usable_batch_size(self._settings.batch_size, self._settings.model, limit)
            async for batch in abatched(items, size):
                pending.append(asyncio.create_task(self._score_batch(start, batch, gate)))
                start += len(batch)
                while pending and (done := await _take(pending, ordered, len(pending) >= self._settings.window)):
                    for verdict in done.result():
                        yield verdict
            while done := await _take(pending, ordered, bool(pending)):
                for verdict in done.result():
                    yield verdict
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def provenance(self) -> Provenance | None:
        """Which weights give the verdicts: see `DetectorClient.provenance`."""
        try:
            return await self._send(provenance_call(self._settings))
        except RequestFailedError as error:
            if error.code == "NOT_FOUND":
                return None
            raise

    async def calibration(self) -> Calibration | None:
        """What the vote was calibrated with: see `DetectorClient.calibration`."""
        try:
            return await self._send(calibration_call(self._settings))
        except RequestFailedError as error:
            if error.code == "NOT_FOUND":
                return None
            raise

    async def server_info(self) -> ServerInfo:
        """Name, version and limits of the server: see `DetectorClient.server_info`."""
        name, version = await self._send(metadata_call(self._settings))
        limit = await self._send(max_batch_size_call(self._settings))
        return ServerInfo(name, version, self._settings.model, limit)

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Waits until the server scores an image: see `DetectorClient.wait_ready`."""
        end = time.monotonic() + timeout

        async def probe() -> None:
            await self._send(probe_call(self._settings, max(end - time.monotonic(), 0.1)))

        try:
            await AsyncRetrying(**polling(timeout))(probe)
        except DetectorError as error:
            if not is_retryable(error):
                raise
            raise not_ready(self._settings, timeout, error) from error

    @property
    def _connected(self) -> InferenceServerClient:
        if self._channel is None:  # made on first use: a channel belongs to the event loop that is running then
            self._channel = InferenceServerClient(self._settings.url, channel_args=CHANNEL_ARGS)
        return self._channel

    async def _score_batch(self, start: int, batch: list[Item], gate: asyncio.Semaphore) -> list[Verdict]:
        verdicts: list[Verdict] = []
        groups = read_groups(batch)
        async with gate:
            while (group := await asyncio.to_thread(next, groups, None)) is not None:
                images = images_of(group)
                try:
                    scored = await self._retry(score_call(self._settings, images)) if images else []
                except (RequestFailedError, InvalidResponseError) as error:
                    scored = failed(images, error)
                verdicts += merge(group, scored)
        return numbered(verdicts, start)

    async def _retry(self, call: Call[T]) -> T:
        result: T = await AsyncRetrying(**retrying(self._settings.retries))(partial(self._send, call))
        return result

    async def _send(self, call: Call[T]) -> T:
        try:
            response: Any = await getattr(self._connected, call.method)(**call.arguments)
        except InferenceServerException as error:
            raise call.explain(error) from error
        return call.parse(response)


async def _take(
    pending: list[asyncio.Task[list[Verdict]]], ordered: bool, must: bool
) -> asyncio.Task[list[Verdict]] | None:
    """Takes out the first task where order is kept, else one that is done; None where it need not wait for it."""
    if must:
        await asyncio.wait(pending[:1] if ordered else pending, return_when=asyncio.FIRST_COMPLETED)
    for place, task in enumerate(pending[:1] if ordered else pending):
        if task.done():
            return pending.pop(place)
    return None
