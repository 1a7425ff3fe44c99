"""What is decoded: a file, a part of one, an open file or bytes; as a descriptor that another process can be given."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from ..images.files import FilePart, open_file

Source = str | FilePart | BinaryIO | bytes
"""Path of a file, a part of one, an open file (which need not be on a disk), or the bytes themselves."""


class Window(io.RawIOBase):
    """Consecutive bytes of a descriptor as a file of their own; its own position is neither used nor moved.

    Args:
        descriptor: Of a regular file; it is not closed.
        offset: Of the first byte.
        size: Bytes.
    """

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._descriptor, self._offset, self._size, self._position = descriptor, offset, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As every file; also behind the end."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As every file."""
        wanted = max(0, min(len(buffer), self._size - self._position))
        data = os.pread(self._descriptor, wanted, self._offset + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


@contextmanager
def opened(source: Source) -> Iterator[tuple[int, int, int]]:
    """A descriptor of the source, with the offset of its first byte and their number.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    match source:
        case str():
            with open_file(source) as file:
                yield file.fileno(), 0, os.fstat(file.fileno()).st_size
        case FilePart(path, offset, size):
            with open_file(path) as file:
                yield file.fileno(), offset, size
        case bytes() | io.BytesIO():
            descriptor = os.memfd_create("source", os.MFD_CLOEXEC)
            try:
                with os.fdopen(os.dup(descriptor), "wb") as file:
                    file.write(source if isinstance(source, bytes) else source.getbuffer())
                yield descriptor, 0, os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
        case _:
            source.flush()
            yield source.fileno(), 0, os.fstat(source.fileno()).st_size
