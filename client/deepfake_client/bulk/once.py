"""Files of equal content are sent once, and each has its verdict.

A copy goes through the run as an item that cannot be read, so that nothing is sent and its place stays. When it comes
back, it gets the verdict of the file that was sent.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from ..images.files import open_file
from ..images.items import Item
from ..results import Verdict

_COPY = "a copy of another file"
_PIECE = 1 << 20


class KnownContents(Protocol):
    """Where verdicts are kept by content; threads may share it."""

    def known(self, content: bytes) -> Verdict | None:
        """The verdict on a content; None where there is none."""

    def keep(self, content: bytes, verdict: Verdict) -> None:
        """Keeps the verdict on a content."""


class Once:
    """One run, whose items one thread gives and whose verdicts another takes.

    Args:
        contents: Where verdicts are kept.
        is_apart: Tells the items that are always scored for themselves, such as videos.
        copied: Called for each file that was not sent, because another of equal content was.

    Attributes:
        left: Copies of a file that could not be read, or changed before it was sent: they must be scored after all, and
            stand here with their places once all verdicts were taken.
    """

    def __init__(self, contents: KnownContents, is_apart: Callable[[Item], bool], copied: Callable[[], None]) -> None:
        self._contents = contents
        self._is_apart = is_apart
        self._copied_one = copied
        self._lock = threading.Lock()
        self._sent: dict[int, tuple[bytes, Item]] = {}
        self._copies: dict[int, tuple[bytes, Item]] = {}
        self._waiting: dict[bytes, list[int]] = {}  # copies that came back before the verdict on what they are of
        self.left: list[tuple[int, Item]] = []

    def items(self, items: Iterable[Item]) -> Iterator[Item]:
        """What goes through the run in the place of the items; each file is read here to know its content."""
        for place, item in enumerate(items):
            content = None if self._is_apart(item) else content_of(item)
            if content is None:
                yield item
                continue
            with self._lock:
                is_copy = content in self._waiting or self._contents.known(content) is not None
                (self._copies if is_copy else self._sent)[place] = content, item
                if not is_copy:
                    self._waiting[content] = []
            yield Item(item.path, error=_COPY) if is_copy else replace(item, digest=True)

    def verdicts(self, scored: Iterable[tuple[int, Verdict]]) -> Iterator[tuple[int, Verdict]]:
        """The verdicts on all items, from those on what went through; places as in `items`."""
        for place, verdict in scored:
            with self._lock:
                found = list(self._copied(place) if place in self._copies else self._scored(place, verdict))
            yield from found

    def _scored(self, place: int, verdict: Verdict) -> Iterator[tuple[int, Verdict]]:
        content, item = self._sent.pop(place, (None, None))
        if content is None or item is None:
            yield place, verdict
            return
        sent = verdict.sha256
        verdict = verdict if item.digest else replace(verdict, sha256=None)
        yield place, verdict
        waiting = self._waiting.pop(content)
        if sent is not None and _key(bytes.fromhex(sent), item) == content:
            self._contents.keep(content, verdict)
        for copy in waiting:
            yield from self._copied(copy)

    def _copied(self, place: int) -> Iterator[tuple[int, Verdict]]:
        content, item = self._copies[place]
        if content in self._waiting:
            self._waiting[content].append(place)
            return
        del self._copies[place]
        verdict = self._contents.known(content)
        if verdict is None:
            self.left.append((place, item))
        else:
            self._copied_one()
            yield place, replace(verdict, path=item.path)


def content_of(item: Item) -> bytes | None:
    """What the verdict on an item depends on, in 32 bytes: its file and its face box. None where it cannot be read."""
    try:
        if item.error is not None:
            return None
        if item.data is not None:
            return _key(hashlib.sha256(item.data).digest(), item)
        if item.load is not None:
            return _key(hashlib.sha256(item.load()).digest(), item)
        assert item.path is not None
        with open_file(item.path) as file:
            digest = hashlib.sha256()
            while piece := file.read(_PIECE):
                digest.update(piece)
            return _key(digest.digest(), item)
    except (OSError, ValueError):  # its row says why, when it is to be sent
        return None


def _key(digest: bytes, item: Item) -> bytes:
    return hashlib.sha256(digest + repr(item.box).encode()).digest()
