"""Where verdicts go: JSONL, CSV, or a table on a terminal. Each row is written and flushed as it comes."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from typing import Any, TextIO

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._flat import COLUMNS, flatten
from ._results import STREAM_NAMES, Verdict
from ._status import explain

Sink = Callable[[Verdict], None]
"""Takes one verdict after the other."""

CSV_COLUMNS = ("path", *COLUMNS)
"""The fields of a JSONL row, flattened."""

TEXT_COLUMNS = {"path", *(name for name, kind in COLUMNS.items() if kind is str)}
"""Those that are text; the others are numbers."""

_COLOURS = {"fake": "red", "real": "green", "uncertain": "yellow"}


def jsonl(file: TextIO) -> Sink:
    """One JSON object a line, as `Verdict.to_dict` has it."""
    return _lines(file, "", jsonl_row)


def csv_rows(file: TextIO) -> Sink:
    """One line an image below a header of `CSV_COLUMNS`; what is not there is left empty."""
    return _lines(file, csv_header(), csv_row)


def jsonl_row(verdict: Verdict) -> str:
    """A line of JSONL."""
    return json.dumps(verdict.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"


def csv_header() -> str:
    """The first line of a CSV file."""
    return _csv_line(CSV_COLUMNS)


def csv_row(verdict: Verdict) -> str:
    """A record of a CSV file."""
    row = flatten(verdict)
    return _csv_line(row[column] for column in CSV_COLUMNS)


def _lines(file: TextIO, header: str, render: Callable[[Verdict], str]) -> Sink:
    def emit(text: str) -> None:
        file.write(text)
        file.flush()

    emit(header)
    return lambda verdict: emit(render(verdict))


def _csv_line(values: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def table(console: Console) -> Sink:
    """One line an image on a terminal, below headings."""
    fixed = {"verdict": 9, "score": 5, "global": 6, "local": 6, "semantic": 8, "face": 12}
    width = max(console.width - sum(fixed.values()) - 2 * len(fixed), 16)
    show_header = True

    def write(verdict: Verdict) -> None:
        nonlocal show_header
        grid = Table(box=None, show_header=show_header, pad_edge=False, padding=(0, 2, 0, 0))
        grid.add_column("image", width=width, no_wrap=True)
        for name, size in fixed.items():
            grid.add_column(name, width=size, no_wrap=True)
        path = click.format_filename(verdict.path or "")
        if verdict.ok:
            streams = (_short(verdict.streams[name].probability) for name in STREAM_NAMES)
            decision = Text(verdict.verdict or "", style=_COLOURS.get(verdict.verdict or "", ""))
            shown = path if len(path) <= width else "…" + path[1 - width :]
            grid.add_row(Text(shown), decision, f"{verdict.score}", *streams, Text(verdict.face.source or ""))
            console.print(grid)
        else:
            if show_header:
                console.print(grid)
            console.print(Text.assemble(path, "  ", (_reason(verdict), "yellow")))
        show_header = False

    return write


def _reason(verdict: Verdict) -> str:
    reason = click.format_filename(verdict.error) if verdict.error else explain(verdict.status)
    return reason if reason == verdict.status else f"{verdict.status}: {reason}"


def _short(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.3f}"
