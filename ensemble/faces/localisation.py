"""From images to the Localized Facial stream's pixels: detect, select, crop (method, face crop)."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import cv2
import numpy as np

from ensemble import status
from ensemble.contract import FACE_NONE, FACE_SUPPLIED, FACE_TOO_SMALL
from ensemble.faces.crop import MARGIN, crop_face, frame_face, is_too_small, is_valid_box
from ensemble.faces.detection import Box, Detection, FaceDetector
from ensemble.faces.restoration import ATTEMPTS, Attempt, restored_images
from ensemble.faces.selection import main_face
from ensemble.images import SQUARE, ImageError, RgbImage, frame, frame_whole, square
from ensemble.streams import LOCAL_FACIAL, Stream

_SOURCE = re.compile("[a-z0-9_]{1,64}")
_NO_BOX = (0.0,) * 4

RESTORED_PIXELS = 1_000_000
"""Restored versions are made of at most so many pixels (a larger image is reduced first): non-local means takes about
2 s of one core for that many. The image itself is searched at its own size, and the method's 256×256 are far below."""


@dataclass(frozen=True)
class FaceLocation:
    """Where the Localized Facial stream looks.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image; None where the whole image is used.
        confidence: The detector's, in [0, 1]; None where nothing was detected.
        source: `supplied`, the name of the attempt that found the face, `too_small`, or `none`.
    """

    box: Box | None
    confidence: float | None
    source: str

    def to_bytes(self) -> bytes:
        """As JSON, for another step of the server."""
        return json.dumps(asdict(self), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "FaceLocation":
        """What `to_bytes` wrote.

        Raises:
            ImageError: A stranger wrote it.
        """
        try:
            found = json.loads(data)
            box = None if found["box"] is None else tuple(map(float, found["box"]))
            confidence = None if found["confidence"] is None else float(found["confidence"])
            source = found["source"]
            numbers = (*(box or ()), *(() if confidence is None else (confidence,)))
            known = isinstance(source, str) and _SOURCE.fullmatch(source)
            if not known or len(box or _NO_BOX) != 4 or not all(map(math.isfinite, numbers)):
                raise ValueError(found)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ImageError(status.UNREADABLE_IMAGE, "not a face's location as the step before gives it") from error
        return cls(box, confidence, source)  # type: ignore[arg-type]


def locate_faces(
    images: Sequence[RgbImage],
    supplied: Sequence[Box | None],
    detector: FaceDetector,
    attempts: Sequence[Attempt] = ATTEMPTS,
) -> list[FaceLocation]:
    """The main face of each image; a supplied box replaces detection.

    An image is searched attempt after attempt until one shows a face; an attempt's images are detected together.

    Args:
        images: N images, uint8 [height, width, 3], RGB, each of its own size.
        supplied: N boxes for which `is_valid_box` holds, or None where the face is to be detected.
        detector: Called once for each attempt, with the images that still need it.
        attempts: Which, in order.

    Returns:
        Their locations; without a box where the method takes the whole image instead.
    """
    faces = main_faces(images, supplied, detector, attempts)
    return [unless_too_small(face, image) for face, image in zip(faces, images, strict=True)]


def main_faces(
    images: Sequence[RgbImage],
    supplied: Sequence[Box | None],
    detector: FaceDetector,
    attempts: Sequence[Attempt] = ATTEMPTS,
) -> list[FaceLocation]:
    """As `locate_faces`, small faces too."""
    searched = [index for index, box in enumerate(supplied) if box is None]
    found = find_faces([images[index] for index in searched], detector, [attempts] * len(searched))
    locations = {index: FaceLocation(box, None, FACE_SUPPLIED) for index, box in enumerate(supplied) if box is not None}
    for index, (attempt, faces) in zip(searched, found, strict=True):
        face = main_face(faces, *images[index].shape[:2])
        locations[index] = (
            FaceLocation(None, None, FACE_NONE) if face is None else FaceLocation(face.box, face.confidence, attempt)
        )
    return [locations[index] for index in range(len(images))]


def find_faces(
    images: Sequence[RgbImage], detector: FaceDetector, attempts: Sequence[Sequence[Attempt]]
) -> list[tuple[str, list[Detection]]]:
    """All faces of each image that the first attempt to find any finds, in the detector's order.

    Args:
        images: N images, uint8 [height, width, 3], RGB, each of its own size.
        detector: Called once for each attempt, with the images that still need it.
        attempts: Of each image, in order.

    Returns:
        For each image the name of the attempt and the faces, boxes in pixels of the image; `FACE_NONE` where there are
        none.
    """
    found: dict[int, tuple[str, list[Detection]]] = {}
    searches = {index: _views(image, attempts[index]) for index, image in enumerate(images)}
    while searches:
        views = {index: view for index, search in searches.items() if (view := next(search, None)) is not None}
        seen = detector.detect([view.pixels for view in views.values()]) if views else []
        for (index, view), detections in zip(views.items(), seen, strict=True):
            if faces := _faces(detections, view, images[index]):
                found[index] = view.attempt.name, faces
        searches = {index: search for index, search in searches.items() if index in views and index not in found}
    return [found.get(index, (FACE_NONE, [])) for index in range(len(images))]


def cut_to_face(image: RgbImage, face: FaceLocation, margin: float = MARGIN) -> tuple[RgbImage, FaceLocation]:
    """An image under the framing `face`: the square around its main face, and where that face is in it.

    Args:
        image: uint8 [height, width, 3], RGB.
        face: Of `main_faces`.
        margin: Side of the square, in longer sides of the box.

    Returns:
        uint8 [256, 256, 3]; without a face as `square` frames the image. An image of 256×256 stays as it is.
    """
    if image.shape[:2] == (SQUARE, SQUARE):
        return image, face
    if face.box is None:
        return square(image), face
    framed, box = frame_face(image, face.box, margin)
    return framed, replace(face, box=box)


def face_square(image: RgbImage, location: FaceLocation, native: bool = False) -> RgbImage:
    """The face crop, uint8 [256, 256, 3]; where no face is used, the image as `frame_whole` frames it."""
    return frame_whole(image, native) if location.box is None else crop_face(image, location.box)


def local_pixels(image: RgbImage, location: FaceLocation, stream: Stream = LOCAL_FACIAL) -> RgbImage:
    """The input of a stream that sees the face, uint8 [pixels, pixels, 3]."""
    return frame(face_square(image, location), stream)


@dataclass(frozen=True)
class _View:
    """What the detector sees in one attempt; `scale` is its size over the image's, before the restoration."""

    attempt: Attempt
    pixels: RgbImage
    base: RgbImage
    scale: float


def _views(image: RgbImage, attempts: Sequence[Attempt]) -> Iterator[_View]:
    scale = min(1.0, math.sqrt(RESTORED_PIXELS / (image.shape[0] * image.shape[1])))
    base = image
    if scale < 1.0:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        base = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    for attempt, restored in restored_images(base, attempts):
        if restored is base:
            yield _View(attempt, image, image, 1.0)
        else:
            yield _View(attempt, restored, base, scale)


def _faces(detections: Sequence[Detection], view: _View, image: RgbImage) -> list[Detection]:
    height, width = image.shape[:2]
    faces = []
    for detection in detections:
        if not all(map(math.isfinite, (*detection.box, detection.confidence))):
            continue
        x1, y1, x2, y2 = (side / view.scale for side in view.attempt.to_image(detection.box, view.base.shape))
        if is_valid_box((x1, y1, x2, y2), height, width):
            faces.append(Detection((x1, y1, x2, y2), detection.confidence))
    return faces


def unless_too_small(face: FaceLocation, image: RgbImage) -> FaceLocation:
    """The face, or none where the method takes the whole image instead of one so small."""
    if face.box is not None and is_too_small(face.box, *image.shape[:2]):
        return FaceLocation(None, face.confidence, FACE_TOO_SMALL)
    return face
