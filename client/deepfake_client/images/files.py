"""Opening of files that others named: only regular ones, so that a pipe or a device cannot hold up a run."""

import errno
import os
import stat
from dataclasses import dataclass
from typing import BinaryIO

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class FilePart:
    """Consecutive bytes of a file, such as a member of a tar shard.

    Attributes:
        path: Of the file.
        offset: Of its first byte.
        size: Bytes.
    """

    path: str
    offset: int
    size: int


def open_file(path: str | os.PathLike[str], *, instead: str = "give a file with the image in it") -> BinaryIO:
    """Opens a file for reading.

    Args:
        path: Its name.
        instead: What helps where it is none.

    Raises:
        OSError: It cannot be opened, or is a folder, a pipe, a socket or a device.
        ValueError: There is a NUL character in its name.
    """
    _require_file(os.stat(path).st_mode, instead)  # noqa: PTH116 - to open a device may do something to it
    descriptor = os.open(path, _FLAGS)
    try:
        _require_file(os.fstat(descriptor).st_mode, instead)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _require_file(mode: int, instead: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(f"it is {what} and not a file; {instead}")
