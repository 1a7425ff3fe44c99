"""Verdicts as text: JSONL and CSV. Each row is written and flushed as it comes."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from ..columns import COLUMNS, flatten
from ..results import Verdict

Sink = Callable[[Verdict], None]
"""Takes one verdict after the other."""

CSV_COLUMNS = ("path", *COLUMNS)
"""The fields of a JSONL row, flattened."""

TEXT_COLUMNS = {"path", *(name for name, kind in COLUMNS.items() if kind is str)}
"""Those that are text; the others are numbers."""


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
