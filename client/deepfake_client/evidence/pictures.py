"""Pictures for reports: where a stream looked, and copies of an image that went through what happens to images online.

Needs Pillow (the extras `web` and `evidence`). It writes pictures here, and opens files of others nowhere but in a
process that may die of them.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decoding.limits import MAX_PIXELS
from ..decoding.processes import WorkerLostError, ask
from .inspection import Seen

_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
"""Colours of rising attention, evenly spaced (the palette "inferno")."""


def require_pillow() -> Any:
    """Pillow.

    Raises:
        ImportError: It is not installed; the message says how.
    """
    try:
        import PIL.Image
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
    """Copies of an encoded image by what was done to them, in words; empty where Pillow does not open it.

    Raises:
        ImportError: Pillow is not installed.
        OSError: This machine lacks memory or processes.
    """
    require_pillow()
    try:
        return {answer["name"]: copy for answer, copy in ask({"job": "copies", "max_pixels": MAX_PIXELS}, data)}
    except WorkerLostError:
        return {}


def _coloured(values: NDArray[np.float64]) -> NDArray[np.float64]:
    places = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(values, places, _HEAT[:, channel]) for channel in range(3)], axis=-1)


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)
    return file.getvalue()
