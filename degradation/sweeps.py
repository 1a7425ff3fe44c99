"""Controlled sweeps: one image at rising severity, everything else held still."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, overload

import numpy as np

from degradation.artefacts import draw_aberration, draw_glitch, draw_moire
from degradation.blur import draw_blur, draw_motion_blur
from degradation.colour import draw_vignetting
from degradation.compression import JpegCompression, draw_banding, draw_chroma
from degradation.engine import Draw, Settings, degrade
from degradation.noise import draw_normal_noise, draw_speckle
from degradation.pixels import (
    Bytes,
    Image,
    chance,
    check_image,
    draw_seed,
    from_bytes,
    generator,
    integer,
    to_bytes,
)


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
            A new image of the same shape and dtype. Floats of `compound` may leave [0, 1] by some tenths.

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


def _clean_at_zero(degrade: Callable[[Image, float, int], Image]) -> Callable[[Image, float, int], Image]:
    return lambda image, level, seed: degrade(image, level, seed) if level > 0 else image.copy()


def _compound(image: Image, level: float, seed: int) -> Image:
    return degrade(image, generator(seed), Settings(global_p=1, op_p=1, strength=level, distractor=False))[0]


def _jpeg(image: Image, level: float, seed: int) -> Image:
    return JpegCompression(round(level)).apply(image)


def _noise(image: Image, level: float, seed: int) -> Image:
    sigma = max(1, int(level))
    return draw_normal_noise(generator(seed), sigma, sigma).apply(image)


def _blur(image: Image, level: float, seed: int) -> Image:
    return draw_blur(generator(seed), level).apply(image)


def _motion_blur(image: Image, level: float, seed: int) -> Image:
    return draw_motion_blur(generator(seed), level).apply(image)


_OF_THE_MIX: tuple[Draw, ...] = (
    draw_blur,
    draw_motion_blur,
    lambda rng, level: draw_normal_noise(rng, 2, int(60 * level) + 2),
    draw_chroma,
    draw_aberration,
    draw_moire,
    draw_glitch,
    draw_vignetting,
    draw_speckle,
    draw_banding,
)


def _mix(image: Image, level: float, seed: int) -> Image:
    rng = generator(seed)
    mixed = image.copy()
    for _ in range(integer(rng, 1, 3)):
        encoded, quality = chance(rng, 0.5), integer(rng, int(30 + 70 * (1 - level)), 100)
        if encoded:
            mixed = JpegCompression(quality).apply(mixed)
    for index in rng.permutation(len(_OF_THE_MIX))[:8]:
        operation = _OF_THE_MIX[index](generator(draw_seed(rng)), level)
        if operation:
            mixed = operation.apply(mixed)
    return mixed


_TENTHS = tuple(step / 10 for step in range(11))
_STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

SWEEPS: dict[str, Sweep] = {
    sweep.name: sweep
    for sweep in (
        Sweep("compound", "all operations", "strength", _TENTHS, _clean_at_zero(_compound)),
        Sweep("jpeg", "JPEG", "quality", (100, 80, 60, 40, 20, 10, 5), _jpeg),
        Sweep("noise", "Gaussian noise", "σ (of 255)", (0, 10, 20, 30, 40, 50, 60), _clean_at_zero(_noise)),
        Sweep("blur", "blur", "strength", _STRENGTHS, _clean_at_zero(_blur)),
        Sweep("motion_blur", "motion blur", "strength", _STRENGTHS, _clean_at_zero(_motion_blur)),
        Sweep("mix", "random mix", "strength", _STRENGTHS, _clean_at_zero(_mix)),
    )
}
"""The method's sweeps, by name. Level 0 of all but jpeg is the image as it is.

- compound: the engine with every operation applied, distractors left out.
- jpeg: exactly that quality.
- noise: operation 5 at exactly that σ (a whole number): per channel 70 %, grey 20 %, correlated 10 % of the images.
- blur: operation 0 at that strength: anisotropic Gaussian, isotropic Gaussian or box, equally likely.
- motion_blur: operation 1 at that strength.
- mix: one to three times, each with probability ½, JPEG of quality 30 + 70·(1 − strength) … 100; then eight of ten
  operations in random order at that strength: 0, 1, 5 (σ of 2 … int(60·strength) + 2), 7, 10, 11, 12, 13, the speckle
  of 2, and 8.
"""
