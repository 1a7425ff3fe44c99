"""Where a robustness study goes: the terminal, robustness.json and robustness.html."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2
from rich.console import Console
from rich.text import Text

from forensics.report import print_tables
from forensics.robustness import SweepMeasures
from forensics.robustness_plots import sweep_plot
from forensics.robustness_rows import LARGEST_PIXELS
from forensics.robustness_tables import summary_table, sweep_tables
from forensics.scores import Unscored
from forensics.scoring import Server

REPORT_JSON = "robustness.json"
REPORT_HTML = "robustness.html"
FORMAT_VERSION = 1

_LISTED = 5
"""Unscored images that the terminal lists; the files list all."""


@dataclass(frozen=True)
class RobustnessReport:
    """A study with its circumstances.

    Attributes:
        data: The data set.
        created: When, ISO 8601.
        server: Which weights and calibration gave the scores.
        real: Number of real images; None without labels.
        fake: Number of fake ones; None without labels.
        images: Number of all images.
        seed: Of the degradations.
        keep_face: Whether the clean image's face was used at every level.
        resamples: Of the bootstrap.
        unscored: Images that are left out.
        sweeps: The numbers.
    """

    data: Path
    created: str
    server: Server
    real: int | None
    fake: int | None
    images: int
    seed: int
    keep_face: bool
    resamples: int
    unscored: Sequence[Unscored]
    sweeps: Sequence[SweepMeasures]

    @property
    def headline(self) -> str:
        """The images in a sentence."""
        kinds = f"{self.images} images" if self.real is None else f"{self.real} real and {self.fake} fake images"
        text = f"{kinds} of {self.data}, under {len(self.sweeps)} sweeps of degradation"
        if not self.unscored:
            return f"{text}; all were scored"
        counts = Counter(each.status for each in self.unscored)
        reasons = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        return f"{text}; {len(self.unscored)} more could not be scored and are left out ({reasons})"

    @property
    def largest_pixels(self) -> int:
        """Pixels to which larger images were reduced."""
        return LARGEST_PIXELS


def print_report(console: Console, report: RobustnessReport) -> None:
    """The study on a terminal: the summary; the page has all."""
    console.print(Text(report.headline), "")
    for each in report.unscored[:_LISTED]:
        # Not wrapped: a path is there to be copied.
        console.print(Text.assemble(f"  {each.path}  ", (f"{each.status}: {each.reason}", "yellow")), soft_wrap=True)
    if len(report.unscored) > _LISTED:
        console.print(f"  and {len(report.unscored) - _LISTED} more, which {REPORT_JSON} lists")
    print_tables(console, [summary_table(report.sweeps)])
    if report.server.untrained:
        console.print("[yellow]UNTRAINED weights: these numbers mean nothing.")


def write_json(path: Path, report: RobustnessReport) -> None:
    """All numbers of the study, for programs."""
    document = {
        "version": FORMAT_VERSION,
        "untrained": report.server.untrained,
        **{name: value for name, value in vars(report).items() if name not in ("server", "unscored", "sweeps")},
        "data": str(report.data),
        "server": report.server.to_dict(),
        "sweeps": [asdict(sweep) for sweep in report.sweeps],
        "unscored": [asdict(each) for each in report.unscored],
    }
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_html(path: Path, report: RobustnessReport) -> None:
    """The study as one page that needs no other file."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = templates.get_template("robustness.html.j2").render(
        report=report,
        server=report.server,
        summary=summary_table(report.sweeps),
        sweeps=[(sweep, sweep_plot(sweep), sweep_tables(sweep)) for sweep in report.sweeps],
    )
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
