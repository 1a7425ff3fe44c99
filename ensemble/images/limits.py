"""What one image may cost, checked before anything is decoded."""

from dataclasses import dataclass

from ensemble import status
from ensemble.images.errors import ImageError
from ensemble.images.framing import SQUARE


@dataclass(frozen=True)
class Limits:
    """What one image may cost.

    Attributes:
        max_bytes: Largest encoded file, in bytes.
        max_pixels: Largest width × height, of the image decoded and of it brought to `SQUARE` on its shorter side.
    """

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 50_000_000

    def check_file(self, data: bytes) -> None:
        """Raises `ImageError` where the encoded file is empty or too long."""
        if not data:
            raise ImageError(status.EMPTY_IMAGE, "0 bytes; send the contents of an image file")
        if len(data) > self.max_bytes:
            raise ImageError(
                status.TOO_MANY_BYTES,
                f"{len(data)} bytes are over the limit of {self.max_bytes}; re-encode the image or raise max_bytes",
            )

    def check_size(self, width: int, height: int) -> None:
        """Raises `ImageError` where an image of so many pixels, or of such a shape, is not accepted."""
        pixels = width * height
        if pixels > self.max_pixels:
            raise ImageError(
                status.TOO_MANY_PIXELS,
                f"{width}×{height} pixels are over the limit of {self.max_pixels}; "
                "resize the image or raise max_pixels",
            )
        short, long = sorted((width, height))
        if SQUARE * SQUARE * long > self.max_pixels * short:
            raise ImageError(
                status.TOO_ELONGATED,
                f"{width}×{height} pixels, with the shorter side brought to {SQUARE}, are over the limit of "
                f"{self.max_pixels}; crop the image or raise max_pixels",
            )
