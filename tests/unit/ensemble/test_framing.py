"""Framings: the authors' pixels of images of any size, and one answer of all three for an image of the challenge."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.faces.crop import MARGIN, crop_face, frame_face, square_around
from ensemble.faces.detection import Box, Detection, FaceDetector
from ensemble.faces.localisation import FaceLocation, locate_faces, main_faces
from ensemble.faces.restoration import ATTEMPTS
from ensemble.faces.rows import LocalFace, Row, localise
from ensemble.images import (
    FRAMINGS,
    Decoders,
    ImageError,
    ImageFraming,
    Limits,
    RgbImage,
    centre,
    frame_whole,
    shrink,
    square,
)
from ensemble.images.handover import HandOver, hand_over, take_over
from ensemble.preparation import FACE_MARGINS, FramingRule, Prepared, prepare
from tests.golden import BOXES, GOLDEN, IMAGES, read_rgb

SIZES = GOLDEN / "sizes"
PIXELS = np.load(SIZES / "pixels.npz")
BOXES_OF_SIZES: dict[str, Box] = {
    "odd_337x291.png": (74, 52, 239, 241),
    "grey_300x280.jpg": (66, 50, 213, 232),
    "w257h256.png": (56, 46, 182, 212),
    "china_q92.jpg": (140, 76, 454, 354),
}


DECODERS = Decoders()


@pytest.fixture(autouse=True, scope="module")
def _closed() -> Iterator[None]:
    yield
    DECODERS.close()


class Fixed(FaceDetector):
    """Finds what it is told to, and counts what it is asked."""

    name = "fixed"

    def __init__(self, *boxes: Box) -> None:
        self.boxes, self.asked = boxes, 0

    def detect(self, images: list[RgbImage]) -> list[list[Detection]]:
        self.asked += len(images)
        return [[Detection(box, 0.95) for box in self.boxes] for _ in images]


def png(image: RgbImage) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def through(
    data: bytes, framing: ImageFraming, detector: FaceDetector, box: Box | None = None, margin: float = MARGIN
) -> tuple[Prepared, LocalFace]:
    """What both steps make of an image, one after the other as the server runs them."""

    def find(image: RgbImage, box: Box | None) -> FaceLocation:
        return main_faces([image], [box], detector, ATTEMPTS[:1])[0]

    prepared = prepare(data, box, Limits(), DECODERS, FramingRule(framing, margin, find))
    row = Row(data, prepared.decoded, prepared.box, prepared.status)
    [local] = localise(
        [row], Limits(), DECODERS, lambda images, boxes: locate_faces(images, boxes, detector, ATTEMPTS[:1])
    )
    return prepared, local


@pytest.mark.parametrize("name", BOXES_OF_SIZES)
def test_native_gives_the_authors_pixels_of_any_size(name: str) -> None:
    prepared, local = through((SIZES / name).read_bytes(), "native", Fixed(), BOXES_OF_SIZES[name])
    np.testing.assert_array_equal(prepared.pixels["global_texture"], PIXELS[f"{name}|global"])
    np.testing.assert_array_equal(prepared.pixels["semantic_fusion"], PIXELS[f"{name}|semantic"])
    np.testing.assert_array_equal(local.pixels["local_facial"], PIXELS[f"{name}|local"])


@pytest.mark.parametrize("name", BOXES_OF_SIZES)
def test_native_without_a_face_takes_the_centre_of_the_native_pixels(name: str) -> None:
    _, local = through((SIZES / name).read_bytes(), "native", Fixed())
    np.testing.assert_array_equal(local.pixels["local_facial"], PIXELS[f"{name}|global"])
    assert local.location.source == "none"


@pytest.mark.parametrize(("height", "width"), [(251, 600), (600, 251), (40, 40)])
def test_native_of_a_smaller_image_is_square(height: int, width: int) -> None:
    data = png(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))
    for one, other in zip(through(data, "native", Fixed()), through(data, "square", Fixed()), strict=True):
        assert one.status == other.status == "ok"
    native, square_ = through(data, "native", Fixed()), through(data, "square", Fixed())
    np.testing.assert_array_equal(native[0].pixels["global_texture"], square_[0].pixels["global_texture"])
    np.testing.assert_array_equal(native[0].pixels["semantic_fusion"], square_[0].pixels["semantic_fusion"])
    np.testing.assert_array_equal(native[1].pixels["local_facial"], square_[1].pixels["local_facial"])


@pytest.mark.parametrize(("height", "width"), [(252, 600), (600, 252)])
def test_native_takes_an_image_as_it_is_from_252_pixels_on(height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    assert frame_whole(image, True) is image
    assert frame_whole(image, False).shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("height", "width", "interpolation"), [(200, 300, cv2.INTER_CUBIC), (300, 200, cv2.INTER_AREA)]
)
def test_an_image_is_stretched_by_what_its_height_calls_for(height: int, width: int, interpolation: int) -> None:
    image = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    expected = cv2.resize(image, (224, 224), interpolation=interpolation)
    np.testing.assert_array_equal(shrink(image, 224), expected)


@pytest.mark.parametrize("path", IMAGES, ids=[path.stem for path in IMAGES])
@pytest.mark.parametrize("supplied", [True, False])
def test_all_framings_agree_at_256(path: Path, supplied: bool) -> None:
    box, detector = BOXES[path.name], Fixed(BOXES[path.name])
    results = [through(path.read_bytes(), each, detector, box if supplied else None) for each in FRAMINGS]
    for prepared, local in results[1:]:
        np.testing.assert_array_equal(prepared.pixels["global_texture"], results[0][0].pixels["global_texture"])
        np.testing.assert_array_equal(prepared.pixels["semantic_fusion"], results[0][0].pixels["semantic_fusion"])
        np.testing.assert_array_equal(local.pixels["local_facial"], results[0][1].pixels["local_facial"])
        assert local.location == results[0][1].location


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.tuples(st.integers(-20, 200), st.integers(-20, 200)), st.integers(20, 250))
def test_all_framings_agree_on_any_image_of_256(seed: int, corner: tuple[int, int], side: int) -> None:
    data = png(np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8))
    box = (*map(float, corner), float(corner[0] + side), float(corner[1] + side))
    results = [through(data, each, Fixed(box), None) for each in FRAMINGS]
    pixels = [
        [p.pixels["global_texture"], p.pixels["semantic_fusion"], local.pixels["local_facial"]] for p, local in results
    ]
    for other in pixels[1:]:
        for one, two in zip(pixels[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


PHOTOGRAPH = read_rgb(SIZES / "china_q92.jpg")
FACE: Box = (300.0, 100.0, 380.0, 200.0)


@pytest.mark.parametrize("margin", [1.0, 1.3, 2.5])
@pytest.mark.parametrize("supplied", [True, False])
def test_face_frames_the_main_face_and_scores_that_as_an_image_of_256(margin: float, supplied: bool) -> None:
    detector = Fixed(FACE)
    prepared, local = through(png(PHOTOGRAPH), "face", detector, FACE if supplied else None, margin)
    frame, frame_box = frame_face(PHOTOGRAPH, FACE, margin)
    assert frame.shape == (256, 256, 3)
    np.testing.assert_array_equal(frame, crop_face(PHOTOGRAPH, FACE, margin))
    np.testing.assert_array_equal(prepared.pixels["global_texture"], centre(frame, 252))
    np.testing.assert_array_equal(prepared.pixels["semantic_fusion"], shrink(frame, 224))
    # The frame is an image of the challenge from there on.
    _, of_the_frame = through(png(frame), "square", Fixed(frame_box))
    np.testing.assert_array_equal(local.pixels["local_facial"], of_the_frame.pixels["local_facial"])
    if of_the_frame.location.box is None:
        assert local.location.source == "too_small"
    else:
        assert local.location.box == FACE  # in the image that was sent
        assert local.location.source == ("supplied" if supplied else "raw")
    assert detector.asked == (0 if supplied else 1)


def test_a_square_of_the_margin_is_cut_around_the_box() -> None:
    left, top, right, bottom = square_around(FACE, 1.5)
    assert (left, top, right, bottom) == (265, 75, 415, 225)
    marked = np.zeros((400, 600, 3), np.uint8)
    marked[100:200, 300:380] = 255
    frame, (x1, y1, x2, y2) = frame_face(marked, FACE, 1.5)
    inside = frame[round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1]
    assert inside.min() == 255
    assert frame.sum() == pytest.approx(3 * 255 * (x2 - x1) * (y2 - y1), rel=0.02)


def test_face_without_a_face_is_square_and_searched_once() -> None:
    detector = Fixed()
    face, square_ = through(png(PHOTOGRAPH), "face", detector), through(png(PHOTOGRAPH), "square", Fixed())
    np.testing.assert_array_equal(face[0].pixels["global_texture"], square_[0].pixels["global_texture"])
    np.testing.assert_array_equal(face[0].pixels["semantic_fusion"], square_[0].pixels["semantic_fusion"])
    np.testing.assert_array_equal(face[1].pixels["local_facial"], square_[1].pixels["local_facial"])
    assert face[1].location == square_[1].location == FaceLocation(None, None, "none")
    assert detector.asked == 1


def test_small_faces_are_framed_though_the_crop_would_ignore_them() -> None:
    small: Box = (300.0, 100.0, 340.0, 150.0)
    _, local = through(png(PHOTOGRAPH), "face", Fixed(small))
    assert local.location == FaceLocation(small, 0.95, "raw")
    assert through(png(PHOTOGRAPH), "square", Fixed(small))[1].location.source == "too_small"


@pytest.mark.parametrize("framing", ["native", "square"])
def test_other_framings_search_no_face_before_the_crop(framing: ImageFraming) -> None:
    def find(image: RgbImage, box: Box | None) -> FaceLocation:
        raise AssertionError("searched")

    prepared = prepare(png(PHOTOGRAPH), None, Limits(), DECODERS, FramingRule(framing, find=find))
    assert take_over(prepared.decoded, Limits()).native == (framing == "native")
    # Nor does the framing by the face, of an image that is its own frame.
    prepared = prepare(IMAGES[0].read_bytes(), None, Limits(), DECODERS, FramingRule("face", find=find))
    assert take_over(prepared.decoded, Limits()).location == b""


def test_rules_that_cannot_be_are_refused() -> None:
    low, high = FACE_MARGINS
    for margin in (low - 0.01, high + 0.01, float("nan")):
        with pytest.raises(ValueError, match=r"face_margin is .* it must be 1 to 3"):
            FramingRule("face", margin, lambda image, box: FaceLocation(None, None, "none"))
    with pytest.raises(ValueError, match="needs a face detector"):
        FramingRule("face")


def test_what_is_handed_over_comes_back() -> None:
    image = read_rgb(IMAGES[0])
    found = FaceLocation((1.5, 2.0, 3.0, 4.0), 0.75, "raw")
    handed = take_over(hand_over(image, True, found.to_bytes()), Limits())
    assert handed.native
    assert FaceLocation.from_bytes(handed.location) == found
    assert handed.pixels is not None
    np.testing.assert_array_equal(handed.pixels, image)
    assert take_over(b"", Limits()) == HandOver()
    large = take_over(hand_over(np.zeros((513, 512, 3), np.uint8), True), Limits())
    assert large == HandOver(native=True)
    nobody = FaceLocation(None, None, "none")
    assert FaceLocation.from_bytes(nobody.to_bytes()) == nobody


GOOD = hand_over(np.zeros((4, 5, 3), np.uint8), location=FaceLocation(None, None, "none").to_bytes())


@pytest.mark.parametrize("data", [b"x", GOOD[:-1], GOOD + b"x", b"\xff" * 100])
def test_bytes_of_strangers_are_an_error_of_their_row(data: bytes) -> None:
    with pytest.raises(ImageError):
        take_over(data, Limits())
    rows = [Row(b"", data, None, "ok"), Row(png(square(PHOTOGRAPH)), b"", None, "ok")]
    bad, good = localise(rows, Limits(), DECODERS, lambda i, b: locate_faces(i, b, Fixed(), ATTEMPTS[:1]))
    assert (bad.status, good.status) == ("unreadable_image", "ok")


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[]",
        b"x",
        b'{"box": [1, 2, 3], "confidence": null, "source": "raw"}',
        b'{"box": [1, 2, 3, NaN], "confidence": null, "source": "raw"}',
        b'{"box": [1, 2, 3, 1e999], "confidence": null, "source": "raw"}',
        b'{"box": null, "confidence": "x", "source": "raw"}',
        b'{"box": null, "confidence": null, "source": "r\\u001baw"}',
        b'{"box": null, "confidence": null, "source": 3}',
        b"[" * 5000,
    ],
)
def test_locations_of_strangers_are_an_error_of_their_row(text: bytes) -> None:
    row = Row(b"", hand_over(np.zeros((256, 256, 3), np.uint8), location=text), None, "ok")
    [face] = localise([row], Limits(), DECODERS, lambda i, b: locate_faces(i, b, Fixed(), ATTEMPTS[:1]))
    assert face.status == "unreadable_image"


def test_a_location_needs_its_frame_and_box() -> None:
    found = FaceLocation((0.0, 0.0, 100.0, 100.0), 0.9, "raw").to_bytes()
    frame = np.zeros((256, 256, 3), np.uint8)
    too_large = np.zeros((513, 512, 3), np.uint8)
    rows = [
        Row(b"", hand_over(frame, location=found), None, "ok"),
        Row(b"", hand_over(too_large, location=found), (0.0, 0.0, 9.0, 9.0), "ok"),
        Row(b"", hand_over(frame, location=found), (float("inf"), 0.0, 9.0, 9.0), "ok"),
        Row(b"", hand_over(frame, location=found), (50.0, 50.0, 200.0, 200.0), "ok"),
    ]
    faces = localise(rows, Limits(), DECODERS, lambda i, b: locate_faces(i, b, Fixed(), ATTEMPTS[:1]))
    assert [face.status for face in faces] == ["unreadable_image", "unreadable_image", "invalid_face_box", "ok"]
