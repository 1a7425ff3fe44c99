"""One encoded image to what the steps after it need; a bad image becomes a status, never an exception."""

from dataclasses import dataclass

import numpy as np

from ensemble import status
from ensemble.faces.crop import is_valid_box
from ensemble.faces.detection import Box
from ensemble.images import ImageError, Limits, RgbImage, centre, read_image, shrink, square
from ensemble.streams import GLOBAL_TEXTURE, SEMANTIC_FUSION


@dataclass(frozen=True)
class Prepared:
    """What `prepare` makes of one image.

    Attributes:
        status: `ok`, or why there is no score.
        message: Why, in words, with value, limit and fix; empty where the status is `ok`.
        global_pixels: uint8 [252, 252, 3], RGB; zeros where the status is not `ok`.
        semantic_pixels: uint8 [224, 224, 3], RGB; zeros where the status is not `ok`.
        box: The face box supplied, in pixels of the decoded image; None where it is to be detected.
    """

    status: str
    message: str
    global_pixels: RgbImage
    semantic_pixels: RgbImage
    box: Box | None


def prepare(data: bytes, box: Box | None, limits: Limits) -> Prepared:
    """Decodes an image, checks the face box against it and cuts the framings of the whole-image streams.

    Args:
        data: Contents of an image file.
        box: x1, y1, x2, y2 in pixels of the decoded image, or None; four NaN mean None.
        limits: What an image may cost.
    """
    if box is not None and np.isnan(box).all():
        box = None
    try:
        image = read_image(data, limits)
        height, width = image.shape[:2]
        if box is not None and not is_valid_box(box, height, width):
            raise ImageError(
                status.INVALID_FACE_BOX,
                f"face box {box} is not one in an image of {width}×{height} pixels; "
                "give finite x1 < x2 and y1 < y2 in pixels, meeting the image, or leave it out",
            )
    except ImageError as error:
        return Prepared(error.status, str(error), _blank(GLOBAL_TEXTURE.pixels), _blank(SEMANTIC_FUSION.pixels), None)
    framed = square(image)
    return Prepared(status.OK, "", centre(framed, GLOBAL_TEXTURE.pixels), shrink(framed, SEMANTIC_FUSION.pixels), box)


def _blank(side: int) -> RgbImage:
    return np.zeros((side, side, 3), np.uint8)
