"""Encoded file to RGB pixels within limits, and the framings of the streams (paper section 3, preprocessing)."""

import io
import struct
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

from ensemble import status

RgbImage = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Formats accepted, by Pillow's names; an animation or a multi-page file counts as its first frame."""

SQUARE = 256
"""Side of the square that the method's images have, in pixels."""

PIL.Image.MAX_IMAGE_PIXELS = None  # Limits.max_pixels is checked instead, from the header.


class ImageError(ValueError):
    """An image that cannot be scored.

    Attributes:
        status: The `STATUS` code that tells the caller why.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What one image may cost.

    Attributes:
        max_bytes: Largest encoded file, in bytes.
        max_pixels: Largest width × height, of the image decoded and of it brought to `SQUARE` on its shorter side.
    """

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 50_000_000


def read_image(data: bytes, limits: Limits) -> RgbImage:
    """Decodes an encoded image as the method does: OpenCV, EXIF orientation applied, alpha dropped, grey to RGB.

    The limits are checked before anything is decoded, from the file's length and header.

    Args:
        data: Contents of a JPEG, PNG, WebP, BMP or TIFF file.
        limits: Largest file and image accepted.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ImageError: With the status that says what is wrong with the image.
    """
    if not data:
        raise ImageError(status.EMPTY_IMAGE, "0 bytes; send the contents of an image file")
    if len(data) > limits.max_bytes:
        raise ImageError(
            status.TOO_MANY_BYTES,
            f"{len(data)} bytes are over the limit of {limits.max_bytes}; re-encode the image or raise max_bytes",
        )
    _check_size(*_size_from_header(data), limits)
    return decode(data)


def decode(data: bytes) -> RgbImage:
    """As `read_image`, for data that have passed its limits already."""
    if data.startswith(b"\xff\xd8") and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0:
        # libjpeg paints what is missing grey and OpenCV reports success: a score of such an image would mean nothing.
        raise ImageError(status.TRUNCATED_IMAGE, "the JPEG data stop before their end marker; fetch the file again")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(status.UNREADABLE_IMAGE, f"cannot be decoded: {error.err}") from error
    if bgr is None:
        raise ImageError(status.UNREADABLE_IMAGE, "cannot be decoded; the file is damaged or of an unusual kind")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


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


def _size_from_header(data: bytes) -> tuple[int, int]:
    """Width and height that the header declares, in pixels."""
    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(io.BytesIO(data), formats=FORMATS) as header:
            return header.size
    except PIL.UnidentifiedImageError as error:
        raise ImageError(status.UNSUPPORTED_FORMAT, f"no header of a {', '.join(FORMATS)} file found") from error
    # What Pillow's parsers let escape on damaged headers.
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, ArithmeticError, struct.error) as error:
        raise ImageError(status.UNREADABLE_IMAGE, f"the header is damaged: {error}") from error


def _check_size(width: int, height: int, limits: Limits) -> None:
    pixels = width * height
    if pixels > limits.max_pixels:
        raise ImageError(
            status.TOO_MANY_PIXELS,
            f"{width}×{height} pixels are over the limit of {limits.max_pixels}; resize the image or raise max_pixels",
        )
    short, long = sorted((width, height))
    if short == 0:
        raise ImageError(status.UNREADABLE_IMAGE, f"the header declares {width}×{height} pixels")
    if SQUARE * SQUARE * long > limits.max_pixels * short:
        raise ImageError(
            status.TOO_ELONGATED,
            f"{width}×{height} pixels, with the shorter side brought to {SQUARE}, are over the limit of "
            f"{limits.max_pixels}; crop the image or raise max_pixels",
        )
