"""One reader of headers for size and integrity: what a file's first image is, without decoding anything.

It takes a bounded number of steps, and believes no declared length beyond the bytes that are there.
"""

from ensemble import status
from ensemble.images.errors import ImageError
from ensemble.images.headers import bmp, jpeg, png, tiff, webp
from ensemble.images.headers.header import Header

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Formats accepted; an animation or a multi-page file counts as its first image."""

__all__ = ["FORMATS", "Header", "read_header"]


def read_header(data: bytes) -> Header:
    """Finds the first image of a file.

    Raises:
        ImageError: `unsupported_format`; or `unreadable_image` or `truncated_image` where the first image is not whole.
    """
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.read(data)
    if data.startswith(png.SIGNATURE):
        return png.read(data)
    if webp.is_webp(data):
        return webp.read(data)
    if data.startswith(tiff.SIGNATURES):
        return tiff.read(data)
    if data.startswith(bmp.SIGNATURE):
        return bmp.read(data)
    raise ImageError(status.UNSUPPORTED_FORMAT, f"no header of a {', '.join(FORMATS)} file found")
