"""The face crop of a batch: right pixels for each row, a status for a bad one, and never an exception."""

import math
import struct
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import pytest

from ensemble import status
from ensemble.faces import rows as rows_module
from ensemble.faces.crop import crop_face
from ensemble.faces.detection import Box
from ensemble.faces.localisation import FaceLocation
from ensemble.faces.rows import BLANKS, Row, localise
from ensemble.images import Decoders, Limits, RgbImage, centre
from ensemble.images.handover import hand_over
from ensemble.streams import LOCAL_FACIAL
from tests import hostile
from tests.golden import BOXES, IMAGES, read_rgb

DATA, PIXELS = IMAGES[0].read_bytes(), read_rgb(IMAGES[0])
BOX: Box = tuple(map(float, BOXES[IMAGES[0].name]))
LIMITS = Limits(max_pixels=1_000_000)
FACE = LOCAL_FACIAL.name
CROP = centre(crop_face(PIXELS, BOX), 252)

BAD_BOXES: tuple[Box, ...] = (
    (math.inf, 0.0, math.inf, 9.0),
    (0.0, 0.0, 3e9, 3e9),
    (-3e38, -3e38, 3e38, 3e38),
    (math.nan, 0.0, 5.0, 5.0),
    (9.0, 9.0, 1.0, 1.0),
    (300.0, 300.0, 400.0, 400.0),
    (3e9, 3e9, 3.1e9, 3.1e9),
)


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    made = Decoders(1)
    yield made
    made.close()


def supplied_only(images: Sequence[RgbImage], boxes: Sequence[Box | None]) -> list[FaceLocation]:
    """As `locate_faces`, where no face is ever found."""
    return [FaceLocation(box, None, "none" if box is None else "supplied") for box in boxes]


LARGE = np.zeros((600, 600, 3), np.uint8)
FOUND = FaceLocation(BOX, 0.9, "raw")


INVALID = status.INVALID_FACE_BOX


def row(data: bytes = DATA, decoded: bytes = b"", box: Box | None = BOX, code: str = status.OK) -> Row:
    return Row(data, decoded, box, code)


@pytest.mark.parametrize("decoded", [b"", hand_over(PIXELS)], ids=["from the file", "handed over"])
def test_a_row_gets_its_crop(decoders: Decoders, decoded: bytes) -> None:
    [face] = localise([row(decoded=decoded)], LIMITS, decoders, supplied_only)
    assert (face.status, face.message, face.location.source) == (status.OK, "", "supplied")
    np.testing.assert_array_equal(face.pixels[FACE], CROP)


def test_pixels_that_were_handed_over_are_not_decoded_again(decoders: Decoders) -> None:
    [face] = localise([row(data=b"no image", decoded=hand_over(PIXELS))], LIMITS, decoders, supplied_only)
    np.testing.assert_array_equal(face.pixels[FACE], CROP)


def test_a_row_that_already_has_a_status_keeps_it(decoders: Decoders) -> None:
    [face] = localise([row(code=status.TOO_MANY_BYTES)], LIMITS, decoders, supplied_only)
    assert (face.status, face.location.source) == (status.TOO_MANY_BYTES, "none")
    np.testing.assert_array_equal(face.pixels[FACE], BLANKS[FACE])


def test_bad_rows_get_their_status_and_cost_their_batch_nothing(decoders: Decoders) -> None:
    bad = [
        *((row(box=box), status.INVALID_FACE_BOX) for box in BAD_BOXES),
        *((row(data=case.data, box=None), case.status) for case in hostile.CASES if case.status != status.OK),
        (row(data=hostile.png_declaring(20_000, 20_000), box=None), status.TOO_MANY_PIXELS),
        (row(decoded=b"x"), status.UNREADABLE_IMAGE),
        (row(decoded=struct.pack("<?HII", False, 0, 60000, 60000)), status.UNREADABLE_IMAGE),
        (row(decoded=hand_over(PIXELS, False, b"{}")), status.UNREADABLE_IMAGE),
        # A location without the frame that was cut there, a box without its location, and a location without its box.
        (row(decoded=hand_over(LARGE, False, FOUND.to_bytes())), status.UNREADABLE_IMAGE),
        (row(decoded=hand_over(PIXELS, False, FaceLocation(None, None, "none").to_bytes())), status.UNREADABLE_IMAGE),
        (row(decoded=hand_over(PIXELS, False, FOUND.to_bytes()), box=None), status.UNREADABLE_IMAGE),
        (row(decoded=hand_over(PIXELS, False, FOUND.to_bytes()), box=BAD_BOXES[-2]), status.INVALID_FACE_BOX),
        # Within the image's height and beyond its width, had it been turned.
        (row(decoded=hand_over(np.zeros((90, 300, 3), np.uint8)), box=(5.0, 150.0, 50.0, 200.0)), INVALID),
    ]
    batch = [each for pair in bad for each in (pair[0], row())]
    faces = localise(batch, Limits(), decoders, supplied_only)
    assert [face.status for face in faces[::2]] == [expected for _, expected in bad]
    assert all(face.message and face.location.box is None and not face.pixels[FACE].any() for face in faces[::2])
    assert all(face.status == status.OK and (face.pixels[FACE] == CROP).all() for face in faces[1::2])


@pytest.mark.parametrize("kind", [cv2.error, MemoryError])
def test_an_image_that_the_search_fails_on_costs_its_group_nothing(kind: type[Exception], decoders: Decoders) -> None:
    def locate(images: Sequence[RgbImage], boxes: Sequence[Box | None]) -> list[FaceLocation]:
        if any(image.shape[0] == 7 for image in images):
            raise kind("too small for this filter")
        return supplied_only(images, boxes)

    odd = hand_over(np.full((7, 9, 3), 90, np.uint8))
    faces = localise([row(), row(decoded=odd, box=None), row()], LIMITS, decoders, locate)
    assert [face.status for face in faces] == [status.OK, status.UNREADABLE_IMAGE, status.OK]
    assert "too small for this filter" in faces[1].message
    np.testing.assert_array_equal(faces[2].pixels[FACE], CROP)
    faces = localise([row(decoded=odd, box=None), row()], LIMITS, decoders, locate)  # of two, too
    assert [face.status for face in faces] == [status.UNREADABLE_IMAGE, status.OK]


def test_the_limits_are_those_of_the_step(decoders: Decoders) -> None:
    strict = Limits(max_pixels=256 * 256 - 1)
    for decoded in (b"", hand_over(PIXELS)):
        [face] = localise([row(decoded=decoded)], strict, decoders, supplied_only)
        assert face.status == status.TOO_MANY_PIXELS


def test_no_process_to_decode_in_is_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = Decoders(1)

    def refuse() -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(decoders, "_fork", refuse)
    faces = localise([row(), row(decoded=hand_over(PIXELS))], LIMITS, decoders, supplied_only)
    assert [face.status for face in faces] == [status.UNREADABLE_IMAGE, status.OK]
    assert "no more processes" in faces[0].message


def test_decoded_images_are_held_in_bounded_groups(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "GROUP_PIXELS", 2 * 256 * 256)
    groups = []

    def locate(images: Sequence[RgbImage], boxes: Sequence[Box | None]) -> list[FaceLocation]:
        groups.append([image.shape[0] * image.shape[1] for image in images])
        return supplied_only(images, boxes)

    large = hand_over(np.zeros((512, 512, 3), np.uint8))
    batch = [row(), row(), row(), row(decoded=large, box=None), row(), row(), row(), row()]
    assert all(face.status == status.OK for face in localise(batch, LIMITS, decoders, locate))
    assert [len(group) for group in groups] == [2, 1, 1, 2, 2]
    groups.clear()
    localise([row(decoded=large, box=None), row()], LIMITS, decoders, locate)
    assert [len(group) for group in groups] == [1, 1]  # and no group is empty


def test_a_face_that_is_too_small_in_its_own_frame_is_none_there_too(decoders: Decoders) -> None:
    """A long one: of a square of three times its longer side it has less than a ninth."""
    sent = FaceLocation((300.0, 100.0, 320.0, 180.0), 0.9, "raw")
    handed = hand_over(PIXELS, location=sent.to_bytes())
    small, large = (
        localise([row(decoded=handed, box=box)], LIMITS, decoders, supplied_only)[0]
        for box in ((117.0, 85.0, 138.0, 171.0), (60.0, 60.0, 200.0, 200.0))
    )
    assert small.location == FaceLocation(None, 0.9, "too_small")
    np.testing.assert_array_equal(small.pixels[FACE], centre(PIXELS, 252))
    assert large.location == sent


def test_no_rows_are_no_faces(decoders: Decoders) -> None:
    assert localise([], LIMITS, decoders, supplied_only) == []
