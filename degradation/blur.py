"""Operations 0 and 1: Gaussian, box and motion blur. Borders are mirrored, the edge pixel not repeated."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from degradation.pixels import Image, Operation, Values, integer, on_grid, uniform

SMALLEST_VARIANCE = 1e-6
"""Stands in for a variance of zero, px²: the kernel is then one pixel wide all the same."""


def anisotropic_gaussian_kernel(variances: tuple[float, float], angle: float) -> Values:
    """Density of a centred bivariate Gaussian at the points of a square grid, divided by its sum.

    Args:
        variances: Eigenvalues l1, l2 of the covariance, px²; l1 belongs to the axis at `angle`.
        angle: Of the first axis, in radians from the x axis towards the y axis (down).

    Returns:
        float64 [size, size] with size 2·int(max(l1, l2)) + 1, sum 1.
    """
    reach = int(max(variances))
    steps = np.arange(-reach, reach + 1, dtype=np.float64)
    x, y = steps[None, :], steps[:, None]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    l1, l2 = (max(variance, SMALLEST_VARIANCE) for variance in variances)
    kernel: Values = np.exp(-0.5 * (along**2 / l1 + across**2 / l2))
    kernel /= kernel.sum()
    return kernel


def gaussian_profile(size: int, sigma: float) -> Values:
    """float64 [size], sum 1: the isotropic Gaussian kernel is its outer product with itself."""
    steps = np.arange(size, dtype=np.float64) - (size - 1) / 2
    profile: Values = np.exp(-0.5 * steps**2 / max(sigma**2, SMALLEST_VARIANCE))
    profile /= profile.sum()
    return profile


def motion_kernel(size: int, angle: float) -> Values:
    """One pixel a column, where the line through the centre at `angle` (degrees) passes; float64 [size, size], sum 1.

    As the method has it: rows are cut towards zero, so the centroid may lie beside the centre, and a steep line, which
    leaves the square within a column, hardly blurs.
    """
    kernel = np.zeros((size, size))
    centre, slope = size // 2, math.tan(math.radians(angle))
    for x in range(size):
        y = int(slope * (x - centre) + centre)
        if 0 <= y < size:
            kernel[y, x] = 1
    kernel /= kernel.sum()
    return kernel


def _filter(image: Image, kernel: Values) -> Image:
    values = image.astype(np.float64)
    return on_grid(np.asarray(cv2.filter2D(values, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.float64))


def _filter_separably(image: Image, profile: Values) -> Image:
    anchor = ((len(profile) - 1) // 2,) * 2
    blurred = cv2.sepFilter2D(
        image.astype(np.float64), -1, profile, profile, anchor=anchor, borderType=cv2.BORDER_REFLECT_101
    )
    return on_grid(np.asarray(blurred, np.float64))


@dataclass(frozen=True)
class AnisotropicGaussianBlur:
    """See `anisotropic_gaussian_kernel`: variances in px², angle in radians."""

    variances: tuple[float, float]
    angle: float

    def apply(self, image: Image) -> Image:
        return _filter(image, anisotropic_gaussian_kernel(self.variances, self.angle))


@dataclass(frozen=True)
class GaussianBlur:
    """Isotropic; size and sigma in px."""

    size: int
    sigma: float

    def apply(self, image: Image) -> Image:
        return _filter_separably(image, gaussian_profile(self.size, self.sigma))


@dataclass(frozen=True)
class BoxBlur:
    """The mean over a square, side in px; of an even side, the larger half lies below and to the right."""

    side: int

    def apply(self, image: Image) -> Image:
        return _filter_separably(image, np.full(self.side, 1 / self.side))


@dataclass(frozen=True)
class MotionBlur:
    """See `motion_kernel`: size in px (odd), angle in degrees."""

    size: int
    angle: float

    def apply(self, image: Image) -> Image:
        return _filter(image, motion_kernel(self.size, self.angle))


def draw_blur(rng: np.random.Generator, strength: float) -> Operation:
    """Operation 0: one of three blurs, equally likely.

    Anisotropic Gaussian with l1, l2 ~ U(0, 30s) and angle U(0, π); isotropic Gaussian of size 2·{2 … 11} + 3 and
    σ ~ U(0, 30s); or box of side 3 … max(3, int(30s)).
    """
    which = integer(rng, 0, 2)
    if which == 0:
        variances = (uniform(rng, 0, 30 * strength), uniform(rng, 0, 30 * strength))
        return AnisotropicGaussianBlur(variances, uniform(rng, 0, math.pi))
    if which == 1:
        return GaussianBlur(2 * integer(rng, 2, 11) + 3, uniform(rng, 0, 30 * strength))
    return BoxBlur(integer(rng, 3, max(3, int(30 * strength))))


def draw_motion_blur(rng: np.random.Generator, strength: float) -> MotionBlur:
    """Operation 1: size int(max(3, 12s)), the next odd number where that is even; angle U(0°, 180°)."""
    return MotionBlur(int(max(3, 12 * strength)) | 1, uniform(rng, 0, 180))
