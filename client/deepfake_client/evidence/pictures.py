"""Pictures for reports: where a stream looked, and copies of an image that went through what happens to images online.

Needs Pillow (the extras `web` and `evidence`). It is given only images that the server has scored.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .inspection import Seen

MAX_PIXELS = 50_000_000
"""Images with more are not opened: the server's own limit by default."""

MAX_SIDE = 2048
"""Degraded copies are made from the image at most this large, in pixels."""

_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
"""Colours of rising attention, evenly spaced (the palette "inferno")."""


def require_pillow() -> Any:
    """Pillow.

    Raises:
        ImportError: It is not installed; the message says how.
    """
    try:
        import PIL.Image
        import PIL.ImageFilter
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError("this needs Pillow: pip install 'deepfake-client[evidence]'") from error
    return PIL


def attention_png(seen: Seen) -> bytes | None:
    """What a stream saw with its attention over it, as a PNG file; None where the server gives none."""
    pil = require_pillow()
    if seen.attention is None:
        return None
    side = seen.pixels.shape[0]
    low, high = float(seen.attention.min()), float(seen.attention.max())
    scaled = (seen.attention - low) / ((high - low) or 1.0)
    smooth = pil.Image.fromarray((scaled * 255).astype(np.uint8)).resize((side, side), pil.Image.Resampling.BICUBIC)
    strength = np.asarray(smooth, np.float64)[..., None] / 255
    blended = seen.pixels * (1 - 0.7 * strength) * 0.8 + _coloured(strength[..., 0]) * 0.7 * strength
    return _png(pil.Image.fromarray(blended.clip(0, 255).astype(np.uint8)))


def pixels_png(pixels: NDArray[np.uint8]) -> bytes:
    """An image as a PNG file."""
    return _png(require_pillow().Image.fromarray(pixels))


def degraded_copies(data: bytes) -> dict[str, bytes]:
    """Copies of an encoded image by what was done to them, in words; empty where Pillow does not open it."""
    pil = require_pillow()
    try:
        with pil.Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return {}
            opened.thumbnail((MAX_SIDE, MAX_SIDE))
            image = pil.ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, pil.Image.DecompressionBombError):
        return {}
    rng = np.random.default_rng(0)

    def noisy(picture: Any) -> Any:
        pixels = np.asarray(picture, np.float64) + rng.normal(0, 10, (picture.height, picture.width, 3))
        return pil.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    half = (max(1, image.width // 2), max(1, image.height // 2))
    copies: Mapping[str, Callable[[], bytes]] = {
        "JPEG, quality 70": lambda: _jpeg(image, 70),
        "JPEG, quality 30": lambda: _jpeg(image, 30),
        "half the size, and back": lambda: _png(image.resize(half).resize(image.size)),
        "blurred, radius 1 px": lambda: _png(image.filter(pil.ImageFilter.GaussianBlur(1))),
        "noise, σ 10 of 255": lambda: _png(noisy(image)),
    }
    return {name: make() for name, make in copies.items()}


def _coloured(values: NDArray[np.float64]) -> NDArray[np.float64]:
    places = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(values, places, _HEAT[:, channel]) for channel in range(3)], axis=-1)


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)
    return file.getvalue()


def _jpeg(image: Any, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
