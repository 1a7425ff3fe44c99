"""One encoded image to what the steps after it need; a bad image becomes a status, never an exception."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ensemble import status
from ensemble.faces.crop import check_box
from ensemble.faces.detection import Box
from ensemble.images import Decoders, ImageError, Limits, RgbImage, frame, read_image, square
from ensemble.images.handover import hand_over
from ensemble.streams import IMAGE_STREAMS

BLANKS = {stream.name: np.zeros((stream.pixels, stream.pixels, 3), np.uint8) for stream in IMAGE_STREAMS}


@dataclass(frozen=True)
class Prepared:
    """What `prepare` makes of one image.

    Attributes:
        status: `ok`, or why there is no score.
        message: Why, in words, with value, limit and fix; empty where the status is `ok`.
        pixels: For each of `IMAGE_STREAMS` by its name, uint8 [S, S, 3], RGB; zeros where the status is not `ok`.
        box: The face box supplied, in pixels of the decoded image; None where it is to be detected.
        decoded: The decoded image as `hand_over` makes it; empty where it is large, or the status is not `ok`.
    """

    status: str
    message: str
    pixels: Mapping[str, RgbImage]
    box: Box | None
    decoded: bytes


def prepare(data: bytes, box: Box | None, limits: Limits, decoders: Decoders | None = None) -> Prepared:
    """Decodes an image, checks the face box against it and cuts the framings of the whole-image streams.

    Args:
        data: Contents of an image file.
        box: x1, y1, x2, y2 in pixels of the decoded image, or None; four NaN mean None.
        limits: What an image may cost.
        decoders: Where to decode; a pool that this process shares unless given.

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
    framed = square(image)
    pixels = {stream.name: frame(framed, stream) for stream in IMAGE_STREAMS}
    return Prepared(status.OK, "", pixels, box, hand_over(image))
