"""Faces of every kind in real photographs: tilted, tiny, huge, several, none, at the border; enlarged thumbnails."""

import cv2
import numpy as np
import pytest
import skimage.data

from benchmarks.faces import DEGRADATIONS, lfw_faces
from ensemble.faces.haar import HaarDetector
from ensemble.faces.localisation import FaceLocation, local_pixels, locate_faces
from ensemble.images import RgbImage

ASTRONAUT = skimage.data.astronaut()
FACE = ASTRONAUT[60:220, 140:310]
PORTRAIT = np.asarray(cv2.resize(FACE, (256, 256)), np.uint8)
DETECTOR = HaarDetector()


def locate(image: RgbImage) -> FaceLocation:
    image = np.ascontiguousarray(image)
    [location] = locate_faces([image], [None], DETECTOR)
    assert local_pixels(image, location).shape == (252, 252, 3)
    return location


def covers(location: FaceLocation, x: float, y: float) -> bool:
    assert location.box is not None
    x1, y1, x2, y2 = location.box
    return x1 < x < x2 and y1 < y < y2


def test_a_face_is_found_where_it_is() -> None:
    location = locate(FACE)
    assert location.source == "raw"
    assert covers(location, 84, 54)


@pytest.mark.parametrize("angle", [-15, 15])
def test_a_tilted_face_is_found(angle: float) -> None:
    turned = cv2.warpAffine(FACE, cv2.getRotationMatrix2D((85, 80), angle, 1), (170, 160))
    assert covers(locate(turned), 85, 65)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_photograph_is_used_whole_or_cropped(quarters: int) -> None:
    assert locate(np.rot90(FACE, quarters)).source != "supplied"


def test_a_face_in_a_large_scene_is_too_small() -> None:
    assert locate(ASTRONAUT) == FaceLocation(None, pytest.approx(0.99, abs=0.01), "too_small")


def test_a_huge_photograph_of_a_face_is_searched() -> None:
    location = locate(np.asarray(cv2.resize(FACE, (3400, 3200), interpolation=cv2.INTER_CUBIC), np.uint8))
    assert location.source == "raw"
    assert covers(location, 1680, 1080)


def test_a_tiny_photograph_of_a_face_is_found_or_used_whole() -> None:
    location = locate(np.asarray(cv2.resize(FACE, (40, 40), interpolation=cv2.INTER_AREA), np.uint8))
    assert location.box is None or covers(location, 20, 14)


@pytest.mark.parametrize("image", [skimage.data.coffee()[:300, :300], skimage.data.rocket()], ids=["coffee", "rocket"])
def test_a_photograph_without_a_face_is_used_whole(image: RgbImage) -> None:
    assert locate(image) == FaceLocation(None, None, "none")


def test_of_two_faces_one_is_taken() -> None:
    location = locate(np.hstack([PORTRAIT, PORTRAIT]))
    assert covers(location, 128, 85) != covers(location, 384, 85)


def test_of_many_faces_none_is_large_enough() -> None:
    assert locate(np.vstack([np.hstack([PORTRAIT] * 3)] * 3)).source == "too_small"


def test_a_face_at_the_border_is_found_by_padding() -> None:
    location = locate(ASTRONAUT[60:220, 205:330])
    assert location.source == "pad_equalize"
    assert location.box is not None
    assert location.box[0] < 0


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_most_enlarged_thumbnails_are_found_however_degraded(kind: str) -> None:
    locations = [locate(DEGRADATIONS[kind](face)) for face in lfw_faces()[:10]]
    assert sum(location.box is not None and covers(location, 128, 128) for location in locations) >= 8
