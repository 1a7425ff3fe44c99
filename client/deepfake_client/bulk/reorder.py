"""Which batches are under way, and whose verdicts may be given out. It scores none: the clients do."""

from collections import deque
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

HELD_IMAGES = 4096
"""Images that may be scored and wait for one before them, where order is kept: so many go on past a slow request. Their
verdicts take some 1.3 KB each."""


class ReorderBuffer(Generic[T]):
    """The batches between their source and the caller, in constant memory; T is what stands for one at work."""

    def __init__(self, size: int, *, ordered: bool) -> None:
        """Begins with none.

        Args:
            size: Most images in a batch.
            ordered: Whether batches are given out in the order in which they began.
        """
        self._most_held = max(HELD_IMAGES // size, 1)
        self._ordered = ordered
        self._under_way: set[T] = set()
        self._line: deque[T] = deque()

    @property
    def pending(self) -> Collection[T]:
        """What has begun and was not given out."""
        return self._line

    def has_room(self, limit: int) -> bool:
        """Whether one more may begin.

        Args:
            limit: Requests that may be under way at the servers. Twice as many batches may, the one that is being
                collected included, so that files are read meanwhile.
        """
        return len(self._under_way) < 2 * limit - 1 and len(self._line) - len(self._under_way) < self._most_held

    def begin(self, work: T) -> None:
        """Notes that a batch is under way."""
        self._under_way.add(work)
        self._line.append(work)

    def end(self, work: T) -> list[T]:
        """Notes that it is done; what may be given out now."""
        self._under_way.remove(work)
        if not self._ordered:
            self._line.remove(work)
            return [work]
        free = []
        while self._line and self._line[0] not in self._under_way:
            free.append(self._line.popleft())
        return free
