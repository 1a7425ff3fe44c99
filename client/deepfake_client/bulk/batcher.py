"""From whatever a caller iterates over to batches, beside the requests: a source that stands still holds up nothing."""

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

from ..images.items import ImageItem, Item, as_item

STALL_SECONDS = 0.2
"""Where nothing happens for so long, the source stands still: what there is of a batch goes without the rest."""

_LAST_ITEM_SECONDS = 1.0
"""A source that is left early is waited for so long: most come to their next item, and are done with, before."""


class Batcher:
    """The batch that is being collected. One thread may add to it while another takes it."""

    def __init__(self, size: int, *, on_batch: Callable[[], None], on_room: Callable[[], None]) -> None:
        """Begins with an empty one.

        Args:
            size: Items in a full batch.
            on_batch: Called when there is one, or there are no more items.
            on_room: Called when it was taken.
        """
        self._size = size
        self._on_batch = on_batch
        self._on_room = on_room
        self._batch: list[Item] = []
        self._flushed = self._ended = False
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether the batch must be taken before another item is added."""
        return len(self._batch) >= self._size

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing to take, and never will be."""
        return self._ended and not self._batch

    def add(self, item: ImageItem) -> None:
        """Adds an item; errors as `as_item`."""
        with self._lock:
            self._batch.append(as_item(item))
        if self.full:
            self._on_batch()

    def end(self, error: BaseException | None) -> None:
        """Notes that there are no more items, and the error of their source where that is why."""
        self._error = error
        self._ended = True
        self._on_batch()

    def flush(self) -> None:
        """Lets go of a batch that is not full."""
        self._flushed = bool(self._batch)

    def take(self) -> list[Item]:
        """The batch where it is full, the last, or flushed; else an empty one."""
        with self._lock:
            if not (self.full or self._ended or self._flushed):
                return []
            batch, self._batch, self._flushed = self._batch, [], False
        self._on_room()
        return batch

    def check(self) -> None:
        """Raises the error of the source, if there was one."""
        if self._error is not None:
            raise self._error


@contextmanager
def batching(items: Iterable[ImageItem], size: int, on_batch: Callable[[], None]) -> Iterator[Batcher]:
    """Takes items within the block, in a thread of its own and no further ahead than one batch; see `Batcher`.

    The thread is a daemon: where the source stands still for ever, as a terminal may, it keeps no process from its end.
    """
    room, stop = threading.Event(), threading.Event()
    batcher = Batcher(size, on_batch=on_batch, on_room=room.set)
    thread = threading.Thread(
        target=_take, args=(items, batcher, room, stop), name="deepfake-client-source", daemon=True
    )
    thread.start()
    try:
        yield batcher
    finally:
        stop.set()
        room.set()
        thread.join(_LAST_ITEM_SECONDS)


def _take(items: Iterable[ImageItem], batcher: Batcher, room: threading.Event, stop: threading.Event) -> None:
    error = None
    try:
        for item in items:
            batcher.add(item)
            while batcher.full and not stop.is_set():
                room.wait()
                room.clear()
            if stop.is_set():
                break
    except BaseException as its_own:  # noqa: BLE001 - the thread that takes batches raises it
        error = its_own
    batcher.end(error)


@asynccontextmanager
async def abatching(
    items: Iterable[ImageItem] | AsyncIterable[ImageItem], size: int, on_batch: Callable[[], None]
) -> AsyncIterator[Batcher]:
    """The same for asyncio, in a task. Items may come asynchronously; else the event loop is held up by each."""
    room = asyncio.Event()
    batcher = Batcher(size, on_batch=on_batch, on_room=room.set)
    task = asyncio.create_task(_atake(items, batcher, room))
    try:
        yield batcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _atake(items: Iterable[ImageItem] | AsyncIterable[ImageItem], batcher: Batcher, room: asyncio.Event) -> None:
    error = None
    try:
        async for item in items if isinstance(items, AsyncIterable) else _asynchronous(items):
            batcher.add(item)
            while batcher.full:
                room.clear()
                await room.wait()
    except BaseException as its_own:  # noqa: BLE001 - the task that takes batches raises it
        error = its_own
    batcher.end(error)


async def _asynchronous(items: Iterable[ImageItem]) -> AsyncIterator[ImageItem]:
    for item in items:
        yield item
