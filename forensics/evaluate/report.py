"""Where an evaluation goes: the terminal, report.json and report.html."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from forensics.common import report as common
from forensics.common.report import headline, print_head, print_tables, warn_of_weights, write_page
from forensics.common.scoring.scores import Scores, Unscored
from forensics.common.scoring.server import Server
from forensics.evaluate.measures import Evaluation
from forensics.evaluate.plots import histogram_plot, reliability_plot, roc_plot
from forensics.evaluate.tables import evaluation_tables

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"

LEAST_OF_A_CLASS = 30
"""Independent real and fake images each, from which percentile intervals of ROC AUC hold about what they say."""

_TEMPLATE = Path(__file__).with_name("report.html.j2")


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
        return headline(f"{self.scores.kinds} of {self.data}", self.unscored)

    @property
    def caution(self) -> str:
        """What to say where the images, or their groups, are too few for the intervals; empty where they are enough."""
        real, fake = self.scores.independent_real, self.scores.independent_fake
        if min(real, fake) >= LEAST_OF_A_CLASS:
            return ""
        if self.scores.groups is not None:
            return (
                f"Too few groups: real images count as {real}, fake ones as {fake}. Intervals from fewer than "
                f"{LEAST_OF_A_CLASS} of each are too narrow to be believed; add images of other people, photographs or "
                "videos before you conclude anything."
            )
        return (
            f"Too few images: {self.scores.kinds}. Intervals from fewer than {LEAST_OF_A_CLASS} of each are too narrow "
            "to be believed; add images before you conclude anything."
        )


def print_report(console: Console, report: Report) -> None:
    """The report on a terminal."""
    print_head(console, report.headline, report.unscored, REPORT_JSON)
    print_tables(console, evaluation_tables(report.evaluation))
    if report.caution:
        console.print(Text(report.caution, style="yellow"))
    warn_of_weights(console, report.server)


def write_json(path: Path, report: Report) -> None:
    """All numbers of the report, for programs."""
    common.write_json(
        path,
        report.server,
        created=report.created,
        data=str(report.data),
        caution=report.caution,
        evaluation=asdict(report.evaluation),
        unscored=[asdict(each) for each in report.unscored],
    )


def write_html(path: Path, report: Report) -> None:
    """The report as one page that needs no other file."""
    plots = {
        "ROC curves": roc_plot(report.scores),
        "Reliability: score against the share of fake images": reliability_plot(report.scores),
        "Distribution of the scores": histogram_plot(report.scores),
    }
    tables = evaluation_tables(report.evaluation)
    write_page(path, _TEMPLATE, report=report, server=report.server, tables=tables, plots=plots)
