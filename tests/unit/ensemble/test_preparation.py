"""What the first step makes of an image: pixels and `ok`, or a status and blanks."""

import math

import numpy as np
import pytest

from ensemble import status
from ensemble.images import Limits
from ensemble.preparation import prepare
from tests import hostile
from tests.golden import IMAGES, read_rgb

NAN_BOX = (math.nan,) * 4


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: case.name)
def test_every_file_gets_its_status(case: hostile.Case) -> None:
    prepared = prepare(case.data, None, Limits())
    assert prepared.status == case.status
    assert {name: pixels.shape for name, pixels in prepared.pixels.items()} == {
        "global_texture": (252, 252, 3),
        "semantic_fusion": (224, 224, 3),
    }
    if case.status == status.OK:
        assert prepared.message == ""
    else:
        assert prepared.message
        assert not any(pixels.any() for pixels in prepared.pixels.values())


@pytest.mark.parametrize("box", [None, NAN_BOX])
def test_no_box_means_detection(box) -> None:
    prepared = prepare(IMAGES[0].read_bytes(), box, Limits())
    assert prepared.status == status.OK
    assert prepared.box is None
    np.testing.assert_array_equal(prepared.pixels["global_texture"], read_rgb(IMAGES[0])[2:254, 2:254])


@pytest.mark.parametrize(
    "box", [(math.nan, 0.0, 9.0, 9.0), (0.0, 0.0, math.inf, 9.0), (9.0, 9.0, 1.0, 1.0), (300.0, 0.0, 400.0, 100.0)]
)
def test_a_wrong_box_is_told_with_value_and_image_size(box) -> None:
    prepared = prepare(IMAGES[0].read_bytes(), box, Limits())
    assert prepared.status == status.INVALID_FACE_BOX
    assert str(box) in prepared.message
    assert "256×256" in prepared.message


def test_a_box_is_held_against_the_image_s_own_sides() -> None:
    data = hostile.encode(np.zeros((100, 300, 3), np.uint8), ".png")
    assert prepare(data, (200.0, 20.0, 260.0, 80.0), Limits()).status == status.OK
    turned = prepare(data, (20.0, 200.0, 80.0, 260.0), Limits())
    assert (turned.status, turned.box) == (status.INVALID_FACE_BOX, None)
    assert "300×100" in turned.message
