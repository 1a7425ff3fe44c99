"""What every report is made of: tables, the sentence on the images, and the page."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from forensics.common.metrics import Estimate
from forensics.common.scoring.scores import Unscored
from forensics.common.scoring.server import Server

FORMAT_VERSION = 1
"""Of the JSON files."""

_LISTED = 5
"""Unscored images that the terminal lists; the files list all."""


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: Its heading.
        note: What its numbers are, for people who do not know.
        header: Names of the columns.
        rows: As many cells each; the first is a name, the others are numbers.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def interval(value: Estimate, signed: bool = False) -> str:
    """A value with its interval."""
    form = "+.4f" if signed else ".3f"
    return f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"


def headline(images: str, unscored: Sequence[Unscored]) -> str:
    """A sentence on the images, and on those that are left out.

    Args:
        images: What was scored, in words.
        unscored: What was not.
    """
    if not unscored:
        return f"{images}; all were scored"
    counts = Counter(each.status for each in unscored)
    reasons = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    return f"{images}; {len(unscored)} more could not be scored and are left out ({reasons})"


def print_head(console: Console, sentence: str, unscored: Sequence[Unscored], listed_in: str) -> None:
    """The sentence on the images, and the first of those that are left out; the file `listed_in` names all."""
    console.print(Text(sentence), "")
    for each in unscored[:_LISTED]:
        # Not wrapped: a path is there to be copied.
        console.print(Text.assemble(f"  {each.path}  ", (f"{each.status}: {each.reason}", "yellow")), soft_wrap=True)
    if len(unscored) > _LISTED:
        console.print(f"  and {len(unscored) - _LISTED} more, which {listed_in} lists")


def warn_of_weights(console: Console, server: Server) -> None:
    """Says where the weights behind the numbers are none that detect anything."""
    if server.untrained:
        console.print("[yellow]UNTRAINED weights: these numbers mean nothing.")
    if server.stand_in:
        console.print(f"[yellow]STAND-IN weights: {escape(server.stand_in)}.")


def write_json(path: Path, server: Server, **values: Any) -> None:
    """All numbers of a report, for programs.

    Args:
        path: The file.
        server: Which weights and calibration gave the scores.
        values: What else it says.
    """
    document = {"version": FORMAT_VERSION, "untrained": server.untrained, "server": server.to_dict(), **values}
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def print_tables(console: Console, tables: Sequence[Table]) -> None:
    """Tables on a terminal, one below the other."""
    for table in tables:
        grid = RichTable(title=table.title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
        for index, name in enumerate(table.header):
            grid.add_column(name, justify="right" if index else "left", no_wrap=index > 0)
        for row in table.rows:
            grid.add_row(*(Text(cell) for cell in row))
        console.print(grid, "")


def write_page(path: Path, template: Path, **values: Any) -> None:
    """A page that needs no other file.

    Args:
        path: The page.
        template: Its Jinja template, which extends `page.html.j2`.
        values: What the template shows, `server` among them.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = templates.get_template(template.name).render(**values)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
