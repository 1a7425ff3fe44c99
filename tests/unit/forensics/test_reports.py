"""Pages that read well on a phone and in the dark, cautions, and titles with any characters."""

import io
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from rich.console import Console

from ensemble.streams import STREAMS
from forensics.common.inspection import Inspection, StreamInspection
from forensics.common.scoring.scores import TITLES
from forensics.common.scoring.server import Server
from forensics.evaluate.measures import evaluate
from forensics.evaluate.report import LEAST_OF_A_CLASS, Report, print_report, write_html, write_json
from forensics.explain.figure import draw_views
from forensics.explain.views import attention_maps, view
from tests.calibration_data import simulate


@pytest.fixture(scope="module")
def report() -> Report:
    scores = simulate(80)
    return Report(Path("photos"), "2026-01-01", Server(None, None), scores, [], evaluate(scores, resamples=100))


def test_the_page_stacks_its_panels_and_follows_the_dark_mode(report: Report, tmp_path: Path) -> None:
    write_html(tmp_path / "report.html", report)
    page = (tmp_path / "report.html").read_text()
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
