"""Operations 4, 9 and 13: colour, brightness and contrast, vignetting.

All of 4 but channel gains, and all of 9, work on 8 bits (`pixels.truncated`), with Pillow's ImageEnhance as the method.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image
from PIL import ImageEnhance

from degradation.pixels import Image, Operation, chance, from_bytes, settle, truncated, uniform

FIXED_CAST = (0.8, 1.2, 0.8)
"""Gains of red, green and blue in the fixed cast."""


@dataclass(frozen=True)
class Greyscale:
    """The luma of BT.601 in all channels."""

    def apply(self, image: Image) -> Image:
        grey = cv2.cvtColor(truncated(image), cv2.COLOR_RGB2GRAY)
        return from_bytes(np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8))


@dataclass(frozen=True)
class Saturation:
    """The distance from grey times `factor`: 0 leaves the luma alone, 1 changes nothing but the truncation."""

    factor: float

    def apply(self, image: Image) -> Image:
        return from_bytes(np.asarray(ImageEnhance.Color(PIL.Image.fromarray(truncated(image))).enhance(self.factor)))


@dataclass(frozen=True)
class ChannelGains:
    """Red, green and blue, each times its gain."""

    gains: tuple[float, float, float]

    def apply(self, image: Image) -> Image:
        return settle(image.astype(np.float64) * self.gains)


@dataclass(frozen=True)
class Tone:
    """Brightness, then contrast: the distance from the mean grey level times `contrast`; None leaves one out."""

    brightness: float | None = None
    contrast: float | None = None

    def apply(self, image: Image) -> Image:
        picture = PIL.Image.fromarray(truncated(image))
        if self.brightness is not None:
            picture = ImageEnhance.Brightness(picture).enhance(self.brightness)
        if self.contrast is not None:
            picture = ImageEnhance.Contrast(picture).enhance(self.contrast)
        return from_bytes(np.asarray(picture))


@dataclass(frozen=True)
class Vignetting:
    """Times 1 − (r/√2) · falloff; r is 0 at the centre, 1 at the middle of an edge, √2 in the corners."""

    falloff: float

    def apply(self, image: Image) -> Image:
        y, x = (np.linspace(-1, 1, side) for side in image.shape[:2])
        radius = np.sqrt(y[:, None] ** 2 + x[None, :] ** 2)
        return settle(image * (1 - radius / math.sqrt(2) * self.falloff)[..., None])


def draw_colour(rng: np.random.Generator, strength: float) -> Operation:
    """Operation 4: 20 % greyscale; of the rest 30 % saturation U(0.1, max(0.2, 1 − s)), 70 % channel gains.

    Gains ~ U(1 − 0.4s, 1 + 0.4s), in a fifth of the cases `FIXED_CAST` at every strength.
    """
    if chance(rng, 0.2):
        return Greyscale()
    if chance(rng, 0.3):
        return Saturation(uniform(rng, 0.1, max(0.2, 1 - strength)))
    red, green, blue = (uniform(rng, 1 - 0.4 * strength, 1 + 0.4 * strength) for _ in range(3))
    return ChannelGains(FIXED_CAST if chance(rng, 0.2) else (red, green, blue))


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
