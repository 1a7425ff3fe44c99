"""From decoded pixels to the square framings of the streams (paper section 3, preprocessing)."""

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.streams import SQUARE as SQUARE
from ensemble.streams import Stream

RgbImage = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""


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
    """The whole square image resized to `side`×`side`: by INTER_AREA when that is smaller, else by INTER_CUBIC."""
    interpolation = cv2.INTER_AREA if side < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (side, side), interpolation=interpolation), np.uint8)


def frame(framed: RgbImage, stream: Stream) -> RgbImage:
    """A stream's input, uint8 [pixels, pixels, 3], from the 256×256 square of the image or of its face."""
    return shrink(framed, stream.pixels) if stream.is_resized else centre(framed, stream.pixels)
