"""Small decoded images travel from step to step; what a stranger sends in their place is refused."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble import status
from ensemble.images import ImageError, Limits
from ensemble.images.handover import LARGEST, hand_over, take_over

LIMITS = Limits()


@pytest.mark.parametrize("size", [(1, 1), (256, 256), (3, 700), (512, 512), (1024, 256)])
def test_small_images_come_back(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    np.testing.assert_array_equal(take_over(hand_over(image), LIMITS), image)
    np.testing.assert_array_equal(take_over(hand_over(image[:, ::-1]), LIMITS), image[:, ::-1])


def test_larger_ones_are_decoded_again() -> None:
    assert hand_over(np.zeros((513, 512, 3), np.uint8)) == b""
    assert hand_over(np.zeros((1, LARGEST + 1, 3), np.uint8)) == b""


@pytest.mark.parametrize(
    ("handed", "expected"),
    [
        (b"x", status.UNREADABLE_IMAGE),
        (struct.pack("<II", 0, 0), status.UNREADABLE_IMAGE),
        (struct.pack("<II", 2, 2) + bytes(11), status.UNREADABLE_IMAGE),
        (struct.pack("<II", 2, 2) + bytes(13), status.UNREADABLE_IMAGE),
        (struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF), status.TOO_MANY_PIXELS),
        (struct.pack("<II", 1, 100_000) + bytes(300_000), status.TOO_ELONGATED),
    ],
)
def test_a_strangers_bytes_are_refused(handed: bytes, expected: str) -> None:
    with pytest.raises(ImageError) as caught:
        take_over(handed, LIMITS)
    assert caught.value.status == expected


@given(st.binary(max_size=100))
def test_any_bytes_are_an_image_or_refused(handed: bytes) -> None:
    try:
        image = take_over(handed, LIMITS)
    except ImageError:
        return
    assert hand_over(image) == handed
