"""Progress bars: on standard error, and only where that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deepfake_client.cli import new_bar

Advance = Callable[[], object]
"""Called when one unit of the work is done."""


def silent() -> None:
    """An `Advance` that shows nothing."""


@contextmanager
def progress(description: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """A bar while the block runs.

    Args:
        description: What is being done.
        total: Units in all.
        unit: Name of the units, for the speed.
        done: Units that were done before.
    """
    bar = new_bar(unit)
    with bar:
        task = bar.add_task(description, total=total, completed=done)
        yield lambda: bar.advance(task)
