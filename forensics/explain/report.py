"""Where explanations go: the terminal, explain.json and explain.html."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfake_client import decide
from rich.console import Console
from rich.text import Text

from forensics.common import report as common
from forensics.common.report import Table, print_tables, write_page
from forensics.common.scoring.server import Server
from forensics.explain.views import View, arithmetic, describe_face, to_dict

REPORT_JSON = "explain.json"
REPORT_HTML = "explain.html"

_TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True)
class Explained:
    """One image.

    Attributes:
        path: Its file.
        picture: The picture's file.
        panels: By view, what the page shows of it: PNGs as `figure.draw_panels` gives them.
        views: The image, or the clean one and the degraded one.
    """

    path: Path
    picture: Path
    panels: Sequence[Sequence[bytes]]
    views: Sequence[View]


@dataclass(frozen=True)
class ExplainReport:
    """Explanations with their circumstances.

    Attributes:
        created: When, ISO 8601.
        server: Which weights and calibration gave the scores.
        method: What the maps are.
        weights: Vote weights in force.
        seed: Of the degradation; None without one.
        explained: The images.
    """

    created: str
    server: Server
    method: str
    weights: Sequence[float]
    seed: int | None
    explained: Sequence[Explained]


def view_table(view: View, weights: Sequence[float]) -> Table:
    """The numbers of a view."""
    degraded = any(each.drift is not None for each in view.streams)
    rows = []
    for each, weight in zip(view.streams, weights, strict=True):
        cells = [each.stream.title, f"{each.probability:.3f}", f"{each.vote:g}", f"{weight:g}"]
        cells += [_optional(each.outside_face, ".1%", "no face"), _optional(each.entropy, ".3f", "nothing salient")]
        if degraded:
            moved, overlap = (None, None) if each.drift is None else (each.drift.moved_mass, each.drift.top_iou)
            cells += [_optional(moved, ".1%"), _optional(overlap, ".2f")]
        rows.append(tuple(cells))
    return Table(
        view.title,
        f"Score: {arithmetic(view, weights)}, {decide(view.score)}; {describe_face(view)}.",
        (
            *("", "probability", "vote", "weight", "outside face", "entropy"),
            *(("moved", "top 20 %") if degraded else ()),
        ),
        rows,
    )


def print_explained(console: Console, explained: Explained, weights: Sequence[float]) -> None:
    """One image on a terminal."""
    console.print(Text(f"{explained.path} → {explained.picture}", style="bold"))
    for view in explained.views:
        table = view_table(view, weights)
        print_tables(console, [table])
        console.print(Text(table.note), "")


def write_json(path: Path, report: ExplainReport) -> None:
    """All numbers, for programs."""
    images = [
        {"path": str(each.path), "views": [to_dict(view, report.weights) for view in each.views]}
        for each in report.explained
    ]
    common.write_json(
        path, report.server, created=report.created, method=report.method, seed=report.seed, images=images
    )


def write_html(path: Path, report: ExplainReport) -> None:
    """All pictures and numbers as one page that needs no other file."""
    images = [
        (
            each,
            [
                ([base64.b64encode(panel).decode() for panel in panels], view_table(view, report.weights))
                for panels, view in zip(each.panels, each.views, strict=True)
            ],
        )
        for each in report.explained
    ]
    write_page(path, _TEMPLATE, report=report, server=report.server, images=images)


def _optional(value: float | None, form: str, missing: str = "–") -> str:
    return missing if value is None else f"{value:{form}}"
