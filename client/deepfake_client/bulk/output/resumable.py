"""An output with its journal: a run that was stopped in any way goes on where it was."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...results import Verdict
from .content import content_of
from .journal import Journal, JournalError
from .rows import KINDS, REPLACE, OutputError, sync_folder
from .text_rows import CSV_COLUMNS

_COMMIT_SECONDS = 1.0
"""Work that a kill may cost, in seconds: its rows are scored again."""


class ResumableOutput:
    """An output with its journal. The same run, started again, goes on where it was. Threads may share it.

    Attributes:
        earlier: Rows that were there when it was opened.
    """

    def __init__(
        self,
        path: Path,
        run: Mapping[str, Any],
        *,
        overwrite: bool = False,
        retry_failed: bool = False,
        columns: Sequence[str] = CSV_COLUMNS,
    ) -> None:
        """Opens an output.

        Args:
            path: Its name, which ends in one of `KINDS`.
            run: What a run must share with the one that wrote the rows, in plain values by what to call them.
            overwrite: Whether to begin anew, in place of what is there.
            retry_failed: Whether to take out the rows of images that could not be scored.
            columns: Of a table.

        Raises:
            OutputError: There is something else, or another run's output, or another run is writing it.
            OSError: It cannot be written.
            sqlite3.Error: Its journal cannot be written.
        """
        run = json.loads(json.dumps(run))
        self._path = path
        self._rows = KINDS[path.suffix.lower()](path.resolve(), columns)  # what a link names is replaced, not the link
        self._half_done = False
        self._committed = time.monotonic()
        self._turn = threading.Lock()
        with self._named():
            if self._rows.is_there() and not overwrite and not self._rows.journal_path.exists():
                raise OutputError(f"it is there already, without a journal to go on by; {REPLACE}")
            self._rows.journal_path.parent.mkdir(exist_ok=True)
            self._journal = Journal(self._rows.journal_path)
        try:
            with self._named():
                # Without rows there is nothing to lose: a run may have been stopped before its first commit.
                if overwrite or not self._rows.has_rows(self._journal):
                    self._start(run)
                else:
                    self._go_on(run, retry_failed)
        except BaseException:
            self._close()
            raise
        self.earlier = self._journal.count()

    def __enter__(self) -> "ResumableOutput":
        return self

    def __exit__(self, *_: object) -> None:
        with self._turn:
            try:
                if not self._half_done:  # else what the last commit left is what the next run goes on from
                    self._commit(last=True)
            finally:
                self._close()

    def has(self, key: bytes) -> bool:
        """Whether an image has its row from before; see `Journal.has`."""
        with self._turn:
            return self.earlier > 0 and self._journal.has(key)

    def write(self, key: bytes, verdict: Verdict) -> None:
        """Writes the row of an image."""
        with self._turn:
            self._half_done = True
            self._journal.add(key, verdict.ok, self._rows.append(self._journal, verdict))
            self._half_done = False
            if time.monotonic() - self._committed >= _COMMIT_SECONDS:
                self._commit()

    def known(self, content: bytes) -> Verdict | None:
        """The verdict on a content of this run or of those before; see `Journal.known`."""
        with self._turn:
            return self._journal.known(content)

    def keep(self, content: bytes, verdict: Verdict) -> None:
        """Keeps the verdict on a content; it lasts as the rows do."""
        with self._turn:
            self._journal.keep(content, verdict)

    def count_failed(self) -> int:
        """Rows of images that could not be scored, those from before included."""
        with self._turn:
            return self._journal.count(failed=True)

    def _start(self, run: Mapping[str, Any]) -> None:
        self._journal.clear()
        self._journal.commit()
        self._rows.start(self._journal)
        self._journal["run"] = dict(run)
        self._commit()

    def _go_on(self, run: Mapping[str, Any], retry_failed: bool) -> None:
        self._journal.check()
        before = self._journal["run"]
        if before is None:  # a run that was to overwrite it was stopped before it began
            raise self._journal.damaged()
        if changed := [name for name, value in run.items() if before.get(name) != value]:
            raise OutputError(f"it holds rows of a run with other {' and '.join(changed)}; {REPLACE}")
        self._replace_staged()
        self._rows.restore(self._journal)
        if retry_failed and self._journal.count(failed=True):
            self._journal["replaced"] = self._journal["content"]
            self._rows.stage_scored(self._journal)
            self._journal.forget_failed()
            self._journal.commit()
            self._replace_staged()
            self._rows.restore(self._journal)
        self._journal["ended"] = False  # from here on rows may follow what is committed
        self._journal.commit()

    def _replace_staged(self) -> None:
        """Staged files count from the commit that says what they replace; without it they are left from an attempt."""
        before, after = self._journal["replaced"], self._journal["content"]
        for stage, file in self._rows.staged():
            if before is None:
                stage.unlink()
                continue
            for path, known in ((stage, after[file.name]), (file, before[file.name])):
                if content_of(path).known != tuple(known):
                    raise OutputError(f"{path.name} is not what its journal says; {REPLACE}")
            stage.replace(file)
            sync_folder(file.parent)
        self._journal["replaced"] = None
        self._journal.commit()

    def _commit(self, *, last: bool = False) -> None:
        self._half_done = True
        self._rows.sync(self._journal, last=last)
        self._journal.commit()
        self._half_done = False
        self._committed = time.monotonic()

    def _close(self) -> None:
        self._rows.close()
        self._journal.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OutputError, JournalError) as error:
            raise OutputError(f"{self._path}: {error}") from None
