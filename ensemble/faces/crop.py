"""The face crop: a square of 1.3 times the box's longer side; faces under a ninth of the image count as none."""

import math

import cv2
import numpy as np

from ensemble import status
from ensemble.faces.detection import Box
from ensemble.images import SQUARE, ImageError, RgbImage

SMALLEST_AREA = 1 / 9
"""Share of the image area below which a face is too small to be cropped."""

MARGIN = 1.3
"""Side of the square cut out, in longer sides of the box."""

_LARGEST_SQUARE = 4
"""Area of the square cut out, in image areas, above which a box is not one of a face in that image."""


def is_valid_box(box: Box, height: int, width: int) -> bool:
    """Whether a box can be one of a face in an image: finite, not empty, meeting the image, not far larger than it."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)) or not (x1 < x2 and y1 < y2):
        return False
    left, top, right, bottom = square_around(box)
    meets_image = left < width and top < height and right > 0 and bottom > 0
    return meets_image and 0 < (right - left) * (bottom - top) <= _LARGEST_SQUARE * height * width


def check_box(box: Box, height: int, width: int) -> None:
    """Raises `ImageError` where a supplied box cannot be one of a face in an image."""
    if not is_valid_box(box, height, width):
        raise ImageError(
            status.INVALID_FACE_BOX,
            f"face box {box} is not one in an image of {width}×{height} pixels; "
            "give finite x1 < x2 and y1 < y2 in pixels, meeting the image, or leave it out",
        )


def is_too_small(box: Box, height: int, width: int) -> bool:
    """Whether the method takes the whole image instead of this face."""
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1) < height * width * SMALLEST_AREA


def crop_face(image: RgbImage, box: Box, margin: float = MARGIN) -> RgbImage:
    """The square around a face, black where it leaves the image, resized to 256×256 by INTER_AREA.

    Args:
        image: uint8 [height, width, 3], RGB, the original image: never a restored one.
        box: For which `is_valid_box` holds.
        margin: Side of the square, in longer sides of the box.

    Returns:
        uint8 [256, 256, 3], RGB.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = square_around(box, margin)
    padded = cv2.copyMakeBorder(
        image[max(top, 0) : bottom, max(left, 0) : right],
        top=max(-top, 0),
        bottom=max(bottom - height, 0),
        left=max(-left, 0),
        right=max(right - width, 0),
        borderType=cv2.BORDER_CONSTANT,
        value=(0, 0, 0),
    )
    return np.asarray(cv2.resize(padded, (SQUARE, SQUARE), interpolation=cv2.INTER_AREA), np.uint8)


def frame_face(image: RgbImage, box: Box, margin: float = MARGIN) -> tuple[RgbImage, Box]:
    """A face as an image of its own, as the method's images show one: the frame of `crop_face`, and the box in it."""
    left, top, right, _ = square_around(box, margin)
    scale = SQUARE / (right - left)
    x1, y1, x2, y2 = box
    frame_box = ((x1 - left) * scale, (y1 - top) * scale, (x2 - left) * scale, (y2 - top) * scale)
    return crop_face(image, box, margin), frame_box


def square_around(box: Box, margin: float = MARGIN) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the square that is cut out for a face, in pixels; it may leave the image."""
    x1, y1, x2, y2 = box
    half = max(x2 - x1, y2 - y1) * margin / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return int(x - half), int(y - half), int(x + half), int(y + half)
