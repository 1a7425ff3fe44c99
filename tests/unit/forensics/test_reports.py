"""Pages that read well on a phone and in the dark, cautions, and titles with any characters."""

import io
import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from deepfake_client import Calibration as Calibration_
from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score

from ensemble.calibration import PAPER_VOTE, OperatingPoint
from ensemble.calibration_file import Calibration
from ensemble.streams import STREAMS
from forensics.calibrate.decisions import Candidate, Decision
from forensics.calibrate.fit import Fit
from forensics.calibrate.operating_points import Support
from forensics.calibrate.report import NOT_SUPPORTED, calibration_tables, write_calibration_report
from forensics.common import report as common
from forensics.common.inspection import Inspection, StreamInspection
from forensics.common.metrics import Estimate
from forensics.common.report import Table, headline
from forensics.common.scoring.scores import TITLES, Unscored
from forensics.common.scoring.server import Server
from forensics.evaluate.challenge import one_decimal
from forensics.evaluate.measures import evaluate
from forensics.evaluate.report import LEAST_OF_A_CLASS, Report, print_report, write_html, write_json
from forensics.evaluate.tables import evaluation_tables
from forensics.explain.figure import draw_views
from forensics.explain.views import attention_maps, view
from tests.calibration_data import simulate

UNSCORED = [
    *(Unscored(f"{'folder/' * 12}{n}.jpg", "empty_image", "it holds no bytes") for n in range(4)),
    *(Unscored(f"<b>{n}\udcff.jpg", "unreadable_image", "[red]damaged") for n in range(3)),
]


@pytest.fixture(scope="module")
def report() -> Report:
    scores = simulate(80)
    return Report(Path("photos"), "2026-01-01", Server(None, None), scores, [], evaluate(scores, resamples=100))


def test_the_page_stacks_its_panels_and_follows_the_dark_mode(report: Report, tmp_path: Path) -> None:
    write_html(tmp_path / "report.html", replace(report, unscored=UNSCORED))
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;2\\udcff.jpg" in page  # the last of those that are left out, too
    assert "<b>2" not in page
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page
    figures = re.findall(r'<figure class="panels".*?</figure>', page, re.S)
    assert [figure.count("<svg") for figure in figures] == [2, len(TITLES), len(TITLES)]
    # Every picture has identifiers of its own: else one would clip by the other's.
    assert all('class="scroll"' in table for table in re.findall(r"<div[^>]*><table", page))
    assert "Challenge numbers" in page
    assert "Too few images" not in page


def test_small_samples_are_cautioned_against_in_every_form(tmp_path: Path) -> None:
    scores = simulate(2 * LEAST_OF_A_CLASS - 2)
    small = Report(Path("photos"), "2026-01-01", Server(None, None), scores, [], evaluate(scores, resamples=100))
    assert f"fewer than {LEAST_OF_A_CLASS} of each" in small.caution
    write_html(tmp_path / "report.html", small)
    write_json(tmp_path / "report.json", small)
    console = Console(file=io.StringIO(), width=200)
    print_report(console, small)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (output, (tmp_path / "report.html").read_text(), (tmp_path / "report.json").read_text()):
        assert "Too few images" in text


def named(table: Table) -> dict[str, list[str]]:
    """The columns of a table by their headings; a second one of a name has a star."""
    columns: dict[str, list[str]] = {}
    for index, name in enumerate(table.header):
        columns[f"{name}*" if name in columns else name] = [row[index] for row in table.rows]
    return columns


def test_what_stands_under_a_heading_is_what_it_says(report: Report) -> None:
    scores, evaluation = report.scores, report.evaluation
    tables = {re.split("[:,]", table.title)[0]: named(table) for table in evaluation_tables(evaluation)}
    assert all(columns[next(iter(columns))] for columns in tables.values())
    for row, (name, column) in enumerate(scores.columns.items()):
        fake, called, real = scores.labels, column > 0.5, ~scores.labels
        decided = {heading: cells[row] for heading, cells in tables["Decisions"].items()}
        assert decided[""] == TITLES[name]
        assert decided["caught"] == str((fake & called).sum())
        assert decided["missed"] == str((fake & ~called).sum())
        assert decided["accused"] == str((real & called).sum())
        assert decided["cleared"] == str((real & ~called).sum())
        assert decided["at 0.5"] == str((column == 0.5).sum())
        assert decided["accuracy"] == f"{(called == fake).mean():.2%}"
        best = evaluation.measures[name].best_threshold
        assert decided["best at"] == f"{best:.4f}"
        assert decided["accuracy*"] == f"{((column > best) == fake).mean():.2%}"
        ranked = {heading: cells[row] for heading, cells in tables["Ranking and calibration"].items()}
        auc = evaluation.measures[name].auc
        assert ranked["ROC AUC"] == f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]"
        assert ranked["AP"] == f"{average_precision_score(fake, column):.4f}"
        assert ranked["EER"] == f"{evaluation.measures[name].equal_error_rate:.2%}"
        assert ranked["ECE"] == f"{evaluation.measures[name].calibration_error:.4f}"
        assert ranked["Brier"] == f"{((column - fake) ** 2).mean():.4f}"
        numbers = {heading: cells[row] for heading, cells in tables["Challenge numbers"].items()}
        assert numbers["AUC"] == f"{roc_auc_score(fake, column):.4f}"
        assert numbers["AUC, rounded"] == f"{roc_auc_score(fake, one_decimal(column)):.4f}"
        assert numbers["accuracy"] == f"{(called == fake).mean():.2%}"
        assert numbers["accuracy, rounded"] == f"{((one_decimal(column) > 0.5) == fake).mean():.2%}"
    agreed = tables["Agreement between streams"]
    assert agreed[""] == [
        f"{TITLES[first]} and {TITLES[second]}" for first, second in combinations([s.name for s in STREAMS], 2)
    ]
    calls = scores.votes > 0.5
    for row, (first, second) in enumerate(combinations(range(3), 2)):
        assert agreed["same call"][row] == f"{(calls[:, first] == calls[:, second]).mean():.2%}"
        wrong = (calls[:, [first, second]] != scores.labels[:, None]).all(axis=1)
        assert agreed["both wrong"][row] == f"{wrong.mean():.2%}"
        assert agreed["κ"][row] == f"{evaluation.agreement[row].kappa:.3f}"
        assert agreed["rank correlation"][row] == f"{evaluation.agreement[row].rank_correlation:.3f}"
    alone = replace(evaluation.agreement[0], kappa=None, rank_correlation=None)
    chance = replace(alone, kappa=0.0, rank_correlation=0.0)
    (table,) = (
        each
        for each in evaluation_tables(replace(evaluation, agreement=[alone, chance]))
        if each.title.startswith("Agreement")
    )
    assert [row[2:4] for row in table.rows] == [("undefined", "undefined"), ("0.000", "0.000")]
    parts = tables["What each part is worth"]
    assert parts[""] == [*(f"{stream.title} adds" for stream in STREAMS), "Rounding costs"]
    for cell, gain in zip(
        parts["ROC AUC"], [*evaluation.contributions.values(), evaluation.rounding_cost], strict=True
    ):
        assert cell == f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    weights = tables["Every subset of streams"]
    in_force = weights["weights"].index("2\u2009:\u20091\u2009:\u20092")
    for heading, name in (("mean", "mean"), ("vote", "vote")):
        assert weights[heading][in_force].startswith(f"{evaluation.measures[name].auc.value:.3f} ")
    assert weights["gain of the mean"][in_force] == "+0.0000 [+0.0000, +0.0000]"


def test_tables_of_a_calibration_say_what_was_tried_and_gained() -> None:
    tried = (Candidate("platt", Estimate(0.02, 0.01, 0.03), True), Candidate("isotonic", Estimate(0, -0.1, 0.1), False))
    fit = Fit(
        PAPER_VOTE,
        (Decision("map, Vote", "Brier score", "none", tried),),
        {"Vote, ROC AUC": Estimate(-0.25, -0.5, 0.125)},
        (0.25, 0.125),
        "",
        (),
    )
    point = OperatingPoint(0.05, 0.75, (0.5, 0.875), 0.04, (0.01, 0.09), 0.9, (0.8, 0.95))
    support = [Support(0.05, 20, 24, Estimate(0.06, 0.02, 0.2)), Support(0.001, 1000, 24, None)]
    whole = [list(table.rows) for table in calibration_tables(fit, [point], support)]
    assert whole == [
        [
            ("map, Vote", "none", "Brier score", "", "the paper's"),
            ("", "platt", "", "+0.0200 [+0.0100, +0.0300]", "adopted"),
            ("", "isotonic", "", "+0.0000 [-0.1000, +0.1000]", ""),
        ],
        [
            ("Vote, ROC AUC", "-0.2500 [-0.5000, +0.1250]"),
            ("Unrounded mean, ECE, from and to", "0.2500 → 0.1250"),
        ],
        [("far=0.05", "0.750 [0.500, 0.875]", "4.00% [1.00%, 9.00%]", "90.00% [80.00%, 95.00%]")],
        [
            ("far=0.05", "20", "24", "6.00% [2.00%, 20.00%]", ""),
            ("far=0.001", "1000", "24", "", NOT_SUPPORTED),
        ],
    ]
    untouched = replace(fit, decisions=(), calibration_errors=None)
    assert [list(table.rows) for table in calibration_tables(untouched, [], support)] == whole[3:]


def test_a_calibration_s_numbers_are_all_in_its_file(tmp_path: Path) -> None:
    scores = replace(simulate(20), groups=np.array([0] * 9 + list(range(1, 12))))
    decision = Decision("rounding step", "ROC AUC", "0.1", (Candidate("0.05", Estimate(0.02, 0.01, 0.03), True),))
    fit = Fit(PAPER_VOTE, (decision,), {"Vote": Estimate(0.1, 0.05, 0.2)}, (0.25, 0.125), "changed", ())
    checkpoints = {stream.name: "ab" * 32 for stream in STREAMS}
    calibration = Calibration("2026", False, 10, 10, checkpoints, PAPER_VOTE, ())
    support = [Support(0.05, 20, 6, None)]
    write_calibration_report(tmp_path / "report.json", fit, calibration, support, scores)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["calibration"] == json.loads(calibration.to_text())
    assert (document["conclusion"], document["calibration_errors"]) == ("changed", [0.25, 0.125])
    # Of ten real images four are one group, of ten fake ones five.
    assert document["groups"] == {"named": True, "real": 7, "fake": 6, "independent_real": 4, "independent_fake": 3}
    assert document["decisions"][0]["choice"] == "0.05"
    assert document["gains"] == {"Vote": {"value": 0.1, "low": 0.05, "high": 0.2}}
    (supported,) = document["support"]
    assert (supported["far"], supported["supported"]) == (0.05, False)
    assert "20 real groups are needed, 6 are there" in supported["reason"]


def test_what_is_left_out_is_counted_and_listed(report: Report, tmp_path: Path) -> None:
    assert headline("80 images", []) == "80 images; all were scored"
    said = headline("80 images", UNSCORED[::-1])
    assert said == "80 images; 7 more could not be scored and are left out (4 empty_image, 3 unreadable_image)"
    left_out = replace(report, unscored=UNSCORED)
    console = Console(file=io.StringIO(), width=60)
    print_report(console, left_out)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"  {UNSCORED[0].path}  empty_image: it holds no bytes\n" in shown  # not wrapped: it is there to be copied
    assert "  <b>0\udcff.jpg  unreadable_image: [red]damaged\n" in shown
    assert "<b>1" not in shown
    assert "and 2 more, which report.json lists" in shown
    write_json(tmp_path / "report.json", left_out)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["unscored"][6] == {"path": "<b>2\udcff.jpg", "status": "unreadable_image", "reason": "[red]damaged"}


def test_a_report_says_whose_scores_they_are_in_every_form(report: Report, tmp_path: Path) -> None:
    provenance = {"untrained": True, "stand_in": "made [of] samples"}
    of_server = replace(report, server=Server(provenance, Calibration_({"version": 1}, ())), created="2026-02-03")
    write_json(tmp_path / "report.json", of_server)
    document = json.loads((tmp_path / "report.json").read_text())
    assert (document["version"], document["untrained"], document["created"]) == (1, True, "2026-02-03")
    assert document["server"] == {"provenance": provenance, "calibration": {"version": 1}}
    assert (document["data"], document["caution"]) == ("photos", "")
    console = Console(file=io.StringIO(), width=200)
    print_report(console, of_server)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "UNTRAINED weights: these numbers mean nothing." in shown
    assert "STAND-IN weights: made [of] samples." in shown


def test_numbers_that_no_json_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        common.write_json(tmp_path / "report.json", Server(None, None), value=float("nan"))


def test_many_images_of_few_groups_are_cautioned_against() -> None:
    scores = simulate(400, per_group=40)
    few = Report(Path("photos"), "2026-01-01", Server(None, None), scores, [], evaluate(scores, resamples=100))
    assert "Too few groups: real images count as 10, fake ones as 10" in few.caution
    assert f"fewer than {LEAST_OF_A_CLASS} of each" in few.caution


@pytest.mark.parametrize("name", ["cost $5 and $6.jpg", "$\\frac{.png", "a_b^c$.png", "\udcff.png"])
def test_a_picture_has_any_title(name: str) -> None:
    streams = {
        stream.name: StreamInspection(
            np.zeros((stream.pixels, stream.pixels, 3), np.uint8),
            np.ones(4, np.float32),
            np.random.default_rng(0).random((stream.pixels // 14) ** 2, np.float32),
            0.5,
            0.5,
        )
        for stream in STREAMS
    }
    inspection = Inspection("ok", 0.5, 0.5, streams, None, "none")
    shown = view("clean", np.zeros((64, 64, 3), np.uint8), inspection, attention_maps(inspection))
    png = draw_views(name, "attention", [shown], (2, 1, 2), False)
    assert PIL.Image.open(io.BytesIO(png)).width > 1000
