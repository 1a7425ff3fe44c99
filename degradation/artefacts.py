"""Operations 10, 11, 12 and 14: chromatic aberration, moiré, glitches, and distractors laid over the image."""

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from degradation.pixels import Image, Operation, chance, check_image, integer, settle, uniform
from degradation.resampling import resized

ALPHABET = string.ascii_letters + string.digits

FONTS = 8
"""OpenCV's Hershey fonts are numbered from 0."""


@dataclass(frozen=True)
class ChromaticAberration:
    """Red moved down and right, blue up and left, by `shift` px each; edge pixels fill the gap."""

    shift: int

    def apply(self, image: Image) -> Image:
        shifted = image.astype(np.float64)
        for channel, shift in ((0, self.shift), (2, -self.shift)):
            rows, columns = (np.clip(np.arange(side) - shift, 0, side - 1) for side in image.shape[:2])
            shifted[..., channel] = image[rows][:, columns, channel]
        return settle(shifted)


@dataclass(frozen=True)
class Moire:
    """A grid of two crossed sines added to all channels.

    Attributes:
        frequency: Radians per pixel (π is the finest that pixels can hold).
        angle: Of the first sine's direction, in radians.
        alpha: Amplitude.
    """

    frequency: float
    angle: float
    alpha: float

    def apply(self, image: Image) -> Image:
        y, x = (np.arange(side, dtype=np.float64) for side in image.shape[:2])
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        along = x[None, :] * cos + y[:, None] * sin
        across = y[:, None] * cos - x[None, :] * sin
        grid = np.sin(self.frequency * along) * np.sin(self.frequency * across)
        return settle(image + self.alpha * grid[..., None])


@dataclass(frozen=True)
class Band:
    """Some rows of a glitch.

    Attributes:
        top: Where it starts, as a share of the image's height.
        rows: Its height in px; the image may end sooner.
        level: The grey that fills it, in [0, 1]; None where its pixels are rolled.
        shift: How far they are rolled to the right, in px.
    """

    top: float
    rows: int
    level: float | None
    shift: int


@dataclass(frozen=True)
class Glitch:
    """Bands over the image's whole width, one after another."""

    bands: tuple[Band, ...]

    def apply(self, image: Image) -> Image:
        values = image.astype(np.float64)
        for band in self.bands:
            top = int(band.top * len(values))
            rows = values[top : top + band.rows]
            rows[:] = np.roll(rows, band.shift, axis=1) if band.level is None else band.level
        return settle(values)


@dataclass(frozen=True)
class TextDistractor:
    """A text in one of OpenCV's Hershey fonts, opaque; `left` and `bottom` are shares of the image's sides."""

    text: str
    font: int
    scale: float
    thickness: int
    colour: tuple[float, float, float]
    left: float
    bottom: float

    def apply(self, image: Image) -> Image:
        height, width = image.shape[:2]
        origin = int(self.left * width), int(self.bottom * height)
        ink = np.zeros((height, width), np.uint8)
        cv2.putText(ink, self.text, origin, self.font, self.scale, (255,), self.thickness, cv2.LINE_AA)
        cover = ink[..., None] / 255.0
        return settle(image * (1 - cover) + cover * np.array(self.colour))


@dataclass(frozen=True)
class ThumbnailDistractor:
    """Another image, its longer side brought to `side` px, pasted; what does not fit is cut off.

    `left` and `top` are shares of the room that it leaves.
    """

    picture: Image = field(repr=False, compare=False)
    side: int
    left: float
    top: float

    def apply(self, image: Image) -> Image:
        scale = self.side / max(self.picture.shape[:2])
        height, width = (max(1, int(scale * side + 0.5)) for side in self.picture.shape[:2])
        thumbnail = resized(self.picture, height, width, "area" if scale < 1 else "cubic")
        values = image.astype(np.float64)
        top, left = (
            int(share * (max(0, room) + 1))
            for share, room in ((self.top, image.shape[0] - height), (self.left, image.shape[1] - width))
        )
        window = values[top : top + height, left : left + width]
        window[:] = thumbnail[: window.shape[0], : window.shape[1]]
        return settle(values)


def draw_aberration(rng: np.random.Generator, strength: float) -> ChromaticAberration:
    """Operation 10: by int(max(1, 4s)) px."""
    return ChromaticAberration(int(max(1, 4 * strength)))


def draw_moire(rng: np.random.Generator, strength: float) -> Moire:
    """Operation 11: frequency U(0.5, 3), read as radians per pixel; angle U(0, π); alpha 0.15·s."""
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


def draw_distractor(rng: np.random.Generator, strength: float, thumbnails: Sequence[Image] = ()) -> Operation | None:
    """Operation 14: with a probability of 0.15 at every strength a text (90 %) or a thumbnail (10 %); None otherwise.

    The text has 0 … 10 letters and digits, scale U(0, 8), thickness 1 … 8; font, colour and place are uniform. The
    thumbnail, 20 … 100 px, is one of `thumbnails` (not the image itself, says the caller); without any, it is a text.
    """
    if not chance(rng, 0.15):
        return None
    if chance(rng, 0.1) and len(thumbnails):
        picture = thumbnails[integer(rng, 0, len(thumbnails) - 1)]
        check_image(picture)
        return ThumbnailDistractor(picture, integer(rng, 20, 100), rng.random(), rng.random())
    text = "".join(ALPHABET[integer(rng, 0, len(ALPHABET) - 1)] for _ in range(integer(rng, 0, 10)))
    return TextDistractor(
        text=text,
        font=integer(rng, 0, FONTS - 1),
        scale=uniform(rng, 0, 8),
        thickness=integer(rng, 1, 8),
        colour=(rng.random(), rng.random(), rng.random()),
        left=rng.random(),
        bottom=rng.random(),
    )
