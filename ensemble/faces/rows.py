"""Rows of a batch to the pixels of the streams that see the face; a bad row has a status and costs no other."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ensemble import status
from ensemble.contract import FACE_NONE
from ensemble.faces.crop import check_box
from ensemble.faces.detection import Box
from ensemble.faces.localisation import FaceLocation, face_square, unless_too_small
from ensemble.images import Decoders, ImageError, Limits, RgbImage, frame, read_image
from ensemble.images.handover import HandOver, take_over
from ensemble.streams import FACE_STREAMS

GROUP_PIXELS = 50_000_000
"""Pixels of decoded images that are held at once; one image alone may have as many."""

BLANKS = {stream.name: np.zeros((stream.pixels, stream.pixels, 3), np.uint8) for stream in FACE_STREAMS}

Locate = Callable[[Sequence[RgbImage], Sequence[Box | None]], list[FaceLocation]]
"""As `locate_faces`, with detector and attempts chosen."""


@dataclass(frozen=True)
class Row:
    """One image as it comes to this step.

    Attributes:
        data: Contents of an image file.
        decoded: What the step before knows of it, as `hand_over` wrote it; empty where that is nothing.
        box: x1, y1, x2, y2 in pixels of the decoded image, or None where the face is to be detected. Of an image whose
            face was found before, in pixels of the frame that `decoded` holds.
        status: What the step before found; an image is looked at where it is `ok`.
    """

    data: bytes
    decoded: bytes
    box: Box | None
    status: str


@dataclass(frozen=True)
class LocalFace:
    """What becomes of a row.

    Attributes:
        status: The row's; where that was `ok`, and there are no pixels after all: why.
        message: Why, in words; empty where this step found nothing wrong.
        pixels: For each of `FACE_STREAMS` by its name, uint8 [S, S, 3], RGB; zeros where the status is not `ok`.
        location: Where the pixels were taken, in the image that was sent.
    """

    status: str
    message: str
    pixels: Mapping[str, RgbImage]
    location: FaceLocation


def localise(rows: Sequence[Row], limits: Limits, decoders: Decoders, locate: Locate) -> list[LocalFace]:
    """The face crop of each row. It raises nothing: the step that calls it runs beside others, and must answer.

    Args:
        rows: What comes from the step before or, where a stranger calls this one by its name, from anywhere.
        limits: What an image may cost.
        decoders: Where to decode.
        locate: Finds the faces of several images together.
    """
    faces = [_failed(row.status, "") for row in rows]
    native: dict[int, bool] = {}

    def images() -> Iterator[tuple[int, RgbImage]]:
        for index, row in enumerate(rows):
            if row.status == status.OK:
                try:
                    handed = take_over(row.decoded, limits)
                    if handed.location:
                        faces[index] = _found_before(handed, row.box)
                    else:
                        native[index] = handed.native
                        yield index, _image(handed, row, limits, decoders)
                except ImageError as error:
                    faces[index] = _failed(error.status, str(error))
                except OSError as error:
                    faces[index] = _failed(status.UNREADABLE_IMAGE, f"no process to decode the image in: {error}")

    for group in _groups(images()):
        for index, face in _localised(group, {index: rows[index].box for index in group}, native, locate):
            faces[index] = face
    return faces


def _image(handed: HandOver, row: Row, limits: Limits, decoders: Decoders) -> RgbImage:
    image = read_image(row.data, limits, decoders) if handed.pixels is None else handed.pixels
    if row.box is not None:
        check_box(row.box, *image.shape[:2])
    return image


def _found_before(handed: HandOver, box: Box | None) -> LocalFace:
    """Of an image whose face the step before has found and framed: the crop of that frame, as of any 256×256 image."""
    found, image = FaceLocation.from_bytes(handed.location), handed.pixels
    if image is None or (found.box is None) != (box is None):
        raise ImageError(status.UNREADABLE_IMAGE, "a face's location without its frame: not what the step before gives")
    if box is None:
        return LocalFace(status.OK, "", _pixels(image, found), found)
    check_box(box, *image.shape[:2])
    in_frame = unless_too_small(FaceLocation(box, found.confidence, found.source), image)
    location = found if in_frame.box is not None else in_frame
    return LocalFace(status.OK, "", _pixels(image, in_frame), location)


def _localised(
    images: dict[int, RgbImage], boxes: dict[int, Box | None], native: dict[int, bool], locate: Locate
) -> Iterator[tuple[int, LocalFace]]:
    """The faces of images that are searched together; one after the other where together they fail."""
    try:
        locations = locate([*images.values()], [boxes[index] for index in images])
        faces = [
            LocalFace(status.OK, "", _pixels(image, location, native[index]), location)
            for (index, image), location in zip(images.items(), locations, strict=True)
        ]
    except (cv2.error, MemoryError) as error:
        if len(images) > 1:
            for index, image in images.items():
                yield from _localised({index: image}, boxes, native, locate)
        else:
            yield from ((index, _failed(status.UNREADABLE_IMAGE, f"no face crop: {error}")) for index in images)
    else:
        yield from zip(images, faces, strict=True)


def _pixels(image: RgbImage, location: FaceLocation, native: bool = False) -> dict[str, RgbImage]:
    framed = face_square(image, location, native)
    return {stream.name: frame(framed, stream) for stream in FACE_STREAMS}


def _groups(images: Iterable[tuple[int, RgbImage]]) -> Iterator[dict[int, RgbImage]]:
    """The images, by index, in groups of at most `GROUP_PIXELS` or of one."""
    group: dict[int, RgbImage] = {}
    pixels = 0
    for index, image in images:
        size = image.shape[0] * image.shape[1]
        if group and pixels + size > GROUP_PIXELS:
            yield group
            group, pixels = {}, 0
        group[index] = image
        pixels += size
    if group:
        yield group


def _failed(code: str, message: str) -> LocalFace:
    return LocalFace(code, message, BLANKS, FaceLocation(None, None, FACE_NONE))
