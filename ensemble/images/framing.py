"""From decoded pixels to the square framings of the streams (paper section 3, preprocessing)."""

from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.streams import SQUARE as SQUARE
from ensemble.streams import STREAMS, Stream

RgbImage = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""

ImageFraming = Literal["native", "square", "face"]
"""What the streams look at of an image that is not 256×256; of one that is, all three are the same.

- `native`: as the authors' code. Global Texture sees the central 252×252 pixels, Hybrid Semantic Fusion the whole image
  stretched to a square. Of an image with a side below 252 their code scores another image; here: as `square`.
- `square`: the shorter side is brought to 256, and the central square is scored as the method scores an image.
- `face`: the square around the main face is brought to 256×256, and scored as the method scores an image; without a
  face as `square`.
"""

FRAMINGS: tuple[ImageFraming, ...] = get_args(ImageFraming)

SMALLEST_NATIVE = max([252, *(stream.pixels for stream in STREAMS if not stream.is_resized)])
"""Shortest side of an image that `native` frames, in pixels: the largest centre that a stream takes."""


def frame_whole(image: RgbImage, native: bool) -> RgbImage:
    """What the inputs of the streams are cut from, where no face is: the image itself, or its central 256×256 square.

    Args:
        image: uint8 [height, width, 3], RGB.
        native: Whether the framing is `native`.
    """
    return image if native and min(image.shape[:2]) >= SMALLEST_NATIVE else square(image)


def square(image: RgbImage) -> RgbImage:
    """Brings the shorter side to 256 (INTER_AREA down, INTER_CUBIC up) and takes the central 256×256 square.

    A 256×256 image comes back unchanged.
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
    """The whole image stretched to `side`×`side`: by INTER_AREA when its height is larger, else by INTER_CUBIC."""
    interpolation = cv2.INTER_AREA if side < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (side, side), interpolation=interpolation), np.uint8)


def frame(framed: RgbImage, stream: Stream) -> RgbImage:
    """A stream's input, uint8 [pixels, pixels, 3], from what `frame_whole` gives, or from the face crop."""
    return shrink(framed, stream.pixels) if stream.is_resized else centre(framed, stream.pixels)
