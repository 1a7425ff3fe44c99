"""From decoded pixels to the square framings of the streams (paper section 3, preprocessing)."""

import cv2
import numpy as np
import numpy.typing as npt

RgbImage = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""

SQUARE = 256
"""Side of the square that the method's images have, in pixels."""


def square(image: RgbImage) -> RgbImage:
    """Brings the shorter side to 256 (INTER_AREA down, INTER_CUBIC up) and takes the central 256×256 square.

    A 256×256 image comes back unchanged; other sizes are undefined in the authors' code.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    if short != SQUARE:
        size = (round(width * SQUARE / short), round(height * SQUARE / short))
        interpolation = cv2.INTER_AREA if short > SQUARE else cv2.INTER_CUBIC
        image = np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)
    return centre(image, SQUARE)


def centre(image: RgbImage, side: int) -> RgbImage:
    """The central `side`×`side` pixels, no resampling; the image must be at least that large."""
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def shrink(image: RgbImage, side: int) -> RgbImage:
    """The whole square image resized to a smaller `side`×`side` by INTER_AREA."""
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
