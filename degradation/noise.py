"""Operations 2 and 5: speckle, Poisson, salt-and-pepper and Gaussian noise.

A noise is drawn from a seed of its own, held with the other parameters: the parameters alone repeat it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from degradation.pixels import Image, Operation, Values, chance, draw_seed, generator, integer, settle, uniform

Channels = Literal["independent", "grey", "correlated"]
"""How a noise's three channels go together: drawn apart, equal, or with a random covariance."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the grey of Poisson noise."""


def correlated_factor(rng: np.random.Generator) -> Values:
    """float64 [3, 3], symmetric: standard normal rows times it are the method's correlated noise, at scale 1.

    The method asks for the covariance C = |Uᵀ·diag(d)·W|, element by element, with d ~ U(0, 1) and U, W the left
    singular vectors of two matrices of U(0, 1) numbers. With two different bases C is neither symmetric nor, often,
    positive semi-definite: an accident, for BSRGAN (Zhang et al. 2021), where it comes from, has one basis. NumPy's
    `multivariate_normal` then draws by the singular values S and right singular vectors V of C, so the covariance in
    effect is V·S·Vᵀ. Its square root, returned here, is the same on every machine, whatever the signs in V are.
    """
    first, eigenvalues, second = rng.random((3, 3)), rng.random(3), rng.random((3, 3))
    bases = np.linalg.svd(np.stack([first, second]))[0]
    covariance = np.abs((bases[0].T * eigenvalues) @ bases[1])
    _, singular, right = np.linalg.svd(covariance)
    factor: Values = (right.T * np.sqrt(singular)) @ right
    return factor


@dataclass(frozen=True)
class NormalNoise:
    """Normal noise of mean 0 on the scale of the image, [0, 1].

    Attributes:
        sigma: Standard deviation, where channels are drawn apart or equal.
        scale: Of correlated noise (see `correlated_factor`): the covariance there times its square.
        channels: How the channels go together.
        seed: Of the draws.
    """

    sigma: float
    scale: float
    channels: Channels
    seed: int

    def draw(self, height: int, width: int) -> Values:
        """float64 [height, width, 3], or [height, width, 1] where the channels are equal."""
        rng = generator(self.seed)
        if self.channels == "correlated":
            factor = self.scale * correlated_factor(rng)
            noise: Values = rng.standard_normal((height, width, 3)) @ factor
            return noise
        noise = rng.standard_normal((height, width, 1 if self.channels == "grey" else 3))
        noise *= self.sigma
        return noise


@dataclass(frozen=True)
class GaussianNoise(NormalNoise):
    """Added to the image."""

    def apply(self, image: Image) -> Image:
        return settle(image + self.draw(*image.shape[:2]))


@dataclass(frozen=True)
class SpeckleNoise(NormalNoise):
    """Added in proportion to the pixel."""

    def apply(self, image: Image) -> Image:
        noise = self.draw(*image.shape[:2])
        noise += 1
        return settle(image * noise)


@dataclass(frozen=True)
class PoissonNoise:
    """Photon counts at `peak` photons for white, of the image in 8 bits; in grey, one noise for all channels."""

    peak: float
    grey: bool
    seed: int

    def apply(self, image: Image) -> Image:
        rng = generator(self.seed)
        values = _eight_bits(image.astype(np.float64))
        if not self.grey:
            return settle(rng.poisson(values * self.peak) / self.peak)
        luma = _eight_bits(values @ LUMA)
        return settle(values + (rng.poisson(luma * self.peak) / self.peak - luma)[..., None])


@dataclass(frozen=True)
class SaltAndPepperNoise:
    """Each pixel is hit with probability `share`, all channels together; half of those turn white, half black."""

    share: float
    seed: int

    def apply(self, image: Image) -> Image:
        lot = generator(self.seed).random(image.shape[:2])
        salted = image.copy()
        salted[lot < self.share / 2] = 0
        salted[lot > 1 - self.share / 2] = 1
        return salted


def _eight_bits(values: Values) -> Values:
    rounded: Values = np.clip(np.rint(values * 255), 0, 255) / 255
    return rounded


def _draw_channels(rng: np.random.Generator, independent: float, grey: float) -> Channels:
    lot = rng.random()
    return "independent" if lot < independent else "grey" if lot < independent + grey else "correlated"


def draw_speckle(rng: np.random.Generator, strength: float) -> SpeckleNoise:
    """σ = {2 … 25}·s/255; per channel 40 %, grey 40 %, correlated at scale 25·s/255 20 %."""
    sigma = integer(rng, 2, 25) * strength / 255
    return SpeckleNoise(sigma, 25 * strength / 255, _draw_channels(rng, 0.4, 0.4), draw_seed(rng))


def draw_sensor_noise(rng: np.random.Generator, strength: float) -> Operation:
    """Operation 2: speckle (33 %), Poisson (33 %) or salt-and-pepper (34 %).

    Speckle see `draw_speckle`; Poisson of peak 10^U(2, 4) at every strength, colour or grey, equally likely;
    salt-and-pepper on 0.1·s of the pixels.
    """
    lot = rng.random()
    if lot < 0.33:
        return draw_speckle(rng, strength)
    if lot < 0.66:
        return PoissonNoise(10 ** uniform(rng, 2, 4), chance(rng, 0.5), draw_seed(rng))
    return SaltAndPepperNoise(0.1 * strength, draw_seed(rng))


def draw_normal_noise(rng: np.random.Generator, least: int, most: int, strength: float = 1.0) -> GaussianNoise:
    """σ = {least … most}·s/255; per channel 70 %, grey 20 %, correlated at scale most·s/255 10 %."""
    sigma = integer(rng, least, most) * strength / 255
    return GaussianNoise(sigma, most * strength / 255, _draw_channels(rng, 0.7, 0.2), draw_seed(rng))


def draw_gaussian_noise(rng: np.random.Generator, strength: float) -> GaussianNoise:
    """Operation 5: see `draw_normal_noise`, from 2 (20 %) or 60 (80 %) to 100."""
    return draw_normal_noise(rng, 2 if chance(rng, 0.2) else 60, 100, strength)
