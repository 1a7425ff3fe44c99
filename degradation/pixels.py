"""What every operation shares: the image type, the grid its pixels lie on, and bounded random draws."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
"""float32 [height, width, 3], RGB in [0, 1]."""

Bytes = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""

Values = npt.NDArray[np.float64]
"""float64, where operations compute."""

GRID = 1 << 20
"""Operations that compute hand on multiples of 1/GRID (see `on_grid`)."""


class Operation(Protocol):
    """One operation with all its parameters drawn: a pure function of the image, on any machine."""

    def apply(self, image: Image) -> Image:
        """The image degraded; its argument is left as it is."""
        ...


def on_grid(values: Values) -> Image:
    """Brings the result of an operation to the nearest multiple of 1/GRID, in float32.

    This is what makes pixels equal on every machine. Transcendental functions and the order of sums differ between
    processors in the last digits of float64 (about 1e-15); a grid of 1e-6 swallows that, but for values right on a
    border between two grid points. Averages of grid values fall on the middle between two of them all the time, so the
    border lies a little beside the middle, where no fraction with a small denominator is.

    `values` are overwritten: operations hand over their last intermediate result.
    """
    values *= GRID
    values += 0.50004
    np.floor(values, out=values)
    values *= 1 / GRID  # exact, for GRID is a power of two
    gridded: Image = values.astype(np.float32)
    return gridded


def settle(values: Values) -> Image:
    """The same, clipped to [0, 1]: for the operations after which the method clips."""
    np.clip(values, 0, 1, out=values)
    return on_grid(values)


_LEVELS = (np.arange(256) / 255).astype(np.float32)


def from_bytes(image: Bytes) -> Image:
    """uint8 [height, width, 3] as float32 in [0, 1]."""
    values: Image = _LEVELS[image]
    return values


def to_bytes(image: Image) -> Bytes:
    """The image as uint8, clipped and rounded to nearest; the inverse of `from_bytes`."""
    values = np.clip(image, 0, 1)
    values *= np.float32(255)
    values += np.float32(0.5)
    pixels: Bytes = values.astype(np.uint8)
    return pixels


def truncated(image: Image) -> Bytes:
    """The image as uint8, cut down to whole levels, as the method does before its 8-bit operations.

    A level that the grid brought just below itself stays. Values outside [0, 1], which a pasted thumbnail can bring,
    wrap around as a C cast of an int does.
    """
    pixels: Bytes = (image * np.float32(255) + np.float32(0.001)).astype(np.int32).astype(np.uint8)
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
