"""Where an evaluation goes: the terminal, report.json and report.html."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from forensics.evaluation import Evaluation
from forensics.plots import histogram_plot, reliability_plot, roc_plot
from forensics.scores import Scores, Unscored
from forensics.scoring import Server
from forensics.tables import Table, evaluation_tables

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
FORMAT_VERSION = 1

_LISTED = 5
"""Unscored images that the terminal lists; the files list all."""


@dataclass(frozen=True)
class Report:
    """An evaluation with its circumstances.

    Attributes:
        data: The data set.
        created: When, ISO 8601.
        server: Which weights and calibration gave the scores.
        scores: The images.
        unscored: Those that are left out.
        evaluation: The numbers.
    """

    data: Path
    created: str
    server: Server
    scores: Scores
    unscored: Sequence[Unscored]
    evaluation: Evaluation

    @property
    def headline(self) -> str:
        """The images in a sentence."""
        return headline(self.data, self.scores, self.unscored)


def headline(data: Path, scores: Scores, unscored: Sequence[Unscored]) -> str:
    """The images of a data set in a sentence, and how many are left out."""
    text = f"{scores.real} real and {scores.fake} fake images of {data}"
    if not unscored:
        return f"{text}; all were scored"
    counts = Counter(each.status for each in unscored)
    reasons = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    return f"{text}; {len(unscored)} more could not be scored and are left out ({reasons})"


def print_tables(console: Console, tables: Sequence[Table]) -> None:
    """Tables on a terminal, one below the other."""
    for table in tables:
        grid = RichTable(title=table.title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
        for index, name in enumerate(table.header):
            grid.add_column(name, justify="right" if index else "left", no_wrap=index > 0)
        for row in table.rows:
            grid.add_row(*(Text(cell) for cell in row))
        console.print(grid, "")


def print_report(console: Console, report: Report) -> None:
    """The report on a terminal."""
    console.print(Text(report.headline), "")
    for each in report.unscored[:_LISTED]:
        # Not wrapped: a path is there to be copied.
        console.print(Text.assemble(f"  {each.path}  ", (f"{each.status}: {each.reason}", "yellow")), soft_wrap=True)
    if len(report.unscored) > _LISTED:
        console.print(f"  and {len(report.unscored) - _LISTED} more, which {REPORT_JSON} lists")
    print_tables(console, evaluation_tables(report.evaluation))
    if report.server.untrained:
        console.print("[yellow]UNTRAINED weights: these numbers mean nothing.")


def write_json(path: Path, report: Report) -> None:
    """All numbers of the report, for programs."""
    document = {
        "version": FORMAT_VERSION,
        "created": report.created,
        "data": str(report.data),
        "untrained": report.server.untrained,
        "server": report.server.to_dict(),
        "evaluation": asdict(report.evaluation),
        "unscored": [asdict(each) for each in report.unscored],
    }
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_html(path: Path, report: Report) -> None:
    """The report as one page that needs no other file."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    plots = {
        "ROC curves": roc_plot(report.scores),
        "Reliability: score against the share of fake images": reliability_plot(report.scores),
        "Distribution of the scores": histogram_plot(report.scores),
    }
    page = templates.get_template("report.html.j2").render(
        report=report, tables=evaluation_tables(report.evaluation), plots=plots
    )
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
