"""Operations 10, 11 and 12: chromatic aberration, moiré and glitches."""

import math
from dataclasses import dataclass

import numpy as np

from degradation.pixels import Image, chance, integer, settle, uniform


@dataclass(frozen=True)
class ChromaticAberration:
    """Red moved down and right, blue up and left, by `shift` px each.

    The border that nothing is moved into keeps its pixels: red's first rows and columns, blue's last ones.
    """

    shift: int

    def apply(self, image: Image) -> Image:
        by, moved = self.shift, image.copy()
        moved[by:, by:, 0] = image[:-by, :-by, 0]
        moved[:-by, :-by, 2] = image[by:, by:, 2]
        return np.clip(moved, 0, 1)


@dataclass(frozen=True)
class Moire:
    """The image blended with one sine wave from black to white, the same in all channels.

    Attributes:
        frequency: Radians per pixel (π is the finest that pixels can hold).
        angle: Of the wave's direction, in radians from the x axis towards the y axis (down).
        alpha: Share of the wave.
    """

    frequency: float
    angle: float
    alpha: float

    def apply(self, image: Image) -> Image:
        # From 0 to the side itself, so the step is a little over one pixel.
        y, x = (np.linspace(0, side, side) for side in image.shape[:2])
        along = x[None, :] * math.cos(self.angle) + y[:, None] * math.sin(self.angle)
        wave = (np.sin(along * self.frequency) + 1) / 2
        return settle(image * (1 - self.alpha) + (wave * self.alpha)[..., None])


@dataclass(frozen=True)
class Band:
    """Some rows of a glitch.

    Attributes:
        top: Where it starts, as a share of the image's height.
        rows: Its height in px.
        level: The grey that fills it, in [0, 1]; None where its pixels are rolled.
        shift: How far they are rolled to the right, in px.
    """

    top: float
    rows: int
    level: float | None
    shift: int


@dataclass(frozen=True)
class Glitch:
    """Bands over the image's whole width, one after another; one that reaches the lower border is left out."""

    bands: tuple[Band, ...]

    def apply(self, image: Image) -> Image:
        values = image.copy()
        for band in self.bands:
            top = int(band.top * len(values))
            if top + band.rows < len(values):
                rows = values[top : top + band.rows]
                rows[:] = np.roll(rows, band.shift, axis=1) if band.level is None else band.level
        return np.clip(values, 0, 1)


def draw_aberration(rng: np.random.Generator, strength: float) -> ChromaticAberration:
    """Operation 10: by int(max(1, 4s)) px."""
    return ChromaticAberration(int(max(1, 4 * strength)))


def draw_moire(rng: np.random.Generator, strength: float) -> Moire:
    """Operation 11: frequency U(0.5, 3), angle U(0, π), alpha 0.15·s."""
    return Moire(uniform(rng, 0.5, 3), uniform(rng, 0, math.pi), 0.15 * strength)


def draw_glitch(rng: np.random.Generator, strength: float) -> Glitch:
    """Operation 12: int(10s) bands of 1 … max(2, int(8s)) rows; 40 % flat, 60 % rolled by up to ±int(30s).

    A flat band is black, white or U(0.2, 0.8), equally likely; it starts anywhere.
    """
    return Glitch(tuple(_draw_band(rng, strength) for _ in range(int(10 * strength))))


def _draw_band(rng: np.random.Generator, strength: float) -> Band:
    top, rows = rng.random(), integer(rng, 1, max(2, int(8 * strength)))
    flat = chance(rng, 0.4)
    level = (0.0, 1.0, uniform(rng, 0.2, 0.8))[integer(rng, 0, 2)]
    shift = integer(rng, -int(30 * strength), int(30 * strength))
    return Band(top, rows, level, 0) if flat else Band(top, rows, None, shift)
