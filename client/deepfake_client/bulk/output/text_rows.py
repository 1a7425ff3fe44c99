"""Verdicts as text: JSONL and CSV. Each row is written and flushed as it comes."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TextIO

from ...columns import COLUMNS, EARLY_COLUMNS, FILE_COLUMNS, file_row
from ...results import Verdict
from ...text import printable

_JSON_ESCAPES = {
    code: f"\\u{code:04x}"
    for code in (*range(0x7F, 0xA0), *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
}
"""JSON escapes control characters below a space; these too act on a terminal that prints the row."""

_FORMULA = ("=", "+", "@", "-", "\t", "\r")
"""What a cell begins with that a spreadsheet takes for a formula."""

Sink = Callable[[Verdict], None]
"""Takes one verdict after the other."""

CSV_COLUMNS: tuple[str, ...] = ("path", *COLUMNS)
"""The fields of a JSONL row, flattened."""

WIDE_COLUMNS: tuple[str, ...] = (*CSV_COLUMNS, *FILE_COLUMNS)
"""The same where videos or every face are asked for."""

VERDICT_COLUMNS: tuple[str, ...] = (*CSV_COLUMNS, *EARLY_COLUMNS)
"""The same where verdicts alone are asked for."""

TEXT_COLUMNS = {"path", *(name for name, kind in (COLUMNS | FILE_COLUMNS | EARLY_COLUMNS).items() if kind is str)}
"""Those that are text; the others are numbers."""


def jsonl(file: TextIO) -> Sink:
    """One JSON object a line, as `Verdict.to_dict` has it."""
    return _lines(file, "", jsonl_row)


def csv_rows(file: TextIO, columns: Sequence[str] = CSV_COLUMNS) -> Sink:
    """One line an image below a header of some columns; what is not there is left empty."""
    if file.isatty():
        return _lines(file, csv_header(columns), lambda verdict: printable(csv_row(verdict, columns), keep="\n"))
    return _lines(file, csv_header(columns), partial(csv_row, columns=columns))


def jsonl_row(verdict: Verdict) -> str:
    """A line of JSONL; more where more than one row belongs to the verdict."""
    rows = (json.dumps(each.to_dict(), ensure_ascii=False, allow_nan=False) for each in verdict.rows())
    return "".join(row.translate(_JSON_ESCAPES) + "\n" for row in rows)


def csv_header(columns: Sequence[str] = CSV_COLUMNS) -> str:
    """The first line of a CSV file."""
    return _csv_line(columns)


def csv_row(verdict: Verdict, columns: Sequence[str] = CSV_COLUMNS) -> str:
    """A record of a CSV file; more where more than one row belongs to the verdict."""
    rows = map(file_row, verdict.rows())
    return "".join(_csv_line(_harmless(column, row[column]) for column in columns) for row in rows)


def _lines(file: TextIO, header: str, render: Callable[[Verdict], str]) -> Sink:
    def emit(text: str) -> None:
        file.write(text)
        file.flush()

    emit(header)
    return lambda verdict: emit(render(verdict))


def _csv_line(values: Iterable[Any]) -> str:
    line = io.StringIO()
    # Every Python quotes the characters of the line terminator; the first of 3.11 quotes no other carriage return.
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _harmless(name: str, value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula. A path stays the path of its file."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    return f"./{value}" if name == "path" else f"'{value}"
