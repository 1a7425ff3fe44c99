"""The journal of a run: which images have their rows, in an SQLite file beside the output.

A row counts once its image is entered here, and an entry is committed only after the row is on the disk. Rows beyond
the last commit are cut off when the run goes on, and their images are scored again: so a run may be stopped in any way
and no row is lost or doubled. An entry costs about 30 bytes; what is in memory does not grow with them.

The journal also keeps digests: of the output that was committed, and of its own entries. Where either is not what it
was, the run is refused. With `--once` it keeps the verdict on each content, too.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ...images.items import Item
from ...results import Verdict
from .contents import Contents, entry

FORMAT = 2
"""Version of what the journal holds. A run does not go on with another one's."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS value (name TEXT PRIMARY KEY, json TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS done (key BLOB NOT NULL, ok INTEGER NOT NULL, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS waiting (row TEXT NOT NULL, ok INTEGER NOT NULL);
"""

_NOTHING = blake2b(digest_size=16).hexdigest()

# Sorted by SQLite on disk, once for a run that goes on; `remaining` is how many of an image's rows it has not met yet.
_EARLIER = """
CREATE TEMP TABLE earlier (key BLOB PRIMARY KEY, remaining INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO earlier SELECT key, count(*) FROM done GROUP BY key;
"""


class JournalError(Exception):
    """The journal cannot be used: another run has it, or it is damaged, or of another version."""


def key_of(item: Item) -> bytes:
    """What stands for an image in the journal: its path and face box in 16 bytes."""
    name = (item.path or "").encode("utf-8", "surrogatepass")
    return blake2b(name + repr(item.box).encode(), digest_size=16).digest()


class Journal:
    """The open journal; one run has it at a time, and one thread of that. Changes last from `commit` on.

    Raises:
        JournalError: Another run has it, or the file is damaged or no journal.
        sqlite3.Error: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA synchronous = EXTRA")  # a commit outlasts a loss of power
            self._db.execute("BEGIN EXCLUSIVE")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._db.execute(statement)
            self._contents = Contents(self._db)
            self._db.execute("COMMIT")
            if self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise self.damaged()
            self._db.executescript(_EARLIER)
            self._db.execute("BEGIN")
            self._digests = self._read_digests()
        except sqlite3.DatabaseError as error:
            self._db.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise JournalError(
                    f"another run is writing it, and holds {path}; wait for its end, or give another name"
                ) from None
            # The lowest byte is the kind. SQLITE_ERROR: there are tables of these names with other columns.
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
                raise self.damaged() from None
            raise
        except UnicodeDecodeError:  # what SQLite says of the damage has a part of it
            self._db.close()
            raise self.damaged() from None
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Ends without a commit."""
        with suppress(sqlite3.Error):  # a full disk was told before
            self._db.close()

    def commit(self) -> None:
        """Makes everything since the last commit last."""
        self["format"] = FORMAT
        self["digests"] = self._known_digests()
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")

    def check(self) -> None:
        """Raises JournalError where the entries are not those that were committed, or of another version."""
        if self["format"] is None and self["run"] is None:  # an empty file becomes such a journal when it is opened
            raise self.damaged()
        if self["format"] != FORMAT:
            raise JournalError(
                f"its journal {self._path} is of format {self['format'] or 1}, and this client writes {FORMAT}; go on"
                " with the release that began it, or begin anew with --overwrite"
            )
        if self["digests"] != self._known_digests():
            raise self.damaged()

    def __getitem__(self, name: str) -> Any:
        """A value that was kept; None where there is none. Raises JournalError where it is damaged."""
        row = self._db.execute("SELECT json FROM value WHERE name = ?", (name,)).fetchone()
        try:
            return None if row is None else json.loads(row[0])
        except (ValueError, TypeError):
            raise self.damaged() from None

    def __setitem__(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO value VALUES (?, ?)", (name, json.dumps(value)))

    def clear(self) -> None:
        """Forgets everything."""
        for table in ("value", "done", "waiting", "earlier", "content"):
            self._db.execute(f"DELETE FROM {table}")
        self._digests = self._read_digests()

    def has(self, key: bytes) -> bool:
        """Whether an image had its row when the journal was opened; each row counts for one time that it is asked."""
        changed = self._db.execute(
            "UPDATE earlier SET remaining = remaining - 1 WHERE key = ? AND remaining > 0", (key,)
        )
        return changed.rowcount == 1

    def add(self, key: bytes, ok: bool, size: int) -> None:
        """Enters an image, whether it was scored, and the bytes of its row."""
        self._db.execute("INSERT INTO done VALUES (?, ?, ?)", (key, ok, size))
        self._digests["done"].update(entry(key, ok, size))

    def count(self, *, failed: bool = False) -> int:
        """Images that are entered, or those among them that could not be scored."""
        (count,) = self._db.execute(f"SELECT count(*) FROM done {'WHERE NOT ok' if failed else ''}").fetchone()
        return int(count)

    def rows(self) -> Iterator[tuple[bool, int]]:
        """For each image in order: whether it was scored, and the bytes of its row."""
        return iter(self._db.execute("SELECT ok, size FROM done ORDER BY rowid"))

    def forget_failed(self) -> None:
        """Takes out the images that could not be scored."""
        for table in ("done", "waiting", "content"):
            self._db.execute(f"DELETE FROM {table} WHERE NOT ok")
        self._db.execute("DELETE FROM earlier")
        self._db.execute("INSERT INTO earlier SELECT key, count(*) FROM done GROUP BY key")
        self._digests = self._read_digests()

    def known(self, content: bytes) -> Verdict | None:
        """The verdict on a content that was scored; see `Contents`."""
        return self._contents.find(content)

    def keep(self, content: bytes, verdict: Verdict) -> None:
        """Keeps the verdict on a content, for others that are the same."""
        self._digests["content"].update(self._contents.keep(content, verdict))

    def wait(self, row: dict[str, Any], ok: bool) -> None:
        """Keeps a row that waits for its shard."""
        text = json.dumps(row)
        self._db.execute("INSERT INTO waiting VALUES (?, ?)", (text, ok))
        self._digests["waiting"].update(entry(text, ok))

    def waiting(self, batch: int) -> Iterator[list[dict[str, Any]]]:
        """The rows that wait, in batches."""
        cursor = self._db.execute("SELECT row FROM waiting ORDER BY rowid")
        while rows := cursor.fetchmany(batch):
            yield [json.loads(row) for (row,) in rows]

    def count_waiting(self) -> int:
        """Rows that wait."""
        (count,) = self._db.execute("SELECT count(*) FROM waiting").fetchone()
        return int(count)

    def end_waiting(self) -> None:
        """Forgets the rows that waited."""
        self._db.execute("DELETE FROM waiting")
        self._digests["waiting"] = blake2b(digest_size=16)

    def _read_digests(self) -> dict[str, blake2b]:
        digests = {}
        for table, columns in (("done", "key, ok, size"), ("waiting", "row, ok"), ("content", "key, ok, verdict")):
            digests[table] = blake2b(digest_size=16)
            for row in self._db.execute(f"SELECT {columns} FROM {table} ORDER BY rowid"):
                digests[table].update(entry(*row))
        return digests

    def _known_digests(self) -> dict[str, str]:
        values = self._db.execute("SELECT name, json FROM value WHERE name != 'digests' ORDER BY name").fetchall()
        entries = {table: digest.hexdigest() for table, digest in self._digests.items()}
        if entries["content"] == _NOTHING:  # as in journals from before there was this table
            del entries["content"]
        return {"value": blake2b(entry(*values), digest_size=16).hexdigest(), **entries}

    def damaged(self) -> JournalError:
        """The error where it does not hold what it should."""
        return JournalError(f"its journal {self._path} is damaged; delete it, and begin anew with --overwrite")
