"""From an encoded file to pixels within limits."""

import atexit
import os
from functools import cache

import cv2
import numpy as np

from ensemble.images.decoding import decode_still
from ensemble.images.framing import RgbImage
from ensemble.images.headers import read_header
from ensemble.images.limits import Limits
from ensemble.images.workers import Decoders


def read_image(data: bytes, limits: Limits, decoders: Decoders | None = None) -> RgbImage:
    """Decodes an encoded image as the method does: OpenCV, EXIF orientation applied, alpha dropped, grey to RGB.

    JPEG and PNG are turned as their EXIF orientation says; WebP is not, as OpenCV does not. Colours of a TIFF with
    unassociated alpha come multiplied by it, likewise. The limits are checked before anything is decoded, from the
    file's length and header. Decoding takes place in a process of its own.

    Args:
        data: Contents of a JPEG, PNG, WebP, BMP or TIFF file.
        limits: Largest file and image accepted.
        decoders: Where to decode; a pool that this process shares unless given.

    Returns:
        uint8 [height, width, 3], RGB, read-only.

    Raises:
        ImageError: With the status that says what is wrong with the image.
        OSError: No decoding process could be started.
    """
    limits.check_file(data)
    header = read_header(data)
    limits.check_size(header.width, header.height)
    return (decoders or _shared_decoders()).decode(header)


def decode(data: bytes) -> RgbImage:
    """As `read_image`, in this process and without limits: for files that are trusted.

    What decoders say on standard error is not heard: half a JPEG closed by an end marker passes.
    """
    header = read_header(data)
    canvas = None if header.canvas is None else (header.width, header.height, *header.canvas)
    bgr = decode_still(header.still, canvas, lambda: "")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


@cache
def _shared_decoders() -> Decoders:
    decoders = Decoders()
    atexit.register(decoders.close)
    return decoders


os.register_at_fork(after_in_child=_shared_decoders.cache_clear)
