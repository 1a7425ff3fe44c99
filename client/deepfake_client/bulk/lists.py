"""Lists of paths: text with one a line, or a column of a CSV or Parquet file; read a piece at a time."""

import csv
import io
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..items import Item, make_item
from . import parquet

STDIN = "-"
"""The list on standard input, one path a line."""

BOX_COLUMNS = ("face_x1", "face_y1", "face_x2", "face_y2")
"""Where a table holds the box of an image's face: the columns that this client writes itself."""


@dataclass(frozen=True)
class Columns:
    """What to take from a CSV or Parquet file.

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
        OSError: There is no such file, or it cannot be opened.
        ValueError: It has no such columns, or is damaged.
    """
    match _kind(source):
        case ".parquet":
            found = parquet.column_names(source)
        case ".csv":
            with _open_csv(source) as file:
                found = next(csv.reader(file), [])
        case _ if columns.boxes:
            raise ValueError(f"{source} is a list of paths alone, without face boxes; give a .csv or .parquet file")
        case _:
            if source != STDIN and Path(source).is_file():
                Path(source).open("rb").close()
            return
    if missing := [name for name in columns.names if name not in found]:
        raise ValueError(f"{source} has no column {', '.join(missing)}; it has {', '.join(found) or 'none'}")


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
        case ".csv":
            with _open_csv(source) as file:
                lines = csv.reader(file)
                header = next(lines, [])
                places = [header.index(name) for name in columns.names]
                for line in lines:
                    if line:
                        yield [line[place] if place < len(line) else None for place in places]
        case _:
            with _open_stdin() if source == STDIN else Path(source).open("rb") as raw:
                yield from ([os.fsdecode(path)] for line in raw if (path := line.rstrip(b"\r\n")))


def _open_csv(source: str) -> Any:
    # utf-8-sig: spreadsheets begin their files with a mark. A name that is not UTF-8 gets through as on the disk.
    return Path(source).open(newline="", encoding="utf-8-sig", errors="surrogateescape")


def _open_stdin() -> Any:
    # With a reader of its own: Python aborts where it ends while a thread waits in that of sys.stdin.
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except io.UnsupportedOperation:  # something in memory stands for it
        return nullcontext(sys.stdin.buffer)


def _item(source: str, entry: int, values: list[Any]) -> Item:
    path, *box = values
    if path in (None, ""):
        return Item(source, None, None, error=f"entry {entry} has no path")
    try:
        return make_item(str(path), None if all(value in (None, "") for value in box) else box)
    except (TypeError, ValueError):
        return Item(str(path), None, None, error=f"the face box of entry {entry} is {box}; it must be four numbers")
