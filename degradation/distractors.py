"""Operation 14: a text or a thumbnail laid over the image."""

import string
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from degradation.pixels import Image, Operation, Values, chance, check_image, integer, on_grid, uniform
from degradation.resampling import Interpolation, draw_smooth, resized

PROBABILITY = 0.15
"""That there is one at all, at every strength."""

ALPHABET = string.printable
FONTS = 8
"""OpenCV's Hershey fonts are numbered from 0."""

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
"""Of the networks' input; here only for what the method pastes (see `ThumbnailDistractor`)."""


@dataclass(frozen=True)
class TextDistractor:
    """A text in one of OpenCV's Hershey fonts, opaque.

    Attributes:
        text: What is written.
        font: Number of the font.
        scale: Of the font's own size.
        thickness: Of its lines, in px.
        colour: Red, green and blue, in [0, 1].
        left: Of the text's origin, in px; it may lie outside the image.
        bottom: Of the same, from above.
        line: OpenCV's line type, 0, 1 or 2.
    """

    text: str
    font: int
    scale: float
    thickness: int
    colour: tuple[float, float, float]
    left: int
    bottom: int
    line: int

    def apply(self, image: Image) -> Image:
        drawn, origin = image.copy(), (self.left, self.bottom)
        cv2.putText(drawn, self.text, origin, self.font, self.scale, self.colour, self.thickness, self.line)
        return on_grid(drawn.astype(np.float64))


@dataclass(frozen=True)
class ThumbnailDistractor:
    """Another image, brought to another size and pasted; what leaves the image is cut off.

    As the method has it: it takes the other image as the networks see it, less its mean and divided by its standard
    deviation, and brings that to colours by v/2 + 0.5 in the place of the inverse (where any value lies outside
    [0, 1]). So the contrast is about twice what it should be, and values outside [0, 1] are pasted.

    `left` and `top` are shares of the places where at least its corner touches the image.
    """

    picture: Image = field(repr=False, compare=False)
    height: int
    width: int
    interpolation: Interpolation
    left: float
    top: float

    def apply(self, image: Image) -> Image:
        thumbnail = resized(_as_pasted(self.picture), self.height, self.width, self.interpolation)
        top, left = (
            int(share * (size + side + 1)) - size
            for share, size, side in zip((self.top, self.left), (self.height, self.width), image.shape[:2], strict=True)
        )
        pasted = image.copy()
        window = pasted[max(top, 0) : max(top + self.height, 0), max(left, 0) : max(left + self.width, 0)]
        window[:] = thumbnail[max(-top, 0) :, max(-left, 0) :][: window.shape[0], : window.shape[1]]
        return pasted


def _as_pasted(picture: Image) -> Image:
    values: Values = (picture - MEAN) / STD
    if values.min() < 0 or values.max() > 1:
        values = values / 2 + 0.5
    return on_grid(values)


def draw_distractor(
    rng: np.random.Generator,
    strength: float,
    size: tuple[int, int] = (252, 252),
    thumbnails: Sequence[Image] = (),
) -> Operation | None:
    """Operation 14: with a probability of 0.15 at every strength a text (90 %) or a thumbnail (10 %); None otherwise.

    The text has 0 … 10 printable characters, scale U(0, 8), thickness 1 … 8, a colour and a font; it starts from −100
    px to the right border, and from the upper border to 100 px below the lower one. The thumbnail is 20 … 100 px wide,
    its height 0.8 … 1.2 of that.

    Args:
        rng: Draws.
        strength: Has no effect.
        size: Height and width of the original image in px: texts are placed by them even where it was resized since.
        thumbnails: Other images, one of which may be pasted; without any, nothing is laid over in these cases.
    """
    if not chance(rng, PROBABILITY):
        return None
    if chance(rng, 0.9):
        return _draw_text(rng, *size)
    if not thumbnails:
        return None
    picture = thumbnails[integer(rng, 0, len(thumbnails) - 1)]
    check_image(picture)
    width = integer(rng, 20, 100)
    height = int(width * uniform(rng, 0.8, 1.2))
    return ThumbnailDistractor(picture, height, width, draw_smooth(rng), rng.random(), rng.random())


def _draw_text(rng: np.random.Generator, height: int, width: int) -> TextDistractor:
    text = "".join(ALPHABET[integer(rng, 0, len(ALPHABET) - 1)] for _ in range(integer(rng, 0, 10)))
    return TextDistractor(
        text=text,
        font=integer(rng, 0, FONTS - 1),
        scale=uniform(rng, 0, 8),
        thickness=integer(rng, 1, 8),
        colour=(rng.random(), rng.random(), rng.random()),
        left=integer(rng, -100, width),
        bottom=integer(rng, 0, height + 100),
        line=integer(rng, 0, 2),
    )
