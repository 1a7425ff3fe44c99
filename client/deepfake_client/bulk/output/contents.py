"""Verdicts by the content of the files that they are on, in an SQLite database: memory does not grow with them."""

import json
import sqlite3
from dataclasses import asdict
from typing import Any

from ...early import EarlyVerdict
from ...results import Face, StreamVerdict, Verdict

_SCHEMA = "CREATE TABLE IF NOT EXISTS content (key BLOB PRIMARY KEY, ok INTEGER NOT NULL, verdict TEXT NOT NULL)"


class Contents:
    """A table of such a database, which whoever opened it commits."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        self._db.execute(_SCHEMA)

    def find(self, content: bytes) -> Verdict | None:
        """The verdict on a content; None where there is none."""
        row = self._db.execute("SELECT verdict FROM content WHERE key = ?", (content,)).fetchone()
        return None if row is None else _verdict(json.loads(row[0]))

    def keep(self, content: bytes, verdict: Verdict) -> bytes:
        """Keeps the verdict on a content; its entry for a digest of the table."""
        values = content, verdict.ok, json.dumps({"early": isinstance(verdict, EarlyVerdict), **_plain(verdict)})
        self._db.execute("INSERT INTO content VALUES (?, ?, ?)", values)
        return entry(*values)


def entry(*values: Any) -> bytes:
    """The values of a row as they enter a digest."""
    return repr([int(value) if isinstance(value, bool) else value for value in values]).encode()


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {name: value for name, value in asdict(verdict).items() if name not in ("path", "index")}


def _verdict(plain: dict[str, Any]) -> Verdict:
    kind = EarlyVerdict if plain.pop("early", False) else Verdict
    plain["streams"] = {name: StreamVerdict(**stream) for name, stream in plain["streams"].items()}
    plain["face"] = Face(**plain["face"] | {"box": plain["face"]["box"] and tuple(plain["face"]["box"])})
    if plain["faces"] is not None:
        plain["faces"] = tuple(map(_verdict, plain["faces"]))
    for name in ("score_range", "probability_range", "streams_run"):
        if plain.get(name) is not None:
            plain[name] = tuple(plain[name])
    plain.pop("path", None)
    plain.pop("index", None)
    return kind(None, **plain)
