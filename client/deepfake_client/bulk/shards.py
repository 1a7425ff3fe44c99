"""Images and videos in tar shards, as WebDataset lays them out; nothing is unpacked."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import BinaryIO, Self

from ..images.files import FilePart, open_file
from ..images.items import MAX_IMAGE_BYTES, Item, check_size

SHARD_EXTENSIONS = (".tar", ".tar.gz", ".tgz")
"""Files that are read as shards, in upper or lower case."""

MAX_STREAMED_BYTES = 32 << 20
"""Largest member of a compressed shard, which waits for its request in memory; servers take no more by default."""

_REST_BYTES = 1 << 20

_DAMAGES = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error)


class _Damaged(tarfile.ReadError):
    """A shard ends within a member, without its end mark, or in something that is none."""


class _TrailingData(_Damaged):
    """Something that is no tar file follows the end mark."""


class _Header(tarfile.TarInfo):
    """Headers of one archive. tarfile takes a damaged one for the end, and would leave out the rest without a word."""

    end_mark_seen = False

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if not buf and not cls.end_mark_seen:
            raise _Damaged("it ends without the end mark of a tar file, so it was cut off; copy it again")
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not any(buf):
                cls.end_mark_seen = True  # another archive may follow: tar files are joined by `cat`
                raise
            if cls.end_mark_seen:
                raise _TrailingData("data that are no tar file follow its end mark; copy it again") from error
            raise _Damaged(f"{error}; copy it again") from error
        cls.end_mark_seen = False
        return header


def is_shard(path: str) -> bool:
    """Whether a path is taken for a shard, by its name."""
    return path.lower().endswith(SHARD_EXTENSIONS)


def read_shard(shard: str, extensions: tuple[str, ...]) -> Iterator[Item]:
    """The members of a shard whose names end in one of some extensions, called `SHARD/MEMBER`.

    A link, or whatever else is no file, becomes an item with an error, and so does the place from which on a damaged
    shard cannot be read. Members of an uncompressed shard are read when they are sent; those of a compressed one pass
    by once, and so their items are fleeting.
    """
    streamed = not shard.lower().endswith(".tar")
    what = "cannot be read beyond its start"
    try:
        # gzip checks what it has read, which tarfile's own decompression does not.
        with open_file(shard) as raw, gzip.open(raw) if streamed else raw as file:
            trailing: _TrailingData | None = None
            try:
                with closing(_open_tar(file, streamed)) as tar:
                    while (member := tar.next()) is not None:
                        tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all for random access
                        what = f"cannot be read beyond member {member.name}"
                        if member.name.lower().endswith(extensions) and not member.isdir():
                            yield _item(shard, tar, member, streamed)
            except _TrailingData as error:
                trailing = error
            beyond, what = what, "was read to its end, but some of it is damaged"
            while streamed and file.read(_REST_BYTES):
                pass  # gzip compares its checksum at the end
            if trailing is not None:
                what = beyond
                raise trailing
    except _DAMAGES as error:
        reason = getattr(error, "strerror", None) or str(error)
        yield Item(shard, None, None, error=f"the shard {what}: {reason}" if os.path.exists(shard) else reason)  # noqa: PTH110 - Path.exists raises for a name that is too long


def _open_tar(file: gzip.GzipFile | BinaryIO, streamed: bool) -> tarfile.TarFile:
    header = type("_HeaderOfOne", (_Header,), {})  # what it has seen is of one file
    if streamed:
        return tarfile.open(fileobj=file, mode="r|", tarinfo=header, ignore_zeros=True)
    return tarfile.open(fileobj=file, mode="r:", tarinfo=header, ignore_zeros=True)


def _item(shard: str, tar: tarfile.TarFile, member: tarfile.TarInfo, streamed: bool) -> Item:
    name = f"{shard}/{member.name}"
    if not member.isfile() or member.issparse():
        what = "a link" if member.issym() or member.islnk() else "not a plain file"
        return Item(name, None, None, error=f"the member is {what}, which is not followed; pack the image itself")
    if streamed:
        return Item(name, None, None, load=partial(_stream, tar, member), fleeting=True)
    part = FilePart(shard, member.offset_data, member.size)
    return Item(name, None, None, load=partial(_read_part, part), part=part, size=member.size)


def _stream(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    check_size(member.size, MAX_STREAMED_BYTES)
    file = tar.extractfile(member)
    assert file is not None  # it is a plain file
    try:
        return file.read()
    except _DAMAGES as error:
        raise OSError(f"the shard is damaged within it: {error}") from error


def _read_part(part: FilePart) -> bytes:
    check_size(part.size, MAX_IMAGE_BYTES)
    with open_file(part.path) as file:
        file.seek(part.offset)
        data = file.read(part.size)
    if len(data) < part.size:
        raise OSError(f"the shard ends within it, after {len(data)} of {part.size} bytes; copy the shard again")
    return data
