"""Operations 4, 9 and 13: colour, brightness and contrast, vignetting."""

import math
from dataclasses import dataclass

import numpy as np

from degradation.pixels import Image, Operation, chance, grey, settle, uniform

FIXED_CAST = (0.8, 1.2, 0.8)
"""Gains of red, green and blue in the fixed cast."""


@dataclass(frozen=True)
class Saturation:
    """The distance from grey times `factor`: 0 leaves the luma alone, 1 changes nothing."""

    factor: float

    def apply(self, image: Image) -> Image:
        values = image.astype(np.float64)
        luma = grey(values)
        return settle(luma + self.factor * (values - luma))


@dataclass(frozen=True)
class ChannelGains:
    """Red, green and blue, each times its gain."""

    gains: tuple[float, float, float]

    def apply(self, image: Image) -> Image:
        return settle(image.astype(np.float64) * self.gains)


@dataclass(frozen=True)
class Tone:
    """Brightness, clipped, then contrast: the distance from the mean grey level times `contrast`."""

    brightness: float = 1.0
    contrast: float = 1.0

    def apply(self, image: Image) -> Image:
        values = np.minimum(image.astype(np.float64) * self.brightness, 1)
        mean = grey(values).mean()
        return settle(mean + self.contrast * (values - mean))


@dataclass(frozen=True)
class Vignetting:
    """Times 1 − (r/√2) · falloff; r is 0 at the centre, 1 at the middle of an edge, √2 in the corners."""

    falloff: float

    def apply(self, image: Image) -> Image:
        # The centre of a side of one pixel is that pixel.
        y, x = (np.linspace(-1, 1, side) if side > 1 else np.zeros(1) for side in image.shape[:2])
        radius = np.sqrt(y[:, None] ** 2 + x[None, :] ** 2)
        return settle(image * (1 - radius / math.sqrt(2) * self.falloff)[..., None])


def draw_colour(rng: np.random.Generator, strength: float) -> Operation:
    """Operation 4: 20 % greyscale; of the rest 30 % saturation U(0.1, max(0.2, 1 − s)), 70 % channel gains.

    Gains ~ U(1 − 0.4s, 1 + 0.4s), in a fifth of the cases `FIXED_CAST` at every strength.
    """
    if chance(rng, 0.2):
        return Saturation(0.0)
    if chance(rng, 0.3):
        return Saturation(uniform(rng, 0.1, max(0.2, 1 - strength)))
    if chance(rng, 0.2):
        return ChannelGains(FIXED_CAST)
    red, green, blue = (uniform(rng, 1 - 0.4 * strength, 1 + 0.4 * strength) for _ in range(3))
    return ChannelGains((red, green, blue))


def draw_tone(rng: np.random.Generator, strength: float) -> Tone:
    """Operation 9: 45 % darken, 45 % brighten and flatten, 10 % one of brightness and contrast, equally likely.

    Darken by U(max(0.02, 1 − 0.98s), 1); brighten by U(1, 1 + 1.5s), then contrast U(max(0.1, 1 − 0.9s), 0.8); the one
    of two by U(max(0.5, 1 − 0.5s), 1 + 0.5s).
    """
    lot = rng.random()
    if lot < 0.45:
        return Tone(brightness=uniform(rng, max(0.02, 1 - 0.98 * strength), 1))
    if lot < 0.9:
        brightness = uniform(rng, 1, 1 + 1.5 * strength)
        return Tone(brightness, uniform(rng, max(0.1, 1 - 0.9 * strength), 0.8))
    factor = uniform(rng, max(0.5, 1 - 0.5 * strength), 1 + 0.5 * strength)
    return Tone(brightness=factor) if chance(rng, 0.5) else Tone(contrast=factor)


def draw_vignetting(rng: np.random.Generator, strength: float) -> Vignetting:
    """Operation 13: falloff 0.4 + 0.4s."""
    return Vignetting(0.4 + 0.4 * strength)
