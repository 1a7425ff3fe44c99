"""Lists of paths: text with one a line, or a column of a CSV, TSV or Parquet file; read a piece at a time."""

import codecs
import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from ..images.files import open_file
from ..images.items import Item, make_item
from . import parquet

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_DELIMITERS = {".csv": ",", ".tsv": "\t"}

_MOST_FIELD = 64 << 20
"""Most characters of one field of a CSV file: Python's own limit of 128 K stops at a long caption beside a path."""

STDIN = "-"
"""The list on standard input, one path a line."""

BOX_COLUMNS = ("face_x1", "face_y1", "face_x2", "face_y2")
"""Where a table holds the box of an image's face: the columns that this client writes itself."""


@dataclass(frozen=True)
class Columns:
    """What to take from a CSV, TSV or Parquet file.

    Attributes:
        path: Name of the column of paths.
        boxes: Whether `BOX_COLUMNS` hold the box of the face; where they are empty it is not known.
    """

    path: str = "path"
    boxes: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.path, *(BOX_COLUMNS if self.boxes else ()))


def check_list(source: str, columns: Columns) -> None:
    """Looks whether a list can be read, as far as its beginning tells.

    Raises:
        OSError: There is no such file, or it cannot be opened, or is a pipe, a socket or a device.
        ValueError: It has no such columns, or is damaged.
    """
    match _kind(source):
        case ".parquet":
            found = parquet.column_names(source)
        case ".csv" | ".tsv":
            with _open_csv(source) as file:
                found = next(_csv_lines(file, source), [])
        case _ if columns.boxes:
            raise ValueError(
                f"{source} is a list of paths alone, without face boxes; give a .csv, .tsv or .parquet file"
            )
        case _:
            if source != STDIN and not _is_inherited(source):
                _open(source).close()
            return
    if missing := [name for name in columns.names if name not in found]:
        raise ValueError(f"{source} has no column {', '.join(missing)}; it has {', '.join(found) or 'none'}")
    if twice := [name for name in columns.names if found.count(name) > 1]:
        raise ValueError(f"{source} has the column {', '.join(twice)} more than once; rename or drop the other")


def read_list(source: str, columns: Columns) -> Iterator[Item]:
    """The entries of a list as items; one with an error for a line without a path, or where the list is damaged."""
    last = 0
    try:
        for last, values in enumerate(_records(source, columns), 1):
            yield _item(source, last, values)
    except (OSError, ValueError, csv.Error) as error:
        yield Item(source, None, None, error=f"the list cannot be read beyond its entry {last}: {error}")


def _kind(source: str) -> str:
    return Path(source).suffix.lower()


def _records(source: str, columns: Columns) -> Iterator[list[Any]]:
    match _kind(source):
        case ".parquet":
            yield from parquet.read_columns(source, columns.names)
        case ".csv" | ".tsv":
            with _open_csv(source) as file:
                lines = _csv_lines(file, source)
                header = next(lines, [])
                places = [header.index(name) for name in columns.names]
                for line in lines:
                    if line:
                        yield [line[place] if place < len(line) else None for place in places]
        case _:
            with _open_stdin() if source == STDIN else _open(source) as raw:
                yield from ([path] for line in _text_lines(raw) if (path := line.rstrip("\r\n")))


def _text_lines(raw: Iterable[bytes]) -> Iterator[str]:
    """The lines of a text, without its byte-order mark; UTF-16 where that says so, as Windows writes lists."""
    lines = iter(raw)
    first = next(lines, b"")
    if not first.startswith(_UTF_16):
        # A name that is not UTF-8 gets through as on the disk.
        yield from map(os.fsdecode, chain([first.removeprefix(codecs.BOM_UTF8)], lines))
        return
    rest = ""
    for text in codecs.iterdecode(chain([first], lines), "utf-16"):
        *whole, rest = (rest + text).split("\n")
        yield from whole
    yield rest


def _is_inherited(source: str) -> bool:
    """Whether it is a descriptor that this process was given, as a shell does for `<(command)`: read once, as stdin."""
    return source.startswith("/dev/fd/")


def _open(source: str) -> BinaryIO:
    if _is_inherited(source):
        return Path(source).open("rb")
    try:
        return open_file(
            source, instead="save the list as a file, or write a list of paths to standard input and give -"
        )
    except OSError as error:
        raise OSError(f"{source}: {error.strerror or error}") from None


def _open_csv(source: str) -> TextIO:
    file = _open(source)
    # Spreadsheets begin their files with a mark.
    encoding = "utf-16" if file.read(2) in _UTF_16 else "utf-8-sig"
    file.seek(0)
    return io.TextIOWrapper(file, newline="", encoding=encoding, errors="surrogateescape")


def _csv_lines(file: TextIO, source: str) -> Iterator[list[str]]:
    csv.field_size_limit(max(csv.field_size_limit(), _MOST_FIELD))
    return csv.reader(file, delimiter=_DELIMITERS[_kind(source)])


def _open_stdin() -> Any:
    # With a reader of its own: Python aborts where it ends while a thread waits in that of sys.stdin.
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except io.UnsupportedOperation:  # something in memory stands for it
        return nullcontext(sys.stdin.buffer)


def _item(source: str, entry: int, values: list[Any]) -> Item:
    path, *box = values
    if path in (None, "", b""):
        return Item(source, None, None, error=f"entry {entry} has no path")
    path = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    try:
        return make_item(path, None if all(value in (None, "") for value in box) else box)
    except (TypeError, ValueError):
        return Item(path, None, None, error=f"the face box of entry {entry} is {box}; it must be four numbers")
