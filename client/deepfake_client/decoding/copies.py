"""Copies of an image that went through what happens to images online: what a worker does; needs Pillow."""

import io
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .source import Window

_MAX_SIDE = 2048
"""Copies are made from the image at most this large, in pixels."""


_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Kinds of images that are opened: those that the server takes."""


def load_pillow() -> None:
    """Loads Pillow, if it is installed, and what it would load on use, since a worker may open no file any more."""
    try:
        import PIL.ExifTags
        import PIL.Image
        import PIL.ImageFilter
        import PIL.ImageOps
    except ImportError:
        return
    PIL.Image.init()
    for kind in _FORMATS:
        _copies_of(
            PIL, io.BytesIO(_saved(PIL.Image.new("RGB", (8, 8)), kind)), lambda about, data: None, lambda: None, 64
        )


def send_copies(file: Window, send: Callable[..., None], progress: Callable[[], None], *, max_pixels: int) -> None:
    """Makes degraded copies of an image and sends each by what was done to it; none where Pillow does not open it.

    Args:
        file: The encoded image.
        send: Takes an answer: the `name` of a copy, in words, with the copy as an encoded image.
        progress: Is called wherever something was done.
        max_pixels: Of an image that is opened.
    """
    _copies_of(sys.modules["PIL"], io.BytesIO(file.read()), send, progress, max_pixels)


def _copies_of(
    pil: Any, file: io.BytesIO, send: Callable[..., None], progress: Callable[[], None], max_pixels: int
) -> None:
    pil.Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with pil.Image.open(file, formats=_FORMATS) as opened:
            if opened.width * opened.height > max_pixels:
                return
            opened.thumbnail((_MAX_SIDE, _MAX_SIDE))
            image = pil.ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, pil.Image.DecompressionBombError):
        return
    for name, make in _copies(pil, image).items():
        progress()
        send({"name": name}, make())


def _copies(pil: Any, image: Any) -> Mapping[str, Callable[[], bytes]]:
    half = (max(1, image.width // 2), max(1, image.height // 2))
    rng = np.random.default_rng(0)

    def noisy() -> Any:
        pixels = np.asarray(image, np.float64) + rng.normal(0, 10, (image.height, image.width, 3))
        return pil.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    return {
        "JPEG, quality 70": lambda: _saved(image, "JPEG", quality=70),
        "JPEG, quality 30": lambda: _saved(image, "JPEG", quality=30),
        "half the size, and back": lambda: _saved(image.resize(half).resize(image.size), "PNG", compress_level=3),
        "blurred, radius 1 px": lambda: _saved(image.filter(pil.ImageFilter.GaussianBlur(1)), "PNG", compress_level=3),
        "noise, σ 10 of 255": lambda: _saved(noisy(), "PNG", compress_level=3),
    }


def _saved(image: Any, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
