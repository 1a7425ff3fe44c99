"""One encoded image to what the steps after it need; a bad image becomes a status, never an exception."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ensemble import status
from ensemble.faces.crop import MARGIN, check_box
from ensemble.faces.detection import Box
from ensemble.faces.localisation import FaceLocation, cut_to_face
from ensemble.images import (
    SQUARE,
    Decoders,
    ImageError,
    ImageFraming,
    Limits,
    RgbImage,
    frame,
    frame_whole,
    read_image,
)
from ensemble.images.handover import hand_over
from ensemble.streams import IMAGE_STREAMS

BLANKS = {stream.name: np.zeros((stream.pixels, stream.pixels, 3), np.uint8) for stream in IMAGE_STREAMS}

Find = Callable[[RgbImage, Box | None], FaceLocation]
"""The main face of an image, however small; a supplied box replaces detection."""


@dataclass(frozen=True)
class Prepared:
    """What `prepare` makes of one image.

    Attributes:
        status: `ok`, or why there is no score.
        message: Why, in words, with value, limit and fix; empty where the status is `ok`.
        pixels: For each of `IMAGE_STREAMS` by its name, uint8 [S, S, 3], RGB; zeros where the status is not `ok`.
        box: The face box supplied, in pixels of the decoded image; None where it is to be detected. Where the image was
            framed around its face: that box in pixels of the frame.
        decoded: What is known of the image, as `hand_over` writes it; empty where the status is not `ok`.
    """

    status: str
    message: str
    pixels: Mapping[str, RgbImage]
    box: Box | None
    decoded: bytes


@dataclass(frozen=True)
class FramingRule:
    """How images that are not 256×256 are framed.

    Attributes:
        framing: What the streams look at.
        face_margin: Of `face`: side of the square around the face, in longer sides of its box.
        find: Of `face`: finds it.

    Raises:
        ValueError: A margin outside `FACE_MARGINS`, or `face` without `find`.
    """

    framing: ImageFraming = "square"
    face_margin: float = MARGIN
    find: Find | None = None

    def __post_init__(self) -> None:
        low, high = FACE_MARGINS
        if not low <= self.face_margin <= high:
            raise ValueError(f"face_margin is {self.face_margin:g}; it must be {low:g} to {high:g}")
        if self.framing == "face" and self.find is None:
            raise ValueError("the framing face needs a face detector")


FACE_MARGINS = (1.0, 3.0)
"""Least and largest `face_margin`. Beyond, the face would be too small in its own frame to be cropped."""


def prepare(
    data: bytes,
    box: Box | None,
    limits: Limits,
    decoders: Decoders | None = None,
    rule: FramingRule | None = None,
) -> Prepared:
    """Decodes an image, checks the face box against it and cuts the framings of the whole-image streams.

    Args:
        data: Contents of an image file.
        box: x1, y1, x2, y2 in pixels of the decoded image, or None; four NaN mean None.
        limits: What an image may cost.
        decoders: Where to decode; a pool that this process shares unless given.
        rule: How images are framed; by `square` unless given.

    Raises:
        OSError: No decoding process could be started.
    """
    if box is not None and np.isnan(box).all():
        box = None
    try:
        image = read_image(data, limits, decoders)
        if box is not None:
            check_box(box, *image.shape[:2])
    except ImageError as error:
        return Prepared(error.status, str(error), BLANKS, None, b"")
    rule = rule or FramingRule()
    if rule.framing == "face" and rule.find is not None and image.shape[:2] != (SQUARE, SQUARE):
        face = rule.find(image, box)
        framed, in_frame = cut_to_face(image, face, rule.face_margin)
        box = in_frame.box
        handed = hand_over(framed, location=face.to_bytes())
    else:
        native = rule.framing == "native"
        framed = frame_whole(image, native)
        handed = hand_over(image, native)
    pixels = {stream.name: frame(framed, stream) for stream in IMAGE_STREAMS}
    return Prepared(status.OK, "", pixels, box, handed)
