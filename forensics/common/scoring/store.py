"""Scored rows on disk, one JSON object a line, so that an interrupted run goes on where it was.

The first line says which server gave the scores: its weights and calibration. Scores of another are never mixed in.
"""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from forensics.common.errors import ForensicsError

_TRANSIENT = frozenset({"unreadable_file", "request_failed"})
"""Statuses that another try may mend: they are not kept."""


class ScoreStore:
    """The rows of one file; while it is open no other process can write there.

    Attributes:
        replaced: Whether the file held rows of another server, which are in `old_path` now.
    """

    def __init__(self, path: Path, server: Mapping[str, Any]) -> None:
        """Opens the file and reads its rows; it is made where it is missing.

        Args:
            path: The file, in a folder that exists.
            server: What the scores depend on, as plain JSON values.

        Raises:
            ForensicsError: The file is no such file, or another process is at work on it.
            OSError: It cannot be read or written.
        """
        self.replaced = False
        self._rows: dict[str, dict[str, Any]] = {}
        self._file = path.open("a+", encoding="utf-8", errors="surrogateescape")
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ForensicsError(f"{path}: in use by another run; wait, or choose another --output") from error
            self._read(path, server)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, path: Path) -> dict[str, Any] | None:
        """The row of an image: `Verdict.to_dict` with its size and time. None where it has none or the file changed."""
        row = self._rows.get(str(path))
        return row if row is not None and _fingerprint(path) == (row["size"], row["mtime_ns"]) else None

    def keep(self, path: Path, measured: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps what is known of an image, unless another try may give something better; its row.

        Args:
            path: The image.
            measured: Plain JSON values, `status` among them.
        """
        row = {**measured, "path": str(path)}
        stamp = _fingerprint(path)
        if stamp is not None and row["status"] not in _TRANSIENT:
            row |= {"size": stamp[0], "mtime_ns": stamp[1]}
            self._rows[str(path)] = row
            self._write(row)
        return row

    def _read(self, path: Path, server: Mapping[str, Any]) -> None:
        self._file.seek(0)
        lines = self._file.readlines()
        if lines and not lines[-1].endswith("\n"):  # a run was killed while it wrote this
            self._file.truncate(len("".join(lines[:-1]).encode("utf-8", "surrogateescape")))
            del lines[-1]
        try:
            documents = [json.loads(line) for line in lines]
            written_by = documents[0]["server"] if documents else server
            rows = {str(row["path"]): row for row in documents[1:]}
            if not all({"status", "size", "mtime_ns"} <= set(row) for row in rows.values()):
                raise KeyError("status, size or mtime_ns is missing")
        except (ValueError, KeyError, TypeError) as error:
            raise ForensicsError(f"{path}: not a file of scores ({error!r}); remove it to score all again") from error
        if written_by == server:
            self._rows = rows
        else:
            self.replaced = True
            old_path(path).write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
            self._file.truncate(0)
        if written_by != server or not documents:
            self._write({"server": server})

    def _write(self, document: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(document, allow_nan=False) + "\n")
        self._file.flush()


def old_path(path: Path) -> Path:
    """Where the rows of another server go: the last ones only."""
    return path.with_name(f"{path.stem}.old{path.suffix}")


def _fingerprint(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
