"""Encoded files to RGB pixels within limits, and the framings of the streams (paper section 3, preprocessing).

What strangers send is read in steps, each of which the next one may trust: `limits` (bytes), `headers` (what the first
image is; no pixel is looked at), `limits` again (pixels), `workers` (decoding, in processes that may die), `framing`.
"""

from ensemble.images.errors import ImageError
from ensemble.images.framing import FRAMINGS, SQUARE, ImageFraming, RgbImage, centre, frame, frame_whole, shrink, square
from ensemble.images.headers import FORMATS
from ensemble.images.limits import Limits
from ensemble.images.reading import decode, read_image
from ensemble.images.workers import Decoders

__all__ = [
    "FORMATS",
    "FRAMINGS",
    "SQUARE",
    "Decoders",
    "ImageError",
    "ImageFraming",
    "Limits",
    "RgbImage",
    "centre",
    "decode",
    "frame",
    "frame_whole",
    "read_image",
    "shrink",
    "square",
]
