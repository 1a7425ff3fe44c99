"""What the readers of the formats find out, and how they refuse."""

from dataclasses import dataclass

from ensemble import status
from ensemble.images.errors import ImageError

MAX_PARTS = 20_000
"""Segments, chunks or boxes that a file may consist of: a bound on the steps that reading its header takes."""


@dataclass(frozen=True)
class Header:
    """What a file says of its first image.

    Attributes:
        format: `JPEG`, `PNG`, `WEBP`, `BMP` or `TIFF`.
        width: In pixels, at least 1, before any rotation that the file asks for.
        height: Likewise.
        end: Where the first image ends in the file, in bytes; what lies behind it is never looked at.
        still: The first image as a file of its own: what the decoder gets. Metadata that no pixel depends on, other
            frames and trailers are left out where the format allows it.
        canvas: Of a WebP frame smaller than its canvas: where the frame lies, x and y in pixels. None elsewhere.
    """

    format: str
    width: int
    height: int
    end: int
    still: bytes
    canvas: tuple[int, int] | None = None


def unreadable(message: str) -> ImageError:
    """The error for a damaged file."""
    return ImageError(status.UNREADABLE_IMAGE, message)


def too_many_parts(kind: str) -> ImageError:
    """The error for a file of more parts than anybody writes."""
    return unreadable(f"more than {MAX_PARTS} {kind}; re-encode the image")
