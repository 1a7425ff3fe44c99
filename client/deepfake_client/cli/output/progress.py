"""The progress bar: on standard error, and only where that is a terminal."""

import sys
import threading

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ...bulk.inputs import Inputs, find_images


def new_bar(unit: str) -> Progress:
    """A bar that says how far, how fast and how long; not shown where standard error is no terminal.

    Args:
        unit: Name of what is counted.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=sys.stderr is None or not sys.stderr.isatty(),
    )


class ProgressBar:
    """Counts images; the total follows from a second, faster walk beside the scoring.

    Attributes:
        console: The console to print on while the bar is shown. None where there is no bar.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._bar = new_bar("images")
        shown = not self._bar.disable
        self._task = self._bar.add_task("scoring", total=None)
        self.console = self._bar.console if shown else None
        if shown and inputs.are_files:
            threading.Thread(target=self._count, args=(inputs,), daemon=True).start()

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """One image more is done."""
        self._bar.advance(self._task)

    def _count(self, inputs: Inputs) -> None:
        total = 0
        for item in find_images(inputs):
            if item.fleeting:
                return  # to count a compressed shard is to decompress it a second time
            total += 1
        self._bar.update(self._task, total=total)


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        self._unit = unit
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} {self._unit}/s")
