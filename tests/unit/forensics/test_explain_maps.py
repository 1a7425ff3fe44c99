"""Explanations: where maps lie in the image, drift between maps, and how a view is put together."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ensemble.faces.crop import frame_face
from ensemble.faces.detection import Box
from ensemble.faces.localisation import FaceLocation, face_square
from ensemble.images import ImageFraming, centre, frame_whole, shrink
from ensemble.streams import GLOBAL_TEXTURE, STREAMS
from forensics.common.inspection import Inspection, StreamInspection
from forensics.explain.saliency import drift, entropy, mass_of, outside_share, stream_window, to_patches, unit_scaled
from forensics.explain.views import arithmetic, attention_maps, view
from tests.golden import IMAGES, read_rgb

WHOLE = (0.0, 0.0, 64.0, 64.0)

masses = hnp.arrays(np.float32, (4, 4), elements=st.floats(0, 1, width=32)).filter(lambda values: values.sum() > 0.01)


# Where maps lie


@pytest.mark.parametrize(
    ("height", "width", "face", "framing"),
    [
        (256, 256, (60, 70, 180, 200), "square"),
        (256, 256, (60, 70, 180, 200), "face"),
        (256, 256, (120.5, 90, 250, 240), "native"),
        (180, 240, (40, 30, 160, 170), "square"),
        (180, 240, (40, 30, 160, 170), "native"),  # below 252: as square
        (253, 255, (40, 30, 200, 210), "native"),
        (254, 252, None, "native"),
        (180, 240, (40, 30, 160, 170), "face"),
        (200, 240, (100, 90, 170, 130), "face"),
        (120, 90, None, "square"),
        (120, 90, None, "face"),
    ],
)
def test_a_stream_sees_the_window_that_is_said(
    height: int, width: int, face: Box | None, framing: ImageFraming
) -> None:
    """An image that shows its own coordinates: red is x, green is y."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x, y, np.full_like(x, 255)], axis=-1).astype(np.uint8)
    whole, crop = frame_whole(image, framing == "native"), (image, face)
    if framing == "face" and face is not None and (height, width) != (256, 256):
        whole, in_frame = frame_face(image, face, 1.5)
        crop = (whole, in_frame)
    location = FaceLocation(crop[1], None, "supplied" if face else "none")
    shown = {
        "centre": centre(whole, 252),
        "face": centre(face_square(crop[0], location, framing == "native"), 252),
        "resize": shrink(whole, 224),
    }
    for stream in STREAMS:
        x1, y1, x2, y2 = stream_window(stream, height, width, face, framing, 1.5)
        pixels = shown[stream.framing]
        positions = (np.arange(stream.pixels) + 0.5) / stream.pixels
        inside = pixels[..., 2] == 255  # black where the crop leaves the image
        columns = np.broadcast_to(x1 + positions * (x2 - x1) - 0.5, inside.shape)
        rows = np.broadcast_to((y1 + positions * (y2 - y1) - 0.5)[:, None], inside.shape)
        assert np.abs(pixels[..., 0] - columns)[inside].max() < 1.6
        assert np.abs(pixels[..., 1] - rows)[inside].max() < 1.6


# Numbers of maps


@given(masses)
def test_mass_sums_to_one_and_pictures_lie_between_0_and_1(saliency: np.ndarray) -> None:
    mass = mass_of(saliency)
    assert mass is not None
    assert mass.sum() == pytest.approx(1)
    assert mass.min() >= 0
    assert 0 <= entropy(mass) <= math.log(16) + 1e-9
    scaled = unit_scaled(saliency)
    assert scaled.min() == 0
    assert scaled.max() in (0, 1)


@given(masses, masses)
def test_drift_is_none_for_the_same_map_and_bounded_for_others(a: np.ndarray, b: np.ndarray) -> None:
    p, q = mass_of(a), mass_of(b)
    assert p is not None
    assert q is not None
    same = drift(p, WHOLE, p, WHOLE)
    assert same.moved_mass == pytest.approx(0, abs=1e-12)
    assert same.top_iou == 1
    moved, back = drift(p, WHOLE, q, WHOLE), drift(q, WHOLE, p, WHOLE)
    assert moved == back
    assert moved.moved_mass == pytest.approx(0.5 * np.abs(p - q).sum())
    assert 0 <= moved.top_iou <= 1


def test_drift_is_measured_in_the_image() -> None:
    """The same point of the image, seen through windows half a width apart; then another point, seen alike."""
    left, right = np.zeros((4, 4)), np.zeros((4, 4))
    left[1, 3], right[1, 1] = 1, 1
    assert drift(left, WHOLE, right, (32.0, 0.0, 96.0, 64.0)).moved_mass == pytest.approx(0)
    assert drift(left, WHOLE, left, (32.0, 0.0, 96.0, 64.0)).moved_mass == pytest.approx(1)


def test_top_region_is_the_fewest_cells_that_hold_a_fifth() -> None:
    p = np.array([[0.19, 0.19], [0.31, 0.31]])  # one cell suffices; of the two equal ones, the first
    q = np.array([[0.19, 0.19], [0.30, 0.32]])
    assert drift(p, WHOLE, q, WHOLE).top_iou == 0
    even = np.full((4, 4), 1 / 16)  # four of sixteen cells
    peak = np.zeros((4, 4))
    peak[0, 0] = 1
    assert drift(even, WHOLE, peak, WHOLE).top_iou == 0.25


@settings(max_examples=50)
@given(masses, st.tuples(*[st.floats(-20, 90)] * 4))
def test_mass_outside_a_box_is_what_lies_outside_by_area(saliency: np.ndarray, corners: tuple) -> None:
    mass = mass_of(saliency)
    assert mass is not None
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    fine = np.kron(mass, np.full((64, 64), 1 / 4096))  # each cell as 64×64 points
    points = (np.arange(256) + 0.5) / 4
    inside = fine[np.ix_((points > y1) & (points < y2), (points > x1) & (points < x2))].sum()
    assert outside_share(mass, WHOLE, (x1, y1, x2, y2)) == pytest.approx(1 - inside, abs=0.04)


def test_mass_outside_the_whole_window_is_none_of_it_and_all_of_it() -> None:
    mass = np.full((4, 4), 1 / 16)
    assert outside_share(mass, WHOLE, (-1, -1, 65, 65)) == 0
    assert outside_share(mass, WHOLE, (100, 100, 120, 120)) == 1
    assert outside_share(mass, WHOLE, (0, 0, 32, 64)) == pytest.approx(0.5)


def test_maps_over_pixels_are_averaged_over_patches() -> None:
    fine = np.random.default_rng(0).random((252, 252), np.float32)
    patches = fine.reshape(18, 14, 18, 14).mean(axis=(1, 3))
    np.testing.assert_allclose(to_patches(fine, 18), patches, atol=1e-6)


# A view


def inspected(seed: int, face: tuple | None = (60.0, 60.0, 180.0, 190.0)) -> Inspection:
    rng = np.random.default_rng(seed)
    streams = {}
    for stream, vote in zip(STREAMS, (0.7, 0.4, 0.9), strict=True):
        attention = rng.random((stream.pixels // 14) ** 2, np.float32)
        pixels = np.zeros((stream.pixels, stream.pixels, 3), np.uint8)
        streams[stream.name] = StreamInspection(pixels, np.ones(4, np.float32), attention, vote, vote)
    return Inspection("ok", 0.7, 0.72, streams, face, "raw" if face else "none")


def test_identical_images_do_not_drift_and_votes_add_up() -> None:
    image = read_rgb(IMAGES[1])
    clean = view("clean", image, inspected(0), attention_maps(inspected(0)))
    same = view("same", image, inspected(0), attention_maps(inspected(0)), clean)
    other = view("other", image, inspected(1), attention_maps(inspected(1)), clean)
    for before, after, different in zip(clean.streams, same.streams, other.streams, strict=True):
        assert before.drift is None
        assert after.drift is not None
        assert after.drift.moved_mass == pytest.approx(0, abs=1e-12)
        assert after.drift.top_iou == 1
        assert after.outside_face == before.outside_face
        assert different.drift is not None
        assert different.drift.moved_mass > 0.1
    assert arithmetic(clean, (2, 1, 2)) == "(2 · 0.7 + 1 · 0.4 + 2 · 0.9) / 5 = 0.72, rounded: 0.7"


def test_without_a_face_or_a_map_there_is_no_number() -> None:
    maps = {**attention_maps(inspected(0)), GLOBAL_TEXTURE.name: np.zeros((18, 18), np.float32)}
    shown = view("clean", read_rgb(IMAGES[1]), inspected(0, None), maps)
    assert [each.outside_face for each in shown.streams] == [None] * 3
    assert [each.entropy is None for each in shown.streams] == [True, False, False]
