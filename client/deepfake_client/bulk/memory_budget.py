"""Memory for images: how many bytes of them may be read and not yet answered. All else about an image is small."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

BYTES = 64 << 20
"""For each server. Only images of megabytes reach it; while they are sent, there are some five copies of them."""


class _Account:
    def __init__(self, most: int) -> None:
        self._most = most
        self._spent = 0

    def spend(self, size: int) -> bool:
        """Spends it if there is as much left; what is more than all of it waits until nothing is spent."""
        fits = not self._spent or self._spent + size <= self._most
        self._spent += size * fits
        return fits

    def give_back(self, size: int) -> None:
        self._spent -= size


class MemoryBudget:
    """A number of bytes that threads share."""

    def __init__(self, most: int) -> None:
        """Begins with nothing spent."""
        self._account = _Account(most)
        self._turn = threading.Lock()  # the large one that waits for room is not passed by small ones for ever
        self._room = threading.Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Waits until there are so many bytes left, and has them within the block."""
        with self._turn, self._room:
            self._room.wait_for(lambda: self._account.spend(size))
        try:
            yield
        finally:
            with self._room:
                self._account.give_back(size)
                self._room.notify_all()


class AsyncMemoryBudget:
    """The same for asyncio."""

    def __init__(self, most: int) -> None:
        """Begins with nothing spent."""
        self._account = _Account(most)
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """As `MemoryBudget.reserve`."""
        async with self._turn:
            while not self._account.spend(size):
                self._room.clear()
                await self._room.wait()
        try:
            yield
        finally:
            self._account.give_back(size)
            self._room.set()
