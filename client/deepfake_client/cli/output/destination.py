"""Where the command line puts rows, and the scoring of what has none yet."""

import errno
import io
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TextIO

import click
from rich.console import Console

from ...bulk.inputs import is_video
from ...bulk.once import Once
from ...bulk.output.contents import Contents
from ...bulk.output.journal import key_of
from ...bulk.output.resumable import ResumableOutput
from ...bulk.output.rows import KINDS, OutputError
from ...bulk.output.text_rows import Sink, csv_rows, jsonl
from ...bulk.parquet import ParquetError, require_pyarrow
from ...client import DetectorClient
from ...images.items import Faces, Item
from ...results import Verdict
from ...video import VideoOptions, score_items
from .table import table


class _UnwrittenError(click.ClickException):
    """Rows cannot be written, so that the run has not come to its end."""

    exit_code = 4


class Destination(Protocol):
    """Takes rows.

    Attributes:
        earlier: Rows that it has from before.
    """

    earlier: int

    def has(self, key: bytes) -> bool:
        """Whether an image has its row from before."""

    def write(self, key: bytes, verdict: Verdict) -> None:
        """Takes the row of an image."""

    def count_failed(self) -> int:
        """Rows of images that could not be scored, where there are any from before."""

    def known(self, content: bytes) -> Verdict | None:
        """The verdict on a content, where it was kept."""

    def keep(self, content: bytes, verdict: Verdict) -> None:
        """Keeps the verdict on a content."""


class _Printed:
    """What goes to a terminal, a pipe or a device: nothing can go on there later."""

    earlier = 0

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        # A database without a name lies in a file that goes with it; `Once` lets one thread at a time use it.
        self._contents = Contents(sqlite3.connect("", check_same_thread=False, isolation_level=None))

    def has(self, key: bytes) -> bool:
        return False

    def write(self, key: bytes, verdict: Verdict) -> None:
        self._sink(verdict)

    def count_failed(self) -> int:
        return 0

    def known(self, content: bytes) -> Verdict | None:
        return self._contents.find(content)

    def keep(self, content: bytes, verdict: Verdict) -> None:
        self._contents.keep(content, verdict)


def check_standard_output() -> None:
    """Raises an error that ends the command where rows are to go to a standard output that is closed."""
    if sys.stdout is None:
        raise _UnwrittenError("standard output is closed; name a file with --output, or open it")


def check_output(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Callback of the option that names the output."""
    if value is None:
        return None
    if value.suffix.lower() not in KINDS:
        raise click.BadParameter(f"{value}: the name must end in .jsonl, .csv or .parquet, such as scores.csv")
    if not value.absolute().parent.is_dir():
        raise click.BadParameter(f"{value}: the folder {value.parent} does not exist; create it first")
    if not os.access(value.absolute().parent, os.W_OK):
        raise click.BadParameter(f"{value}: the folder {value.parent} cannot be written to; choose another")
    if value.suffix.lower() == ".parquet":
        try:
            require_pyarrow()
        except ParquetError as error:
            raise click.BadParameter(str(error)) from None
    elif value.is_dir():
        raise click.BadParameter(f"{value}: it is a folder; only .parquet output is one")
    return value


@contextmanager
def open_destination(
    output: Path | None,
    printed: str | None,
    beside_bar: Console | None,
    run: Mapping[str, Any],
    *,
    columns: Sequence[str],
    overwrite: bool,
    retry_failed: bool,
) -> Iterator[Destination]:
    """The output file with its journal; else standard output. Errors as `ResumableOutput`."""
    sinks: dict[str, Callable[[TextIO], Sink]] = {"jsonl": jsonl, "csv": partial(csv_rows, columns=columns)}
    # A file name that is not valid UTF-8 is written as the escape by which JSON can carry it.
    encoding, errors = "utf-8", "backslashreplace"
    if output is not None and output.exists() and not (output.is_file() or output.is_dir()):
        with output.open("w", newline="", encoding=encoding, errors=errors) as file:
            yield _Printed(sinks[output.suffix.lower().removeprefix(".")](file))
    elif output is not None:
        with ResumableOutput(output, run, overwrite=overwrite, retry_failed=retry_failed, columns=columns) as rows:
            yield rows
    elif printed == "table" or (printed is None and sys.stdout.isatty()):
        yield _Printed(table(beside_bar or Console()))
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding=encoding, errors=errors)
        yield _Printed(sinks[printed or "jsonl"](sys.stdout))


@contextmanager
def errors_told(output: Path | None) -> Iterator[None]:
    """Errors of writing end the command with a line."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of a pipe has what it wants; click ends quietly
    except OutputError as error:
        raise click.BadParameter(str(error), param_hint="--output") from None
    except OSError as error:
        if output is not None and not output.exists() and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = f"the folder {output.parent} cannot be written to ({error.strerror}); choose another"
            raise click.BadParameter(f"{output}: {why}", param_hint="--output") from None
        raise _UnwrittenError(f"{output or 'standard output'}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        beside = f"no journal can be kept beside {output}" if output else "the journal"
        raise _UnwrittenError(f"{beside}: {error}; choose a folder that can be written to") from error


def score_missing(
    client: DetectorClient,
    found: Iterable[Item],
    destination: Destination,
    *,
    faces: Faces,
    videos: VideoOptions | None,
    ordered: bool,
    once: bool,
    stop: threading.Event,
    passed: Callable[[], None],
    copied: Callable[[], None],
) -> Generator[tuple[bytes, Verdict], None, None]:
    """Scores the images that have no row yet.

    Args:
        client: Who scores them.
        found: All images.
        destination: Where rows are.
        faces: Whose verdict each image gets.
        videos: How videos are scored; None where they are not: they are sent as they are, and are no images.
        ordered: Whether verdicts come in the order of the images.
        once: Whether images of equal content are sent once.
        stop: Once it is set, no more images are taken.
        passed: Called for each image that has its row.
        copied: Called for each image that was not sent, because another of equal content was.

    Yields:
        The key of each image for `Destination.write`, and its verdict.

    Raises:
        DetectorError: As `DetectorClient.score_many`.
    """
    keys: dict[int, bytes] = {}
    place = count()

    def missing() -> Iterator[Item]:
        for item in found:
            if stop.is_set():
                return
            key = key_of(item)
            if destination.has(key):
                passed()
            else:
                keys[next(place)] = key
                yield replace(item.held(), faces=faces, digest=videos is not None and videos.digest)

    chosen = is_video if videos else lambda _: False

    def score(items: Iterable[Item]) -> Generator[tuple[int, Verdict], None, None]:
        return score_items(client, items, videos or VideoOptions(), chosen, ordered=ordered, stop=stop)

    if not once:
        with closing(score(missing())) as scored:
            for number, verdict in scored:
                yield keys.pop(number), verdict
        return
    run = Once(destination, chosen, copied)
    with closing(score(run.items(missing()))) as scored:
        for number, verdict in run.verdicts(scored):
            yield keys.pop(number), verdict
    with closing(score(item for _, item in run.left)) as scored:
        for number, verdict in scored:
            yield keys.pop(run.left[number][0]), verdict
