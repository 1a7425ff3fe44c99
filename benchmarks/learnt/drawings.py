"""Pictures of as many independent origins as are wanted: dead leaves, whose statistics are those of photographs.

Discs of many sizes hide each other (Lee, Mumford & Huang 2001). Colours, texture, sharpness and noise are a drawing's
own, so that two of them differ as two photographs do. The sample photographs are too few to calibrate on.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from ensemble.images import SQUARE, RgbImage
from training.learn.manipulation import Ranges, manipulated
from training.learn.samples import Sample

_LEAVES = 1500
_SOFTNESS = (0.3, 1.5)
"""σ of a drawing's own blur, pixels."""
_FAINT = Ranges(resample=(0.5, 0.95))
"""Leaves have sharper edges than photographs: less is taken from them, or every fake would be plain."""
_RADII = (3.0, 120.0)
"""Pixels; of the density r⁻³, by which a picture looks alike at every scale."""


def draw_origins(count: int, seed: int) -> Iterator[Sample]:
    """Two images each of `count` drawings: one half of it as it is, the other manipulated.

    Args:
        count: Number of drawings.
        seed: Of all draws.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        drawing = draw_leaves(rng)
        name, untouched = f"drawing-{number:03}", np.zeros((SQUARE, SQUARE), np.float32)
        yield Sample(name, 0, drawing[:, :SQUARE], untouched)
        yield Sample(name, 1, *manipulated(drawing[:, SQUARE:], rng, _FAINT))


def draw_leaves(rng: np.random.Generator) -> RgbImage:
    """One drawing, uint8 [256, 512, 3]."""
    shape = (SQUARE, 2 * SQUARE, 3)
    palette = np.clip(rng.normal(rng.uniform(70, 180, 3), rng.uniform(15, 60), (24, 3)), 0, 255)
    drawing = np.full(shape, palette[0], np.uint8)
    low, high = (radius**-2 for radius in _RADII)
    radii = np.rint(rng.uniform(high, low, _LEAVES) ** -0.5).astype(int)
    centres = rng.integers(0, (shape[1], shape[0]), (_LEAVES, 2))
    colours = palette[rng.integers(len(palette), size=_LEAVES)]
    for radius, centre, colour in zip(radii.tolist(), centres.tolist(), colours.tolist(), strict=True):
        cv2.circle(drawing, centre, radius, colour, -1, cv2.LINE_AA)
    texture = rng.normal(size=(*shape[:2], 1)).astype(np.float32)
    coarse = cv2.GaussianBlur(texture, (0, 0), rng.uniform(1, 3))[..., None]
    picture = drawing + rng.uniform(0, 12) * coarse / coarse.std() + rng.uniform(0, 8) * texture
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(*_SOFTNESS))
    picture = picture + rng.normal(size=shape) * rng.uniform(0.5, 4)
    return np.asarray(np.clip(np.rint(picture), 0, 255), np.uint8)
