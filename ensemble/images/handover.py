"""What one step of the server found out about an image, on its way to the next: nothing is decoded or searched twice.

Pixels of large images are not handed over: their copies, and the memory that the server would keep for them for good,
cost more than decoding the file again. The same decoder finds the same pixels in the same bytes.
"""

import struct
from dataclasses import dataclass

import numpy as np

from ensemble import status
from ensemble.images.errors import ImageError
from ensemble.images.framing import RgbImage
from ensemble.images.limits import Limits

LARGEST = 512 * 512
"""Pixels of the largest image that is handed over."""

_HEADER = struct.Struct("<?HII")
"""Whether the framing is native; bytes of the face's location; height and width of the pixels."""


@dataclass(frozen=True)
class HandOver:
    """What is handed over.

    Attributes:
        native: Whether the whole image is framed by `native`, where no face is cropped.
        location: Where a face was found in the image that was sent, as `FaceLocation.to_bytes` writes it; empty where
            nothing was searched yet.
        pixels: uint8 [height, width, 3], RGB, read-only: the image, or where a face was found its frame. None where
            the file is to be decoded.
    """

    native: bool = False
    location: bytes = b""
    pixels: RgbImage | None = None


def hand_over(image: RgbImage, native: bool = False, location: bytes = b"") -> bytes:
    """All that `HandOver` holds, as bytes; without pixels for an image above `LARGEST`."""
    height, width = image.shape[:2]
    if height * width > LARGEST:
        return _HEADER.pack(native, len(location), 0, 0) + location
    return b"".join((_HEADER.pack(native, len(location), height, width), location, np.ascontiguousarray(image).data))


def take_over(handed: bytes, limits: Limits) -> HandOver:
    """What `hand_over` wrote; empty bytes are an image of which nothing is known.

    Raises:
        ImageError: The bytes are not what `hand_over` makes of an image within the limits: a stranger's.
    """
    if not handed:
        return HandOver()
    if len(handed) < _HEADER.size:
        raise _foreign(handed)
    native, length, height, width = _HEADER.unpack_from(handed)
    pixels, location = _HEADER.size + length, handed[_HEADER.size : _HEADER.size + length]
    if len(handed) != pixels + 3 * height * width or (not height) != (not width):
        raise _foreign(handed)
    if not height:
        return HandOver(native, location)
    limits.check_size(width, height)
    return HandOver(native, location, np.frombuffer(handed, np.uint8, offset=pixels).reshape(height, width, 3))


def _foreign(handed: bytes) -> ImageError:
    return ImageError(status.UNREADABLE_IMAGE, f"{len(handed)} bytes are not what the step before makes of an image")
