"""What a run says while it goes: a JSON line an event, TensorBoard, and a line on the terminal."""

import json
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

ESTIMATE_AFTER = 5
"""Updates after which the time left is told; the first one, which warms up, does not count."""

METRICS_FILE = "metrics.jsonl"
SKIPPED_FILE = "skipped.txt"


class Journal:
    """Writes the events of a run.

    Args:
        folder: Of the run.
        total: Updates of the whole run.
        done: Updates already made.
        keep: Bytes of the metrics that are of those updates; the rest is cut off.
        console: Where to show progress.
    """

    def __init__(self, folder: Path, total: int, done: int, keep: int, console: Console) -> None:
        self._metrics = (folder / METRICS_FILE).open("ab", buffering=0)
        self._metrics.truncate(keep)
        self._metrics.seek(keep)
        self._skipped = folder / SKIPPED_FILE
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=done)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("updates", total=total, completed=done, state="")
        self._console = console
        self._total = total
        self._made, self._began = 0, 0.0

    def __enter__(self) -> "Journal":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._board.close()
        self._metrics.close()

    def update(self, number: int, **values: float) -> None:
        """One update was made: its loss, learning_rate, gradient_norm and images_per_second."""
        self._write({"event": "update", "update": number} | values)
        for name, value in values.items():
            self._board.add_scalar(f"training/{name}", value, number)
        state = f"loss {values['loss']:.4f}  rate {values['learning_rate']:.2e}  {values['images_per_second']:.1f} im/s"
        self._progress.update(self._task, completed=number, state=state)
        self._tell_time_left(number)

    def validation(self, number: int, measures: dict[str, dict[str, dict[str, Any]]]) -> None:
        """Measures by round (clean, degraded), then by data set."""
        self._write({"event": "validation", "update": number} | measures)
        for round_name, by_dataset in measures.items():
            for dataset, values in by_dataset.items():
                self._board.add_scalar(f"validation/{round_name}/{dataset}", values["value"], number)
        shown = ", ".join(f"{name} {each['all']['value']:.3f}" for name, each in measures.items() if "all" in each)
        self.say(f"update {number}: validation AUC {shown}")

    def skipped(self, problems: list[str]) -> None:
        """Images that could not be used."""
        if problems:
            with self._skipped.open("a", encoding="utf-8") as file:
                file.writelines(f"{problem}\n" for problem in problems)

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

    def flush(self) -> int:
        """Everything written so far is on the disk; how many bytes of metrics that is."""
        self._metrics.flush()
        self._board.flush()
        return self._metrics.tell()

    def _write(self, event: dict[str, Any]) -> None:
        self._metrics.write(json.dumps(event).encode() + b"\n")
