"""Decoded pixels on their way from one step of the server to the next, so that a small image is decoded once.

Larger ones are not handed over: their copies, and the memory that the server would keep for them for good, cost more
than decoding the file again. The same decoder finds the same pixels in the same bytes.
"""

import struct

import numpy as np

from ensemble import status
from ensemble.images.errors import ImageError
from ensemble.images.framing import RgbImage
from ensemble.images.limits import Limits

LARGEST = 512 * 512
"""Pixels of the largest image that is handed over."""

_SIZE = struct.Struct("<II")


def hand_over(image: RgbImage) -> bytes:
    """Height, width and pixels as bytes; empty for an image above `LARGEST`."""
    height, width = image.shape[:2]
    return _SIZE.pack(height, width) + image.tobytes() if height * width <= LARGEST else b""


def take_over(handed: bytes, limits: Limits) -> RgbImage:
    """The image that was handed over: uint8 [height, width, 3], RGB, read-only.

    Raises:
        ImageError: The bytes are not what `hand_over` makes of an image within the limits: a stranger's.
    """
    height, width = _SIZE.unpack_from(handed) if len(handed) >= _SIZE.size else (0, 0)
    limits.check_size(width, height)
    if len(handed) != _SIZE.size + 3 * height * width or not height:
        raise ImageError(
            status.UNREADABLE_IMAGE, f"{len(handed)} bytes are not the pixels of an image of {width}×{height}"
        )
    return np.frombuffer(handed, np.uint8, offset=_SIZE.size).reshape(height, width, 3)
