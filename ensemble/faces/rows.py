"""Rows of a batch to the pixels of the streams that see the face; a bad row has a status and costs no other."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ensemble import status
from ensemble.faces.crop import check_box
from ensemble.faces.detection import Box
from ensemble.faces.localisation import NONE, FaceLocation, face_square
from ensemble.images import Decoders, ImageError, Limits, RgbImage, frame, read_image
from ensemble.images.handover import take_over
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
        decoded: Its pixels as `hand_over` made them; empty where the file is to be decoded.
        box: x1, y1, x2, y2 in pixels of the decoded image, or None where the face is to be detected.
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
        location: Where the pixels were taken.
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

    def images() -> Iterator[tuple[int, RgbImage]]:
        for index, row in enumerate(rows):
            if row.status == status.OK:
                try:
                    yield index, _image(row, limits, decoders)
                except ImageError as error:
                    faces[index] = _failed(error.status, str(error))
                except OSError as error:
                    faces[index] = _failed(status.UNREADABLE_IMAGE, f"no process to decode the image in: {error}")

    for group in _groups(images()):
        for index, face in _localised(group, {index: rows[index].box for index in group}, locate):
            faces[index] = face
    return faces


def _image(row: Row, limits: Limits, decoders: Decoders) -> RgbImage:
    image = take_over(row.decoded, limits) if row.decoded else read_image(row.data, limits, decoders)
    if row.box is not None:
        check_box(row.box, *image.shape[:2])
    return image


def _localised(
    images: dict[int, RgbImage], boxes: dict[int, Box | None], locate: Locate
) -> Iterator[tuple[int, LocalFace]]:
    """The faces of images that are searched together; one after the other where together they fail."""
    try:
        locations = locate([*images.values()], [boxes[index] for index in images])
        faces = [
            LocalFace(status.OK, "", _pixels(image, location), location)
            for image, location in zip(images.values(), locations, strict=True)
        ]
    except (cv2.error, MemoryError) as error:
        if len(images) > 1:
            for index, image in images.items():
                yield from _localised({index: image}, boxes, locate)
        else:
            yield from ((index, _failed(status.UNREADABLE_IMAGE, f"no face crop: {error}")) for index in images)
    else:
        yield from zip(images, faces, strict=True)


def _pixels(image: RgbImage, location: FaceLocation) -> dict[str, RgbImage]:
    framed = face_square(image, location)
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
    return LocalFace(code, message, BLANKS, FaceLocation(None, None, NONE))
