"""What files held when they were committed, so that a later run sees whether something else has changed them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from pathlib import Path

_PIECE = 1 << 20

Digest = str
"""Hexadecimal, of 16 bytes: chance does not meet it twice, and nobody gains from forging it."""


@dataclass
class Content:
    """The first bytes of a file: their number and a running digest of them."""

    size: int = 0
    _hash: blake2b = field(default_factory=lambda: blake2b(digest_size=16))

    def add(self, data: bytes) -> None:
        """Takes in what was appended."""
        self.size += len(data)
        self._hash.update(data)

    @property
    def known(self) -> tuple[int, Digest]:
        """What a journal keeps of it."""
        return self.size, self._hash.hexdigest()


def content_of(path: Path, most: int | None = None) -> Content:
    """The content of a file, or of its first bytes. Raises OSError where it cannot be read."""
    content = Content()
    with path.open("rb") as file:
        while piece := file.read(_PIECE if most is None else min(_PIECE, most - content.size)):
            content.add(piece)
    return content


def find_changed(folder: Path, known: Mapping[str, tuple[int, Digest]], *, may_have_grown: bool) -> str | None:
    """What is wrong with the first file that is not as it was; None where all are.

    Args:
        folder: Where the files are.
        known: Their names, each with its `Content.known`.
        may_have_grown: Whether more may follow what was committed, as after a kill.
    """
    return next(
        chain.from_iterable(_changes(folder / name, *each, may_have_grown) for name, each in known.items()), None
    )


def _changes(path: Path, size: int, digest: Digest, may_have_grown: bool) -> Iterator[str]:
    if not path.exists():
        yield f"{path.name} is gone"
        return
    there = path.stat().st_size
    if there < size or (there > size and not may_have_grown):
        yield f"{path.name} has {there} bytes where its journal says {size}"
    elif content_of(path, size).known != (size, digest):
        yield f"{path.name} does not hold what its journal says"
