"""Where a robustness study goes: the terminal, robustness.json and robustness.html."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from forensics.common import report as common
from forensics.common.pixels import LARGEST_PIXELS
from forensics.common.report import headline, print_head, print_tables, warn_of_weights, write_page
from forensics.common.scoring.scores import Unscored
from forensics.common.scoring.server import Server
from forensics.robustness.measures import SweepMeasures
from forensics.robustness.plots import sweep_plot
from forensics.robustness.rows import Degrade
from forensics.robustness.tables import summary_table, sweep_tables

REPORT_JSON = "robustness.json"
REPORT_HTML = "robustness.html"

_TEMPLATE = Path(__file__).with_name("report.html.j2")


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
        degrade: What was degraded, `file` or `streams`.
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
    degrade: Degrade
    keep_face: bool
    resamples: int
    unscored: Sequence[Unscored]
    sweeps: Sequence[SweepMeasures]

    @property
    def headline(self) -> str:
        """The images in a sentence."""
        kinds = f"{self.images} images" if self.real is None else f"{self.real} real and {self.fake} fake images"
        of = "of the file" if self.degrade == "file" else "of each stream's pixels"
        return headline(f"{kinds} of {self.data}, under {len(self.sweeps)} sweeps of degradation {of}", self.unscored)

    @property
    def largest_pixels(self) -> int:
        """Pixels to which larger images were reduced."""
        return LARGEST_PIXELS


def print_report(console: Console, report: RobustnessReport) -> None:
    """The study on a terminal: the summary; the page has all."""
    print_head(console, report.headline, report.unscored, REPORT_JSON)
    print_tables(console, [summary_table(report.sweeps)])
    warn_of_weights(console, report.server)


def write_json(path: Path, report: RobustnessReport) -> None:
    """All numbers of the study, for programs."""
    plain = {
        name: value for name, value in vars(report).items() if name not in ("data", "server", "unscored", "sweeps")
    }
    common.write_json(
        path,
        report.server,
        data=str(report.data),
        **plain,
        sweeps=[asdict(sweep) for sweep in report.sweeps],
        unscored=[asdict(each) for each in report.unscored],
    )


def write_html(path: Path, report: RobustnessReport) -> None:
    """The study as one page that needs no other file."""
    write_page(
        path,
        _TEMPLATE,
        report=report,
        server=report.server,
        summary=summary_table(report.sweeps),
        sweeps=[(sweep, sweep_plot(sweep), sweep_tables(sweep)) for sweep in report.sweeps],
    )
