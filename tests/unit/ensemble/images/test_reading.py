"""Decoding within limits and the framings, on golden pixels and on hostile files."""

import io
import os

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble import status
from ensemble.images import ImageError, Limits, centre, read_image, reading, shrink, square
from tests import hostile
from tests.golden import IMAGES, read_rgb

LIMITS = Limits()


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_decodes_as_the_authors_code(path) -> None:
    np.testing.assert_array_equal(read_image(path.read_bytes(), LIMITS), read_rgb(path))


def test_framings_of_a_256_square_do_not_resample_the_centre() -> None:
    image = read_rgb(IMAGES[0])
    assert square(image) is not None
    np.testing.assert_array_equal(square(image), image)
    np.testing.assert_array_equal(centre(image, 252), image[2:254, 2:254])
    np.testing.assert_array_equal(shrink(image, 224), cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize(
    ("height", "width"), [(512, 512), (256, 300), (1000, 300), (100, 50), (1, 1), (3, 2000), (257, 255)]
)
def test_any_size_becomes_the_central_square(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    framed = square(image)
    assert framed.shape == (256, 256, 3)
    short = min(height, width)
    flags = cv2.INTER_AREA if short > 256 else cv2.INTER_CUBIC
    resized = cv2.resize(image, (round(width * 256 / short), round(height * 256 / short)), interpolation=flags)
    top, left = (resized.shape[0] - 256) // 2, (resized.shape[1] - 256) // 2
    np.testing.assert_array_equal(framed, resized[top : top + 256, left : left + 256])


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: case.name)
def test_hostile_files_have_their_status_or_pixels(case: hostile.Case) -> None:
    if case.status == status.OK:
        assert read_image(case.data, LIMITS).shape[2] == 3
    else:
        with pytest.raises(ImageError) as caught:
            read_image(case.data, LIMITS)
        assert caught.value.status == case.status


def test_limits_are_inclusive_and_checked_from_the_header() -> None:
    data = hostile.encode(np.zeros((300, 400, 3), np.uint8), ".png")
    assert read_image(data, Limits(max_bytes=len(data), max_pixels=120_000)).shape == (300, 400, 3)
    with pytest.raises(ImageError, match=r"400×300 pixels are over the limit of 119999") as caught:
        read_image(data, Limits(max_pixels=119_999))
    assert caught.value.status == status.TOO_MANY_PIXELS
    with pytest.raises(ImageError, match=f"{len(data)} bytes are over the limit") as caught:
        read_image(data, Limits(max_bytes=len(data) - 1))
    assert caught.value.status == status.TOO_MANY_BYTES


def test_exif_orientation_is_applied() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :20] = 255
    buffer = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(image).save(buffer, "JPEG", exif=exif)
    decoded = read_image(buffer.getvalue(), LIMITS)
    assert decoded.shape == (40, 20, 3)
    assert decoded[5].mean() > 200 > 50 > decoded[35].mean()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([case.data for case in hostile.CASES if len(case.data) < 200_000]), st.data())
def test_damaged_files_never_escape(original: bytes, data: st.DataObject) -> None:
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(0, 8))):
        if damaged:
            damaged[data.draw(st.integers(0, min(len(damaged) - 1, 400)))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged
    try:
        image = read_image(bytes(damaged), Limits(max_pixels=4_000_000))
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.size <= 3 * 4_000_000


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_escape(data: bytes) -> None:
    with pytest.raises(ImageError):
        read_image(data, LIMITS)


def test_a_forked_process_has_decoders_of_its_own() -> None:
    """Both would read from one socket, and get each other's images."""
    shared = reading._shared_decoders()
    assert reading._shared_decoders() is shared
    child = os.fork()
    if child == 0:
        os._exit(reading._shared_decoders() is shared)
    assert os.waitpid(child, 0)[1] == 0
