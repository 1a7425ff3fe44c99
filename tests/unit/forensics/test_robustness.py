"""Robustness: what sweeps are summed up to, and what is asked of the models for one image."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from degradation import SWEEPS, Sweep
from ensemble.faces.detection import Box
from ensemble.images import RgbImage, decode
from ensemble.streams import STREAMS
from forensics.common.errors import ForensicsError
from forensics.common.inspection import Inspection, StreamInspection
from forensics.common.metrics import roc_auc
from forensics.common.pixels import LARGEST_PIXELS, image_seed, read_pixels
from forensics.common.scoring.scores import MEAN, TITLES, VOTE
from forensics.robustness.measures import analyse, box_iou
from forensics.robustness.rows import NO_FACE, Degrade, dino_width, measure
from forensics.robustness.tables import summary_table, sweep_tables
from tests.golden import IMAGES, read_rgb
from tests.hostile import encode

SWEEP = replace(SWEEPS["jpeg"], levels=(80, 10))


def state(value: float, face: list[float] | None = None, cosine: float = 1.0) -> dict[str, Any]:
    """One image of which everything says the same."""
    stream = {"probability": value, "vote": round(value, 1), "cosine": cosine, "entropy": 3.0}
    return {
        "score": round(value, 1),
        "probability": value,
        "face": face,
        "face_source": "raw",
        "streams": {each.name: dict(stream) for each in STREAMS},
    }


def rows_of(columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    clean, *levels = columns.values()
    return [
        {"status": "ok", "clean": state(c), "levels": [state(level[n]) for level in levels]}
        for n, c in enumerate(clean)
    ]


# Analysis


def test_auc_of_every_level_and_what_it_lost() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2 == 1
    columns = {
        str(noise): np.clip(0.3 + 0.4 * labels + noise * rng.standard_normal(40), 0, 1) for noise in (0.1, 0.3, 3)
    }
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1

    measured = analyse(SWEEP, rows_of(columns), labels, resamples=100, advance=advance)
    assert done == 100
    assert [each.level for each in measured.levels] == [80, 10]
    for each, column in zip([measured.clean, *measured.levels], columns.values(), strict=True):
        assert each.auc is not None
        assert each.auc_loss is not None
        assert each.auc[MEAN].value == pytest.approx(roc_auc(labels, column))
        assert each.auc[MEAN].low <= each.auc[MEAN].value <= each.auc[MEAN].high
        lost = roc_auc(labels, columns["0.1"]) - roc_auc(labels, column)
        assert each.auc_loss[MEAN].value == pytest.approx(lost)
    assert (measured.clean.auc_loss or {})[VOTE].high == 0


def test_copies_of_the_images_in_groups_narrow_no_interval() -> None:
    labels = np.arange(40) % 2 == 1
    rng = np.random.default_rng(0)
    rows = rows_of({str(noise): np.clip(0.3 + 0.4 * labels + noise * rng.random(40), 0, 1) for noise in (0, 0.3, 0.9)})
    once = analyse(SWEEP, rows, labels, resamples=100)
    copied = [row for row in rows for _ in range(4)]
    groups = np.repeat(np.arange(40), 4)
    again = analyse(SWEEP, copied, np.repeat(labels, 4), resamples=100, groups=groups)
    for plain, grouped in zip(once.levels, again.levels, strict=True):
        for name in ("auc", "auc_loss", "shift", "distance", "flips"):
            expected, found = getattr(plain, name)[MEAN], getattr(grouped, name)[MEAN]
            assert (found.low, found.value, found.high) == pytest.approx((expected.low, expected.value, expected.high))
    assert once.levels[1].shift[MEAN].low < once.levels[1].shift[MEAN].high


def test_shift_and_flips_are_against_the_clean_image() -> None:
    clean, mild, severe = np.array([0.2, 0.8, 0.8, 0.5]), np.array([0.3, 0.8, 0.8, 0.5]), np.array([0.8, 0.2, 0.9, 0.8])
    measured = analyse(SWEEP, rows_of({"c": clean, "m": mild, "s": severe}), None, resamples=100)
    assert measured.clean.auc is None
    assert all(each.value == 0 for each in (measured.clean.shift | measured.clean.flips).values())
    for name in TITLES:
        assert measured.levels[0].shift[name].value == pytest.approx(0.025)
        assert measured.levels[0].flips[name].value == 0
        assert measured.levels[1].shift[name].value == pytest.approx(0.1)
        assert measured.levels[1].distance[name].value == pytest.approx((0.6 + 0.6 + 0.1 + 0.3) / 4)
        assert measured.levels[1].flips[name].value == 0.75
    assert set(measured.levels[0].cosine) == {stream.name for stream in STREAMS}


def test_faces_are_the_same_where_boxes_overlap() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    rows = [
        {"clean": state(0.5, face), "levels": [state(0.5, first), state(0.5, box)]}
        for face, first in ((box, [0.0, 0.0, 10.0, 6.0]), (box, [5.0, 5.0, 15.0, 15.0]), (box, None), (None, box))
    ]
    measured = analyse(SWEEP, rows, None, resamples=100)
    assert [each.same_face for each in measured.levels] == [pytest.approx(1 / 3), 1]
    assert box_iou(box, [5, 5, 15, 15]) == pytest.approx(25 / 175)
    assert box_iou(box, [20, 20, 30, 30]) == 0


@pytest.mark.parametrize("labelled", [True, False])
def test_tables_have_a_row_a_level(labelled: bool) -> None:
    labels = np.array([True, False, True, False]) if labelled else None
    columns = {"c": np.array([0.9, 0.1, 0.8, 0.2]), "m": np.full(4, 0.5), "s": np.array([0.1, 0.9, 0.2, 0.8])}
    measured = analyse(SWEEP, rows_of(columns), labels, resamples=100)
    for table in sweep_tables(measured):
        assert [row[0] for row in table.rows] == ["clean", "80", "10"]
        assert {len(row) for row in table.rows} == {len(table.header)}
    summary = summary_table([measured])
    assert len(summary.rows) == len(TITLES)
    assert summary.rows[0][1:3] == (("1.000", "0.000") if labelled else ("100.0%", "+0.0000 [-0.8002, +0.8002]"))


# One image


def inspection(face: Box | None = (50.0, 50.0, 200.0, 200.0), fused: int = 6) -> Inspection:
    widths = {stream.name: fused if stream.has_clip else 4 for stream in STREAMS}
    streams = {
        stream.name: StreamInspection(
            np.full((8, 8, 3), 100, np.uint8),
            np.ones(widths[stream.name], np.float32),
            np.ones(4, np.float32),
            0.5,
            0.5,
        )
        for stream in STREAMS
    }
    return Inspection("ok", 0.5, 0.5, streams, face, "raw")


class Looker:
    """Answers the same for every image, and keeps what it was asked."""

    def __init__(self, answer: Inspection) -> None:
        self.answer = answer
        self.images: list[bytes] = []
        self.boxes: list[Any] = []
        self.pixels: list[Mapping[str, RgbImage]] = []

    def inspect(self, images: Sequence[bytes], boxes: Sequence[Box | None] | None = None) -> list[Inspection]:
        self.images += images
        self.boxes.append(boxes)
        return [self.answer] * len(images)

    def inspect_pixels(self, clean: Inspection, pixels: Sequence[Mapping[str, RgbImage]]) -> list[Inspection]:
        assert clean is self.answer
        self.pixels += pixels
        return [self.answer] * len(pixels)


@pytest.mark.parametrize("keep_face", [True, False])
@pytest.mark.parametrize("face", [(50.0, 50.0, 200.0, 200.0), None])
def test_the_face_is_found_anew_unless_it_is_kept(keep_face: bool, face: Box | None) -> None:
    looker = Looker(inspection(face))
    row = measure(IMAGES[1], SWEEP, 0, "file", keep_face, looker)
    assert (row["status"], len(row["levels"])) == ("ok", 2)
    assert looker.boxes == [None, [face or NO_FACE] * 2 if keep_face else None]
    assert not looker.pixels
    shown = [decode(data) for data in looker.images]
    np.testing.assert_array_equal(shown[0], read_rgb(IMAGES[1]))
    for degraded, level in zip(shown[1:], SWEEP.levels, strict=True):
        own = image_seed(IMAGES[1].read_bytes(), 0)
        np.testing.assert_array_equal(degraded, SWEEP.apply(shown[0], level, own))


def test_the_pixels_of_each_stream_are_degraded_as_the_paper_s_scripts_do() -> None:
    looker = Looker(inspection())
    row = measure(IMAGES[1], SWEEPS["noise"], 3, "streams", False, looker)
    assert (row["status"], len(row["levels"])) == ("ok", 7)
    assert looker.images == [IMAGES[1].read_bytes()]  # as it is, and asked once
    assert looker.boxes == [None]
    own = image_seed(IMAGES[1].read_bytes(), 3)
    for shown, level in zip(looker.pixels, SWEEPS["noise"].levels, strict=True):
        for stream in STREAMS:
            clean = looker.answer.streams[stream.name].pixels
            np.testing.assert_array_equal(shown[stream.name], SWEEPS["noise"].apply(clean, level, own))
    for level in row["levels"]:
        assert level["face"] == row["clean"]["face"]


def test_an_image_that_cannot_be_scored_is_a_row_that_says_why(tmp_path: Path) -> None:
    looker = Looker(Inspection("too_many_pixels"))
    for degrade in get_args(Degrade):
        assert measure(IMAGES[1], SWEEP, 0, degrade, False, looker) == {"status": "too_many_pixels"}
        assert measure(tmp_path / "gone.png", SWEEP, 0, degrade, False, looker)["status"] == "unreadable_file"
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert measure(tmp_path / "bad.png", SWEEP, 0, "file", False, looker)["status"] == "unsupported_format"


def test_every_level_has_the_image_s_own_seed() -> None:
    data = IMAGES[1].read_bytes()
    seeds: list[tuple[float, int]] = []

    def degrade(image: np.ndarray, level: float, seed: int) -> np.ndarray:
        seeds.append((level, seed))
        return image

    sweep = Sweep("any", "any", "level", (0, 1, 2), degrade)
    for seed in (1, 2):
        measure(IMAGES[1], sweep, seed, "file", False, Looker(inspection()))
    assert seeds == [(level, image_seed(data, seed)) for seed in (1, 2) for level in (0, 1, 2)]
    assert len({seed for _, seed in seeds}) == 2
    assert image_seed(b"other", 1) != image_seed(data, 1)


def test_dino_features_are_told_from_clip_s_by_the_models() -> None:
    assert dino_width(inspection(fused=6)) == 4
    with pytest.raises(ForensicsError, match="differ in size"):
        dino_width(inspection(fused=4))


def test_large_images_are_reduced() -> None:
    data = encode(np.zeros((2000, 1500, 3), np.uint8), ".png")
    height, width = read_pixels(data).shape[:2]
    assert 0.99 * LARGEST_PIXELS < height * width <= LARGEST_PIXELS
    assert height / width == pytest.approx(4 / 3, abs=0.01)
    np.testing.assert_array_equal(read_pixels(IMAGES[0].read_bytes()), read_rgb(IMAGES[0]))
