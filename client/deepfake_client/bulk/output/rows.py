"""The kinds of output that a run which was stopped goes on with: JSONL, CSV, and folders of Parquet shards."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from ...columns import file_row
from ...results import Verdict
from .. import parquet
from .content import Content, content_of, find_changed
from .journal import Journal
from .text_rows import TEXT_COLUMNS, csv_header, csv_row, jsonl_row

SHARD_ROWS = 100_000
"""Rows of one Parquet shard."""


REPLACE = "give another name, or --overwrite to replace it"
"""What helps where the rows that are there cannot be gone on with."""


class OutputError(Exception):
    """The output cannot be written to as asked; the message says why and what helps."""


class Rows(Protocol):
    """A kind of output. `journal` is its journal; what it writes counts once that is committed.

    The journal's value `content` has what each file holds by its name, and `ended` whether nothing may follow it.
    """

    journal_path: Path

    def is_there(self) -> bool:
        """Whether there are any files with rows. Raises OutputError where there is something else."""

    def has_rows(self, journal: Journal) -> bool:
        """Whether there is anything that a new run would replace, in files or in the journal alone."""

    def start(self, journal: Journal) -> None:
        """Begins with no rows, in place of what is there."""

    def restore(self, journal: Journal) -> None:
        """Goes back to the rows of the last commit. Raises OutputError where they are not there any more."""

    def append(self, journal: Journal, verdict: Verdict) -> int:
        """Adds a row; its bytes."""

    def sync(self, journal: Journal, *, last: bool) -> None:
        """Brings the rows to the disk: what precedes a commit."""

    def stage_scored(self, journal: Journal) -> None:
        """Writes the rows of scored images alone to staged files, and notes what the files are to hold with them."""

    def staged(self) -> Iterator[tuple[Path, Path]]:
        """The staged files that are there, each with the file that it is to replace."""

    def close(self) -> None:
        """Closes files."""


class TextRows:
    """A file that rows are appended to."""

    def __init__(self, path: Path, header: str, render: Callable[[Verdict], str]) -> None:
        self._path = path
        self._header, self._render = header, render
        self._file: FileIO | None = None
        self._content = Content()
        self.journal_path = path.with_name(path.name + ".journal")
        self._stage = path.with_name(path.name + ".staged")

    def is_there(self) -> bool:
        if not self._path.exists():
            return False
        header = self._header.encode()
        with self._path.open("rb") as file:  # a run that was stopped at once leaves the header, or a part of it
            return not header.startswith(file.read(len(header) + 1))

    def has_rows(self, journal: Journal) -> bool:
        return self.is_there()

    def start(self, journal: Journal) -> None:
        self._open(Content())
        self._write(self._header)
        sync_folder(self._path.parent)

    def restore(self, journal: Journal) -> None:
        _require_unchanged(self._path.parent, journal)
        ((size, _),) = journal["content"].values()
        self._open(content_of(self._path, size))

    def append(self, journal: Journal, verdict: Verdict) -> int:
        return self._write(self._render(verdict))

    def sync(self, journal: Journal, *, last: bool) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        journal["content"], journal["ended"] = {self._path.name: self._content.known}, last

    def stage_scored(self, journal: Journal) -> None:
        kept = Content()
        with self._path.open("rb") as source, self._stage.open("wb") as target:
            for ok, size in chain([(True, len(self._header.encode()))], journal.rows()):
                row = source.read(size)
                if ok:
                    target.write(row)
                    kept.add(row)
            target.flush()
            os.fsync(target.fileno())
        self.close()
        journal["content"] = {self._path.name: kept.known}

    def staged(self) -> Iterator[tuple[Path, Path]]:
        if self._stage.exists():
            yield self._stage, self._path

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, content: Content) -> None:
        self.close()
        self._file = self._path.open("ab", buffering=0)
        self._file.truncate(content.size)
        self._content = content

    def _write(self, text: str) -> int:
        # A file name that is not valid UTF-8 is written as the escape by which JSON can carry it.
        assert self._file is not None
        data = left = text.encode("utf-8", "backslashreplace")
        while left:  # a disk that fills up takes a part, and then says so
            left = left[self._file.write(left) :]
        self._content.add(data)
        return len(data)


class ParquetShards:
    """A folder of Parquet files; rows wait in the journal until there are enough for one more."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path, self._columns = path, columns
        self._waiting = 0
        self.journal_path = path / "_journal"  # readers of such folders pass over names that begin so

    def is_there(self) -> bool:
        if not self._path.exists():
            return False
        if not self._path.is_dir():
            raise OutputError("it is a file, but Parquet output is a folder of shards; give another name")
        names = [each.name for each in self._path.iterdir() if not each.name.startswith(self.journal_path.name)]
        if strange := [name for name in names if not re.fullmatch(r"(part|_staged)-\d{5,}\.parquet", name)]:
            raise OutputError(f"the folder holds other files, such as {strange[0]}; give another name")
        return bool(names)

    def has_rows(self, journal: Journal) -> bool:
        return self.is_there() or journal.count() > 0

    def start(self, journal: Journal) -> None:
        for file in self._path.glob("*.parquet"):
            file.unlink()
        self._waiting = 0
        journal["content"], journal["ended"] = {}, False

    def restore(self, journal: Journal) -> None:
        _require_unchanged(self._path, journal)
        shards = journal["content"]
        half_done = self._shard(len(shards))  # its rows are still waiting
        strange = {each.name for each in self._path.glob("part-*.parquet")}.difference(shards)
        if strange - ({half_done.name} if not journal["ended"] else set()):
            raise OutputError(f"it holds {min(strange)}, which its journal does not know; {REPLACE}")
        half_done.unlink(missing_ok=True)
        self._waiting = journal.count_waiting()

    def append(self, journal: Journal, verdict: Verdict) -> int:
        for each in verdict.rows():
            journal.wait(file_row(each), each.ok)
            self._waiting += 1
        return 0

    def sync(self, journal: Journal, *, last: bool) -> None:
        journal["ended"] = last
        if not (self._waiting >= SHARD_ROWS or (last and self._waiting)):
            return
        shards = journal["content"]
        stage, shard = self._shard(len(shards), "_staged"), self._shard(len(shards))
        parquet.write(stage, map(_escaped, journal.waiting(parquet.BATCH_ROWS)), self._columns, TEXT_COLUMNS)
        _sync_file(stage)
        shards[shard.name] = content_of(stage).known
        stage.rename(shard)
        sync_folder(self._path)
        journal.end_waiting()
        journal["content"] = shards
        self._waiting = 0

    def stage_scored(self, journal: Journal) -> None:
        shards = journal["content"]
        for number, name in enumerate(shards):
            stage = self._shard(number, "_staged")
            if parquet.copy_where(self._shard(number), stage, "status", "ok"):
                _sync_file(stage)
                shards[name] = content_of(stage).known
            else:
                stage.unlink()
        journal["content"] = shards

    def staged(self) -> Iterator[tuple[Path, Path]]:
        for stage in sorted(self._path.glob("_staged-*.parquet")):
            yield stage, stage.with_name(stage.name.replace("_staged", "part"))

    def close(self) -> None:
        pass

    def _shard(self, number: int, prefix: str = "part") -> Path:
        return self._path / f"{prefix}-{number:05d}.parquet"


KINDS: Mapping[str, Callable[[Path, Sequence[str]], Rows]] = {
    ".jsonl": lambda path, columns: TextRows(path, "", jsonl_row),
    ".csv": lambda path, columns: TextRows(path, csv_header(columns), partial(csv_row, columns=columns)),
    ".parquet": ParquetShards,
}
"""The kinds of output by the endings of their names; columns matter where rows are tables."""


def _require_unchanged(folder: Path, journal: Journal) -> None:
    changed = find_changed(folder, journal["content"], may_have_grown=not journal["ended"])
    if changed is not None:
        raise OutputError(f"{changed}: something else has changed it; {REPLACE}")


def _escaped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose text is valid UTF-8: what is not is written as JSON would."""
    return [
        {
            name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder outlast a loss of power."""
    if os.name == "posix":
        _sync_file(path)
