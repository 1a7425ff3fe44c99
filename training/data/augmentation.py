"""One training image: framed, flipped, rotated, normalised and perhaps degraded, in the method's order.

Every choice is drawn from the seed, the epoch and the item, so that any batch can be made again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from degradation import Settings, degrade, from_bytes
from ensemble.images import RgbImage
from ensemble.streams import NORMALISATION_MEAN, NORMALISATION_STD, Stream
from training.recipe import Augmentation

Floats = npt.NDArray[np.float32]

_MEAN = np.array(NORMALISATION_MEAN, np.float32)
_STD = np.array(NORMALISATION_STD, np.float32)


class TooSmallError(ValueError):
    """An image with a side below the stream's."""


def frame(image: RgbImage, stream: Stream) -> RgbImage:
    """Cuts a stream's input: the central pixels as they are, or the whole image resized.

    Args:
        image: uint8 [height, width, 3], RGB; the face crop already, for the stream of faces.
        stream: Whose input.

    Returns:
        uint8 [pixels, pixels, 3].

    Raises:
        TooSmallError: The centre is to be cut, and a side is too short. (The authors' code takes another image then.)
    """
    height, width = image.shape[:2]
    side = stream.pixels
    if stream.framing == "resize":
        if (height, width) == (side, side):
            return image
        method = cv2.INTER_AREA if height > side else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(image, (side, side), interpolation=method), np.uint8)
    if min(height, width) < side:
        raise TooSmallError(f"{width}×{height} pixels; {stream.name} needs at least {side} on each side")
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def rotated(image: RgbImage, degrees: float) -> RgbImage:
    """The image turned counter-clockwise about its centre, size kept, corners mirrored (reflect-101), bilinear."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1)
    turned = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, np.uint8)


def augmented(
    image: RgbImage, recipe: Augmentation, rng: np.random.Generator, thumbnail: Callable[[], RgbImage]
) -> Floats:
    """Flips, rotates, and perhaps degrades one framed image.

    Degraded values may leave [0, 1] where the engine lets them, and are not brought back to 8 bits.

    Args:
        image: uint8 [side, side, 3], RGB, framed.
        recipe: Probabilities and ranges.
        rng: Makes every choice.
        thumbnail: Gives another framed image; called only where a distractor pastes it.

    Returns:
        float32 [3, side, side], normalised.
    """
    if rng.random() < recipe.flip:
        image = np.ascontiguousarray(image[:, ::-1])
    if rng.random() < recipe.rotate:
        image = rotated(image, rng.uniform(-recipe.degrees, recipe.degrees))
    pixels = from_bytes(image)
    if rng.random() < recipe.degrade:
        pixels = degraded(pixels, recipe.operation, rng, thumbnail)
    return normalised(pixels)


def degraded(pixels: Floats, operation: float, rng: np.random.Generator, thumbnail: Callable[[], RgbImage]) -> Floats:
    """Runs the degradation engine as training does, on float32 [side, side, 3] in [0, 1]."""
    image, _ = degrade(pixels, rng, Settings(global_p=1.0, op_p=operation), _Thumbnail(thumbnail))
    return image


class _Thumbnail(Sequence[Floats]):
    """Another image, read only where a distractor pastes it: one degraded image in some two hundred."""

    def __init__(self, read: Callable[[], RgbImage]) -> None:
        self._read = read

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        return from_bytes(self._read())


def normalised(pixels: Floats) -> Floats:
    """ImageNet's mean and deviation applied: [side, side, 3] in [0, 1] to float32 [3, side, side]."""
    return np.ascontiguousarray(((pixels - _MEAN) / _STD).transpose(2, 0, 1), np.float32)
