"""What every operation shares: the image type, the grid its pixels lie on, grey, and bounded random draws."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
"""float32 [height, width, 3], RGB in [0, 1]."""

Bytes = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""

Values = npt.NDArray[np.float64]
"""float64, where operations compute."""

GRID = 1 << 16
"""Operations hand on multiples of 1/65536 (see `settle`)."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601, as in JPEG)."""


class Operation(Protocol):
    """One operation with all its parameters drawn: a pure function of the image, on any machine."""

    def apply(self, image: Image) -> Image:
        """The image degraded; its argument is left as it is."""
        ...


def settle(values: Values) -> Image:
    """Brings the result of an operation to [0, 1] and to the nearest multiple of 1/65536, in float32.

    This is what makes pixels equal on every machine. Transcendental functions and the order of sums differ between
    processors in the last digits of float64 (about 1e-15); a grid of 1.5e-5 swallows that, but for values right on a
    border between two grid points. Averages of grid values fall on the middle between two of them all the time, so the
    border lies a little beside the middle, where no fraction with a small denominator is.

    `values` are overwritten: operations hand over their last intermediate result.
    """
    values *= GRID
    values += 0.50004
    np.floor(values, out=values)
    np.clip(values, 0, GRID, out=values)
    values /= GRID
    settled: Image = values.astype(np.float32)
    return settled


def grey(values: Values) -> Values:
    """float64 [height, width, 1]: the luma of RGB values [height, width, 3]."""
    red, green, blue = LUMA
    luma: Values = red * values[..., 0] + green * values[..., 1] + blue * values[..., 2]
    return luma[..., None]


def from_bytes(image: Bytes) -> Image:
    """uint8 [height, width, 3] as float32 in [0, 1]."""
    values: Image = (image / 255.0).astype(np.float32)
    return values


def to_bytes(image: Image) -> Bytes:
    """float32 in [0, 1] as uint8, rounded to nearest; the inverse of `from_bytes`."""
    pixels: Bytes = np.floor(image.astype(np.float64) * 255 + 0.5).astype(np.uint8)
    return pixels


def check_image(image: Image) -> None:
    """Refuses what is not an `Image`.

    Raises:
        TypeError: Another dtype than float32.
        ValueError: Another shape than [height, width, 3], no pixels, or values outside [0, 1] (or NaN).
    """
    if image.dtype != np.float32:
        raise TypeError(f"image of dtype {image.dtype}; float32 in [0, 1] is needed (from_bytes turns uint8 into it)")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"image of shape {image.shape}; [height, width, 3] with at least one pixel is needed")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"image values in [{low:g}, {high:g}]; they must lie in [0, 1]: divide bytes by 255, or clip")


def generator(seed: int) -> np.random.Generator:
    """The project's generator (PCG64) from a seed."""
    return np.random.Generator(np.random.PCG64(seed))


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for a generator of its own."""
    return int(rng.integers(1 << 63))


# Each of the following takes exactly one float64 from the generator, whatever its bounds: so the draws of one seed stay
# in step when only the strength changes.


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A float between `low` and `high`, which may come in either order."""
    return low + (high - low) * rng.random()


def integer(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer from `low` to `high`, both included."""
    return low + int(rng.random() * (high - low + 1))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with that probability."""
    return bool(rng.random() < probability)
