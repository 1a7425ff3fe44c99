"""Operation 3: resize; and back to the original size.

Linear and cubic interpolation are OpenCV's by definition (pixel centres at halves, cubic with a = −0.75, no low-pass
when shrinking), but computed here: OpenCV takes float32 weights on one processor and float64 ones on another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from degradation.pixels import Image, Values, chance, integer, on_grid, settle

Interpolation = Literal["nearest", "linear", "cubic", "area"]

SMOOTH: tuple[Interpolation, ...] = ("linear", "cubic", "area")


def resized(image: Image, height: int, width: int, interpolation: Interpolation) -> Image:
    """The image at another size, not clipped; itself where that is its size."""
    if image.shape[:2] == (height, width):
        return image
    values = image.astype(np.float64)
    if interpolation == "nearest" or interpolation == "area":
        flag = cv2.INTER_NEAREST if interpolation == "nearest" else cv2.INTER_AREA
        return on_grid(np.asarray(cv2.resize(values, (width, height), interpolation=flag), np.float64))
    weights = _linear_weights if interpolation == "linear" else _cubic_weights
    columns = np.ascontiguousarray(_interpolate_rows(values, height, weights).transpose(1, 0, 2))
    return on_grid(np.ascontiguousarray(_interpolate_rows(columns, width, weights).transpose(1, 0, 2)))


def _linear_weights(share: Values) -> dict[int, Values]:
    return {0: 1 - share, 1: share}


def _cubic_weights(share: Values, a: float = -0.75) -> dict[int, Values]:
    near = {offset: np.abs(share - offset) for offset in (0, 1)}
    far = {offset: np.abs(share - offset) for offset in (-1, 2)}
    return {
        **{offset: ((a + 2) * x - (a + 3)) * x * x + 1 for offset, x in near.items()},
        **{offset: ((a * x - 5 * a) * x + 8 * a) * x - 4 * a for offset, x in far.items()},
    }


def _interpolate_rows(values: Values, count: int, weights: Callable[[Values], dict[int, Values]]) -> Values:
    """`count` rows, from the rows around the place of each; `weights` gives those of the rows at each offset."""
    place = (np.arange(count) + 0.5) * (len(values) / count) - 0.5
    row = np.floor(place)
    result = np.zeros((count, *values.shape[1:]))
    neighbours = np.empty_like(result)
    for offset, weight in weights(place - row).items():
        np.take(values, row.astype(int) + offset, axis=0, out=neighbours, mode="clip")
        neighbours *= weight[:, None, None]
        result += neighbours
    return result


@dataclass(frozen=True)
class Resize:
    """To int(factor · side), at least 1 px, and clipped. The image keeps this size until `Restore`."""

    factor: float
    interpolation: Interpolation

    def apply(self, image: Image) -> Image:
        height, width = (scaled(side, self.factor) for side in image.shape[:2])
        result = resized(image, height, width, self.interpolation)
        if result is image:
            return settle(image.astype(np.float64))
        np.clip(result, 0, 1, out=result)  # 0 and 1 are on the grid
        return result


@dataclass(frozen=True)
class Restore:
    """Back to the original size, in px. As in the method nothing clips here: cubic overshoots by up to a fifth."""

    height: int
    width: int
    interpolation: Interpolation

    def apply(self, image: Image) -> Image:
        restored = resized(image, self.height, self.width, self.interpolation)
        return image.copy() if restored is image else restored


def scaled(side: int, factor: float) -> int:
    """A side after a resize."""
    return max(1, int(factor * side))


def draw_resize(rng: np.random.Generator, strength: float) -> Resize:
    """Operation 3: by f: 20 % U(1, 2), 70 % U(0.25/s, 1) clipped to [0.1, 1], 10 % 1.

    Nearest half the time when shrinking, else linear, cubic or area, equally likely. Up to s = 0.25 the shrinking case
    changes nothing (0.25/s is over 1, and clipped); at s = 1 it starts at 0.25, so the clip at 0.1 is never met.
    """
    lot, share = rng.random(), rng.random()
    if lot < 0.2:
        factor = 1 + share
    elif lot < 0.9 and strength > 0.25:
        factor = 0.25 / strength + (1 - 0.25 / strength) * share
    else:
        factor = 1.0
    nearest, smooth = chance(rng, 0.5), draw_smooth(rng)
    return Resize(factor, "nearest" if factor < 1 and nearest else smooth)


def draw_smooth(rng: np.random.Generator) -> Interpolation:
    """Linear, cubic or area, equally likely."""
    return SMOOTH[integer(rng, 0, 2)]
