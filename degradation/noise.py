"""Operations 2 and 5: speckle, Poisson, salt-and-pepper and Gaussian noise.

A noise is drawn from a seed of its own, held with the other parameters: the parameters alone repeat it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from degradation.pixels import (
    Image,
    Operation,
    Values,
    chance,
    draw_seed,
    generator,
    grey,
    integer,
    settle,
    uniform,
)

Channels = Literal["independent", "grey", "correlated"]
"""How a noise's three channels go together: drawn apart, equal, or with a random covariance."""


def random_covariance(rng: np.random.Generator) -> Values:
    """float64 [3, 3]: |Qᵀ·diag(d)·Q|, Q a random rotation, d ~ U(0, 1): BSRGAN's correlated noise (Zhang et al. 2021).

    The variances lie between 0 and 1 and, with every correlation made positive, the matrix stays positive definite
    (3 × 3: no minor shrinks).
    """
    eigenvalues = rng.random(3)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    covariance: Values = np.abs((rotation.T * eigenvalues) @ rotation)
    return covariance


def normal_noise(size: tuple[int, ...], sigma: float, channels: Channels, seed: int) -> Values:
    """Noise of mean 0 for an image of `size` = (height, width).

    Returns:
        float64 [height, width, 3]; σ = `sigma` in each channel, or covariance σ² · `random_covariance`.
    """
    rng = generator(seed)
    if channels == "grey":
        noise = rng.standard_normal((*size, 1)).repeat(3, axis=2)
    elif channels == "correlated":
        # Cholesky's factor is unique, unlike a singular value decomposition: the same on every machine.
        factor = np.linalg.cholesky(random_covariance(rng) + 1e-12 * np.eye(3))
        noise = rng.standard_normal((*size, 3)) @ factor.T
    else:
        noise = rng.standard_normal((*size, 3))
    noise *= sigma
    return noise


@dataclass(frozen=True)
class GaussianNoise:
    """Added; sigma on the scale of the image, [0, 1]."""

    sigma: float
    channels: Channels
    seed: int

    def apply(self, image: Image) -> Image:
        return settle(image + normal_noise(image.shape[:2], self.sigma, self.channels, self.seed))


@dataclass(frozen=True)
class SpeckleNoise:
    """Gaussian noise in proportion to the pixel."""

    sigma: float
    channels: Channels
    seed: int

    def apply(self, image: Image) -> Image:
        return settle(image * (1 + normal_noise(image.shape[:2], self.sigma, self.channels, self.seed)))


@dataclass(frozen=True)
class PoissonNoise:
    """Photon counts at `peak` photons for white; in grey, the noise of the luma is added to all channels alike."""

    peak: float
    grey: bool
    seed: int

    def apply(self, image: Image) -> Image:
        rng = generator(self.seed)
        values = image.astype(np.float64)
        if not self.grey:
            return settle(rng.poisson(values * self.peak) / self.peak)
        luma = grey(values)
        return settle(values + (rng.poisson(luma * self.peak) / self.peak - luma))


@dataclass(frozen=True)
class SaltAndPepperNoise:
    """Each pixel is hit with probability `share`, all channels together; half of those turn white, half black."""

    share: float
    seed: int

    def apply(self, image: Image) -> Image:
        lot = generator(self.seed).random(image.shape[:2])
        values = image.astype(np.float64)
        values[lot < self.share / 2] = 0
        values[lot >= 1 - self.share / 2] = 1
        return settle(values)


def _draw_channels(rng: np.random.Generator, independent: float, grey: float) -> Channels:
    lot = rng.random()
    return "independent" if lot < independent else "grey" if lot < independent + grey else "correlated"


def draw_sensor_noise(rng: np.random.Generator, strength: float) -> Operation:
    """Operation 2: speckle (33 %), Poisson (33 %) or salt-and-pepper (34 %).

    Speckle σ = {2 … 25}·s/255, per channel 40 %, grey 40 %, correlated 20 %; Poisson of peak 10^U(2, 4) at every
    strength, colour or grey, equally likely; salt-and-pepper on 0.1·s of the pixels.
    """
    lot = rng.random()
    if lot < 0.33:
        sigma = integer(rng, 2, 25) * strength / 255
        return SpeckleNoise(sigma, _draw_channels(rng, 0.4, 0.4), draw_seed(rng))
    if lot < 0.66:
        return PoissonNoise(10 ** uniform(rng, 2, 4), chance(rng, 0.5), draw_seed(rng))
    return SaltAndPepperNoise(0.1 * strength, draw_seed(rng))


def draw_gaussian_noise(rng: np.random.Generator, strength: float) -> GaussianNoise:
    """Operation 5: σ = {a … 100}·s/255, a = 2 (20 %) or 60 (80 %); per channel 70 %, grey 20 %, correlated 10 %."""
    least = 2 if chance(rng, 0.2) else 60
    sigma = integer(rng, least, 100) * strength / 255
    return GaussianNoise(sigma, _draw_channels(rng, 0.7, 0.2), draw_seed(rng))
