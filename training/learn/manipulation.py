"""Fakes as self-blended images are made: a region of a photograph is laid over itself, re-synthesised.

The copy is warped, recoloured, resampled through a coarser grid and perhaps smoothed, and blended under a soft mask.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.images import RgbImage

Mask = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Ranges:
    """Uniform ranges of what is drawn for one fake.

    Attributes:
        radius: Half axes of the region, as a share of the side.
        centre: Of the region, as a share of the side.
        feather: Softness of the mask, σ in pixels.
        turn: Degrees by which the copy is turned.
        zoom: Factor by which it is enlarged.
        shift: Pixels by which it is moved.
        gain: Factor of each colour channel (of all alike in a grey photograph).
        offset: Levels added to all.
        resample: Side of the coarser grid, as a share of the side.
        smooth: σ in pixels of the smoothing that half of the copies get.
    """

    radius: tuple[float, float] = (0.2, 0.4)
    centre: tuple[float, float] = (0.35, 0.65)
    feather: tuple[float, float] = (2, 8)
    turn: tuple[float, float] = (-8, 8)
    zoom: tuple[float, float] = (0.92, 1.1)
    shift: tuple[float, float] = (-8, 8)
    gain: tuple[float, float] = (0.88, 1.12)
    offset: tuple[float, float] = (-12, 12)
    resample: tuple[float, float] = (0.25, 0.55)
    smooth: tuple[float, float] = (0.5, 1.2)


RANGES = Ranges()


def manipulated(image: RgbImage, rng: np.random.Generator, ranges: Ranges = RANGES) -> tuple[RgbImage, Mask]:
    """One fake.

    Args:
        image: uint8 [side, side, 3], RGB.
        rng: Makes every choice.
        ranges: Of the choices.

    Returns:
        The fake, uint8 of the same shape, and the mask of what is not as it was, float32 [side, side] in [0, 1].
    """
    side = image.shape[0]
    mask = _mask(side, rng, ranges)
    copy = _recoloured(_warped(image.astype(np.float32), rng, ranges), rng, ranges)
    copy = _resampled(copy, rng, ranges)
    blended = mask[..., None] * copy + (1 - mask[..., None]) * image
    return np.clip(np.rint(blended), 0, 255).astype(np.uint8), mask


def _mask(side: int, rng: np.random.Generator, ranges: Ranges) -> Mask:
    """An ellipse with an uneven, soft border."""
    width, height = (2 * side * float(each) for each in rng.uniform(*ranges.radius, size=2))
    x, y = (side * float(each) for each in rng.uniform(*ranges.centre, size=2))
    mask = np.zeros((side, side), np.float32)
    cv2.ellipse(mask, ((x, y), (width, height), rng.uniform(0, 180)), (1.0,), -1)
    wave = np.asarray(cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), 16), np.float32)
    wave = wave * np.float32(6 / (wave.std() + 1e-6))
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    uneven = cv2.remap(mask, columns + wave, rows - wave, cv2.INTER_LINEAR)
    return np.asarray(cv2.GaussianBlur(uneven, (0, 0), rng.uniform(*ranges.feather)), np.float32)


def _warped(image: Mask, rng: np.random.Generator, ranges: Ranges) -> Mask:
    side = image.shape[0]
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(*ranges.turn), rng.uniform(*ranges.zoom))
    moved = np.asarray(turn, np.float64) + np.column_stack((np.zeros((2, 2)), rng.uniform(*ranges.shift, size=2)))
    warped = cv2.warpAffine(image, moved, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(warped, np.float32)


def _recoloured(image: Mask, rng: np.random.Generator, ranges: Ranges) -> Mask:
    gains = rng.uniform(*ranges.gain, size=3).astype(np.float32)
    if (image == image[..., :1]).all():
        gains[:] = gains[0]  # colour in a grey photograph would give the fake away
    return np.asarray(image * gains + np.float32(rng.uniform(*ranges.offset)), np.float32)


def _resampled(image: Mask, rng: np.random.Generator, ranges: Ranges) -> Mask:
    side = image.shape[0]
    coarse = round(side * rng.uniform(*ranges.resample))
    small = cv2.resize(image, (coarse, coarse), interpolation=cv2.INTER_AREA)
    method = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(small, (side, side), interpolation=method), np.float32)
    if rng.random() < 0.5:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(*ranges.smooth)), np.float32)
    return image
