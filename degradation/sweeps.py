"""Controlled sweeps: one image at rising severity, everything else held still."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, overload

import numpy as np

from degradation.blur import draw_gaussian_blur, draw_motion_blur
from degradation.compression import JpegCompression
from degradation.engine import Settings, degrade
from degradation.noise import GaussianNoise
from degradation.pixels import Bytes, Image, check_image, draw_seed, from_bytes, generator, integer, to_bytes


@dataclass(frozen=True)
class Sweep:
    """A degradation whose severity can be set.

    Attributes:
        name: Key in `SWEEPS`.
        title: For a table or a plot.
        quantity: What the level is, with its unit.
        levels: From mild to severe.
        degrade: From image, level and seed, the degraded image.
    """

    name: str
    title: str
    quantity: str
    levels: tuple[float, ...]
    degrade: Callable[[Image, float, int], Image]

    @overload
    def apply(self, image: Bytes, level: float, seed: int) -> Bytes: ...

    @overload
    def apply(self, image: Image, level: float, seed: int) -> Image: ...

    def apply(self, image: Bytes | Image, level: float, seed: int) -> Bytes | Image:
        """Degrades one image.

        Args:
            image: [height, width, 3] RGB, uint8 or float32 in [0, 1]; not modified.
            level: Between the first and the last of `levels`.
            seed: Of this image, at every level the same: then the levels differ in nothing but severity.

        Returns:
            A new image of the same shape and dtype.

        Raises:
            TypeError: Another dtype.
            ValueError: A level outside the sweep, or not an image.
        """
        if not min(self.levels) <= level <= max(self.levels):
            first, last = self.levels[0], self.levels[-1]
            raise ValueError(f"{self.quantity} is {level:g}; the sweep {self.name} goes from {first:g} to {last:g}")
        if image.dtype == np.uint8:
            return to_bytes(self.apply(from_bytes(cast(Bytes, image)), level, seed))
        pixels = cast(Image, image)
        check_image(pixels)
        return self.degrade(pixels, level, seed)


def _compound(image: Image, level: float, seed: int) -> Image:
    return degrade(image, generator(seed), Settings(global_p=1, op_p=1, strength=level, distractor=False))[0]


def _jpeg(image: Image, level: float, seed: int) -> Image:
    return JpegCompression(round(level)).apply(image)


def _noise(image: Image, level: float, seed: int) -> Image:
    return GaussianNoise(level / 255, "independent", seed).apply(image) if level else image.copy()


def _blur(image: Image, level: float, seed: int) -> Image:
    return draw_gaussian_blur(generator(seed), level).apply(image) if level else image.copy()


def _motion_blur(image: Image, level: float, seed: int) -> Image:
    return draw_motion_blur(generator(seed), level).apply(image) if level else image.copy()


def _mix(image: Image, level: float, seed: int) -> Image:
    rng = generator(seed)
    factors: list[Callable[[Image, int], Image]] = [
        lambda image, seed: _jpeg(image, 100 - 95 * level, seed),
        lambda image, seed: _noise(image, 60 * level, seed),
        lambda image, seed: _blur(image, level, seed),
        lambda image, seed: _motion_blur(image, level, seed),
    ]
    order = rng.permutation(len(factors))[: integer(rng, 1, len(factors))]
    mixed = image.copy()
    for index in order if level else ():
        mixed = factors[index](mixed, draw_seed(rng))
    return mixed


_STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

SWEEPS: dict[str, Sweep] = {
    sweep.name: sweep
    for sweep in (
        Sweep("compound", "all operations", "strength", tuple(step / 10 for step in range(11)), _compound),
        Sweep("jpeg", "JPEG", "quality", (100, 80, 60, 40, 20, 10, 5), _jpeg),
        Sweep("noise", "Gaussian noise", "σ (of 255)", (0, 10, 20, 30, 40, 50, 60), _noise),
        Sweep("blur", "Gaussian blur", "strength", _STRENGTHS, _blur),
        Sweep("motion_blur", "motion blur", "strength", _STRENGTHS, _motion_blur),
        Sweep("mix", "random mix", "strength", _STRENGTHS, _mix),
    )
}
"""The method's sweeps, by name.

- compound: the engine with every operation applied (so strength 0 is not the clean image: JPEG quality, Poisson noise
  and the 20 % of greyscale do not depend on strength).
- jpeg, noise: exactly that quality, exactly that σ, drawn per channel.
- blur, motion_blur: the isotropic branch of operation 0, and operation 1, drawn at that strength.
- mix: one to four of JPEG, noise, blur and motion blur, in random order, at quality 100 − 95·strength, σ 60·strength,
  and that strength.

Level 0 of noise, blur, motion_blur and mix is the image as it is.
"""
