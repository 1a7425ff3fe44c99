"""What a run says while it goes: a JSON line an event, TensorBoard, and a line on the terminal."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from training.errors import RunError
from training.run.board import Board
from training.run.state import Progress

ESTIMATE_AFTER = 5
"""Updates after which the time left is told; the first one, which warms up, does not count."""

METRICS_FILE = "metrics.jsonl"
SKIPPED_FILE = "skipped.txt"


class Journal:
    """Writes the events of a run.

    Args:
        folder: Of the run.
        total: Updates of the whole run.
        progress: Where the run is; metrics of later updates are cut off.
        console: Where to show progress.
    """

    def __init__(self, folder: Path, total: int, progress: Progress, console: Console) -> None:
        self._path = folder / METRICS_FILE
        self._metrics = self._path.open("ab", buffering=0)
        # Of a file that somebody removed there is nothing to keep.
        self._whole = self._metrics.truncate(min(progress.logged, self._metrics.seek(0, os.SEEK_END)))
        self._unwritten = progress.unlogged.encode()
        self._skipped = folder / SKIPPED_FILE
        self._board: Board | None = None
        self._console = console
        with self._board_optional():
            self._board = Board(folder / "tensorboard", progress.updates)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("updates", total=total, completed=progress.updates, state="")
        self._total = total
        self._made, self._began = 0, 0.0

    def __enter__(self) -> "Journal":
        self._write_lines()  # those that found no room at the last call
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._board is not None:
            self._board.close()
        self._metrics.close()

    def update(self, number: int, **values: float) -> None:
        """One update was made: its loss, learning_rate, gradient_norm and images_per_second."""
        self._write({"event": "update", "update": number} | values)
        self._draw(number, {f"training/{name}": value for name, value in values.items()})
        state = f"loss {values['loss']:.4f}  rate {values['learning_rate']:.2e}  {values['images_per_second']:.1f} im/s"
        self._bar.update(self._task, completed=number, state=state)
        self._tell_time_left(number)

    def validation(self, number: int, measures: dict[str, dict[str, dict[str, Any]]]) -> None:
        """Measures by round (clean, degraded), then by data set."""
        self._write({"event": "validation", "update": number} | measures)
        values = {
            f"validation/{name}/{dataset}": each["value"]
            for name, by_dataset in measures.items()
            for dataset, each in by_dataset.items()
        }
        self._draw(number, values)
        shown = ", ".join(f"{name} {each['all']['value']:.3f}" for name, each in measures.items() if "all" in each)
        self.say(f"update {number}: validation AUC {shown or 'of one class only: none'}")

    def skipped(self, problems: list[str]) -> None:
        """Images that could not be used."""
        if problems:
            try:
                with self._skipped.open("a", encoding="utf-8") as file:
                    file.writelines(f"{problem}\n" for problem in problems)
            except OSError as error:
                raise _unwritable(self._skipped, error) from error

    def say(self, text: str) -> None:
        """A line for people."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _tell_time_left(self, number: int) -> None:
        self._made += 1
        if self._made == 1:
            self._began = time.monotonic()
        if self._made == ESTIMATE_AFTER:
            seconds = (time.monotonic() - self._began) / (ESTIMATE_AFTER - 1)
            left = timedelta(seconds=round(seconds * (self._total - number)))
            self.say(f"update {number}: {seconds:.2f} s an update, about {left} left, validations apart")

    def flush(self) -> tuple[int, str]:
        """How many bytes of metrics are on the disk, in whole lines; and the lines that found no room there."""
        return self._whole, self._unwritten.decode()

    def _write(self, event: dict[str, Any]) -> None:
        self._unwritten += json.dumps(event).encode() + b"\n"
        self._write_lines()

    def _write_lines(self) -> None:
        try:
            while self._unwritten:
                count = self._metrics.write(self._unwritten) or 0
                self._whole, self._unwritten = self._whole + count, self._unwritten[count:]
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def _draw(self, number: int, values: dict[str, float]) -> None:
        with self._board_optional():
            if self._board is not None:
                self._board.add(number, values)

    @contextmanager
    def _board_optional(self) -> Iterator[None]:
        """The metrics hold all that TensorBoard shows: a run does not end for it."""
        try:
            yield
        except OSError as error:
            if self._board is not None:
                self._board.close()
            self._board = None
            self.say(f"warning: TensorBoard's file cannot be written ({error}); the run goes on without it")


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"{path}: cannot be written: {error}; make room, and give the same command again: it goes on")
