"""Main face, crop and detection, against golden data and on real photographs."""

import json
import math
import os
import threading

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.faces.crop import check_box, crop_face, is_too_small, is_valid_box
from ensemble.faces.detection import Detection
from ensemble.faces.haar import HaarDetector
from ensemble.faces.localisation import FaceLocation, local_pixels, locate_faces
from ensemble.faces.selection import main_face
from ensemble.images import ImageError, RgbImage, centre
from tests.golden import BOXES, GOLDEN, IMAGES, ROWS, read_rgb

SELECTION = json.loads((GOLDEN / "method" / "selection.json").read_text())


class FixedDetector:
    """Gives the same detections for every image: what a detector may answer, chosen by the test."""

    name = "fixed"

    def __init__(self, *detections: Detection) -> None:
        self.detections = list(detections)

    def detect(self, images: list[RgbImage]) -> list[list[Detection]]:
        return [self.detections for _ in images]


@pytest.mark.parametrize("case", SELECTION, ids=range(len(SELECTION)))
def test_main_face_and_its_size_equal_the_golden_selection(case) -> None:
    named = {name: Detection(tuple(face["facial_area"]), face["score"]) for name, face in case["detections"].items()}
    chosen = main_face(list(named.values()), case["height"], case["width"])
    assert chosen in [named[name] for name in case["main_face_one_of"]]
    assert is_too_small(chosen.box, case["height"], case["width"]) == case["local_is_original"]


def test_of_equal_areas_around_the_centre_the_greatest_key_name_wins() -> None:
    """Keys are compared as text: face_2 is greater than face_10, which is greater than face_1."""
    around = [Detection((40.0 + n, 40.0, 60.0 + n, 60.0), 0.95) for n in range(10)]
    assert main_face(around, 100, 100) is around[8]  # face_9
    two_and_ten = [Detection((0.0, 0.0, 5.0, 5.0), 0.95)] * 10
    two_and_ten[1], two_and_ten[9] = around[1], around[9]
    assert main_face(two_and_ten, 100, 100) is around[1]
    one_and_ten = [around[0], *[Detection((0.0, 0.0, 5.0, 5.0), 0.95)] * 8, around[9]]
    assert main_face(one_and_ten, 100, 100) is around[9]
    larger = [*around, Detection((30.0, 30.0, 60.0, 60.0), 0.94)]
    assert main_face(larger, 100, 100) is larger[-1]


def test_of_equal_distances_from_the_centre_the_first_wins_whatever_its_confidence() -> None:
    left, right = Detection((0.0, 40.0, 20.0, 60.0), 0.94), Detection((80.0, 40.0, 100.0, 60.0), 0.95)
    assert main_face([left, right], 100, 100) is left
    assert main_face([right, left], 100, 100) is right


@pytest.mark.parametrize(("lead", "chosen"), [(0.02, 0), (0.015, 1)])
def test_a_clear_lead_in_confidence_decides_over_place(lead: float, chosen: int) -> None:
    faces = [Detection((0.0, 0.0, 10.0, 10.0), 0.9375 + lead), Detection((40.0, 40.0, 60.0, 60.0), 0.9375)]
    assert main_face(faces, 100, 100) is faces[chosen]


@pytest.mark.parametrize("row", ROWS, ids=[row["image"] for row in ROWS])
def test_crop_equals_the_golden_crop_in_every_pixel(row) -> None:
    image = read_rgb(GOLDEN / "images" / row["image"])
    golden = read_rgb(GOLDEN / "tiny" / row["image"].replace(".png", ".local.png"))
    [location] = locate_faces([image], [tuple(row["box"])], HaarDetector())
    assert location.source == ("too_small" if row["local_is_original"] else "supplied")
    assert (location.box is None) == row["local_is_original"]
    np.testing.assert_array_equal(local_pixels(image, location), centre(golden, 252))
    if not row["local_is_original"]:
        np.testing.assert_array_equal(crop_face(image, tuple(row["box"])), golden)


def test_haar_finds_the_face_in_photographs_of_any_size() -> None:
    close = next(path for path in IMAGES if path.stem == "01_face_close")
    image = read_rgb(close)
    x1, y1, x2, y2 = BOXES[close.name]
    for scale in (0.5, 1.0, 3.0, 8.0):
        resized = cv2.resize(image, None, fx=scale, fy=scale)
        [location] = locate_faces([resized], [None], HaarDetector())
        assert location.source == "raw"
        assert 0.5 < location.confidence <= 1
        left, top, right, bottom = (value / scale for value in location.box)
        overlap = max(0, min(right, x2) - max(left, x1)) * max(0, min(bottom, y2) - max(top, y1))
        union = (right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - overlap
        assert overlap / union > 0.5


@pytest.mark.parametrize(
    ("size", "searched", "smallest"),
    [((400, 640), (400, 640), 40), ((641, 500), (640, 499), 49), ((4000, 1000), (640, 160), 16), ((8, 6), (8, 6), 1)],
)
def test_haar_searches_at_most_so_many_pixels_for_faces_that_count(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], searched: tuple[int, int], smallest: int
) -> None:
    """What a search costs is bounded, whatever the image."""
    seen = []

    class Cascade:
        def __init__(self, file: str) -> None:
            pass

        def detectMultiScale3(self, grey: RgbImage, **options: object) -> tuple[object, ...]:  # noqa: N802 - OpenCV's
            seen.append((grey.shape, options))
            return [[10, 20, 30, 40]], None, [0.0]

    monkeypatch.setattr(cv2, "CascadeClassifier", Cascade)
    [[found]] = HaarDetector().detect([np.zeros((*size, 3), np.uint8)])
    options = {"scaleFactor": 1.1, "minNeighbors": 5, "outputRejectLevels": True}
    assert seen == [(searched, options | {"minSize": (smallest, smallest)})]
    scale = min(1, 640 / max(size))
    assert found.box == pytest.approx((10 / scale, 20 / scale, 40 / scale, 60 / scale))
    assert found.confidence == 0.5


def test_an_image_without_a_face_is_used_whole() -> None:
    image = read_rgb(next(path for path in IMAGES if path.stem == "07_rocket"))
    [location] = locate_faces([image], [None], HaarDetector())
    assert location == FaceLocation(None, None, "none")
    np.testing.assert_array_equal(local_pixels(image, location), centre(image, 252))


def test_a_batch_gives_what_each_image_gives_alone() -> None:
    images = [cv2.resize(read_rgb(path), None, fx=scale, fy=scale) for path in IMAGES for scale in (0.7, 1.9)]
    supplied = [(10.0, 10.0, 120.0, 130.0) if index % 3 == 0 else None for index in range(len(images))]
    detector = HaarDetector()
    together = locate_faces(images, supplied, detector)
    alone = [locate_faces([image], [box], HaarDetector())[0] for image, box in zip(images, supplied, strict=True)]
    assert together == alone


@pytest.mark.parametrize(
    "nonsense",
    [
        Detection((math.nan, 0, 10, 10), 0.99),
        Detection((0, 0, math.inf, 10), 0.99),
        Detection((20, 20, 10, 10), 0.99),
        Detection((900, 900, 990, 990), 0.99),
        Detection((-1e9, -1e9, 1e9, 1e9), 0.99),
        Detection((5, 5, 5, 5), 0.99),
        Detection((60, 60, 180, 190), math.nan),
        Detection((60, 60, 180, 190), math.inf),
    ],
)
def test_nonsense_detections_count_as_none(nonsense: Detection) -> None:
    image = read_rgb(IMAGES[0])
    [location] = locate_faces([image], [None], FixedDetector(nonsense))
    assert location.source == "none"
    sensible = Detection((60, 60, 180, 190), 0.95)
    [location] = locate_faces([image], [None], FixedDetector(nonsense, sensible))
    assert location == FaceLocation(sensible.box, 0.95, "raw")


def test_a_face_of_just_a_ninth_of_the_image_is_large_enough() -> None:
    assert not is_too_small((10.0, 20.0, 40.0, 50.0), 90, 90)
    assert is_too_small((10.0, 20.0, 40.0, 49.9), 90, 90)
    for height, width in ((45, 180), (180, 45)):
        assert not is_too_small((0.0, 0.0, 30.0, 30.0), height, width)
        assert is_too_small((0.0, 0.0, 30.0, 29.9), height, width)


def test_a_box_that_is_none_is_told_with_the_size_of_its_image() -> None:
    with pytest.raises(ImageError, match="is not one in an image of 30×20 pixels"):
        check_box((1.0, 25.0, 5.0, 29.0), 20, 30)
    check_box((25.0, 1.0, 29.0, 5.0), 20, 30)


def test_no_two_threads_share_a_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=60)
    users: dict[int, set[int]] = {}

    class Cascade:
        def __init__(self, file: str) -> None:
            users[id(self)] = set()

        def detectMultiScale3(self, grey: RgbImage, **options: object) -> tuple[object, ...]:  # noqa: N802 - OpenCV's
            together.wait()
            users[id(self)].add(threading.get_ident())
            return [], None, []

    monkeypatch.setattr(cv2, "CascadeClassifier", Cascade)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert HaarDetector().detect([np.zeros((8, 8, 3), np.uint8)] * 4) == [[]] * 4
    assert sorted(map(len, users.values())) == [1, 1]


COORDINATES = st.floats(allow_nan=True, allow_infinity=True, width=32) | st.floats(-300, 600, width=32)


@given(st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES), st.integers(1, 300), st.integers(1, 300))
def test_every_valid_box_can_be_cropped(box: tuple[float, float, float, float], height: int, width: int) -> None:
    if is_valid_box(box, height, width):
        assert crop_face(np.full((height, width, 3), 7, np.uint8), box).shape == (256, 256, 3)


@given(st.lists(st.builds(Detection, st.tuples(*[st.integers(-50, 350)] * 4), st.floats(0, 1)), max_size=12))
def test_a_clear_lead_wins_whatever_the_order(detections: list[Detection]) -> None:
    leader = Detection((0, 0, 1, 1), 1.5)
    for index in (0, len(detections) // 2, len(detections)):
        assert main_face([*detections[:index], leader, *detections[index:]], 256, 256) is leader


@pytest.mark.parametrize(
    "box",
    [
        (50.0, 40.0, 60.0, 60.0),
        (40.0, 40.0, 50.0, 60.0),
        (40.0, 50.0, 60.0, 60.0),
        (40.0, 40.0, 60.0, 50.0),
    ],
)
def test_a_face_whose_edge_lies_on_the_centre_contains_it(box: tuple[float, float, float, float]) -> None:
    """It is taken before a larger one beside the centre that comes nearly as sure."""
    at_centre, beside = Detection(box, 0.94), Detection((51.0, 51.0, 99.0, 99.0), 0.95)
    assert main_face([beside, at_centre], 100, 100) is at_centre


@pytest.mark.parametrize(
    ("box", "valid"),
    [
        ((-3.0, -3.0, 17.0, 17.0), True),  # a square of 26 by 26 pixels: four times the image
        ((-4.0, -3.0, 17.0, 17.0), False),
        ((-20.0, 2.0, -4.0, 8.0), False),  # which ends before the image begins
        ((-10.0, 2.0, -2.0, 8.0), False),  # which ends where the image begins
        ((2.0, -10.0, 8.0, -2.0), False),
        ((12.0, 12.0, 13.0, 13.0), True),
        ((15.0, 2.0, 18.0, 5.0), False),
        ((2.0, 15.0, 5.0, 18.0), False),
        ((2.0, -20.0, 8.0, -4.0), False),
        ((5.0, 5.0, 5.0, 9.0), False),
        ((5.2, 5.2, 5.3, 5.3), False),  # not a pixel
        ((5.0, 9.0, 9.0, 5.0), False),
        ((math.nan, 1.0, 5.0, 5.0), False),
        ((1.0, 1.0, math.inf, 5.0), False),
    ],
)
def test_a_box_is_one_of_a_face_in_the_image(box: tuple[float, float, float, float], valid: bool) -> None:
    assert is_valid_box(box, 13, 13) is valid
