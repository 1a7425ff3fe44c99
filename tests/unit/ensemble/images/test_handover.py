"""Small decoded images travel from step to step; what a stranger sends in their place is refused."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble import status
from ensemble.images import ImageError, Limits
from ensemble.images.handover import LARGEST, HandOver, hand_over, take_over

LIMITS = Limits()


def header(location: int, height: int, width: int) -> bytes:
    return struct.pack("<?HII", False, location, height, width)


@pytest.mark.parametrize("size", [(1, 1), (256, 256), (3, 700), (512, 512), (1024, 256)])
def test_small_images_come_back(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for each in (image, image[:, ::-1]):
        for native, location in ((False, b""), (True, b""), (False, b"{somewhere}")):
            handed = take_over(hand_over(each, native, location), LIMITS)
            assert (handed.native, handed.location) == (native, location)
            np.testing.assert_array_equal(handed.pixels, each)


def test_larger_ones_are_decoded_again() -> None:
    for size in ((513, 512), (1, LARGEST + 1)):
        handed = take_over(hand_over(np.zeros((*size, 3), np.uint8), True, b"{somewhere}"), LIMITS)
        assert (handed.native, handed.location, handed.pixels) == (True, b"{somewhere}", None)


def test_nothing_is_known_of_nothing() -> None:
    assert take_over(b"", LIMITS) == HandOver()


@pytest.mark.parametrize(
    ("handed", "expected"),
    [
        (b"x", status.UNREADABLE_IMAGE),
        (header(0, 2, 2) + bytes(11), status.UNREADABLE_IMAGE),
        (header(0, 2, 2) + bytes(13), status.UNREADABLE_IMAGE),
        (header(5, 2, 2) + bytes(12), status.UNREADABLE_IMAGE),
        (header(0, 0, 2), status.UNREADABLE_IMAGE),
        (header(0, 0xFFFFFFFF, 0xFFFFFFFF), status.UNREADABLE_IMAGE),
        (header(0, 1, 100_000) + bytes(300_000), status.TOO_ELONGATED),
    ],
)
def test_a_strangers_bytes_are_refused(handed: bytes, expected: str) -> None:
    with pytest.raises(ImageError) as caught:
        take_over(handed, LIMITS)
    assert caught.value.status == expected


def test_an_image_over_the_limits_is_told_by_its_width_and_height() -> None:
    with pytest.raises(ImageError, match="30×20 pixels are over the limit of 599"):
        take_over(hand_over(np.zeros((20, 30, 3), np.uint8)), Limits(max_pixels=599))


@given(st.binary(max_size=100))
def test_any_bytes_are_an_image_or_refused(handed: bytes) -> None:
    try:
        found = take_over(handed, LIMITS)
    except ImageError:
        return
    if found.pixels is not None:
        again = take_over(hand_over(found.pixels, found.native, found.location), LIMITS)
        assert (again.native, again.location) == (found.native, found.location)
        np.testing.assert_array_equal(again.pixels, found.pixels)
