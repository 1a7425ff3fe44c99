"""Every operation, the engine and the sweeps give what the authors' code gives, by distribution.

`golden/studies/degradation_statistics.npz` holds statistics of images that the authors' code degraded, many draws of
each. Two samples are compared by the Kolmogorov-Smirnov test, at fixed seeds.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import ks_2samp

from degradation import SWEEPS, Settings, degrade, degrade_once, from_bytes, generator
from degradation.pixels import Image
from tests.golden import GOLDEN, IMAGES, read_rgb

STATISTICS = (
    *("mean red", "mean green", "mean blue", "deviation red", "deviation green", "deviation blue"),
    *("horizontal gradient", "vertical gradient", "least", "largest", "change red × green", "change red × blue"),
    *("mean change", "share changed"),
)
LEAST_P = 1e-5
"""About 900 comparisons are made: with equal distributions one in a hundred runs of all has a p below this, and the
seeds are fixed."""

GOLDEN_STATISTICS = np.load(GOLDEN / "studies" / "degradation_statistics.npz")

Rows = npt.NDArray[np.float64]


def detail(index: int) -> Image:
    return from_bytes(np.ascontiguousarray(read_rgb(IMAGES[index])[60:156, 60:156]))


CLEAN, OTHER = detail(0), detail(6)


def statistics(image: Image) -> list[float]:
    values = image.astype(np.float64)
    change = (values - CLEAN).reshape(-1, 3)
    pixels, grey = values.reshape(-1, 3), values.mean(axis=2)
    return [
        *pixels.mean(axis=0),
        *pixels.std(axis=0),
        np.abs(np.diff(grey, axis=1)).mean(),
        np.abs(np.diff(grey, axis=0)).mean(),
        pixels.min(),
        pixels.max(),
        (change[:, 0] * change[:, 1]).mean(),
        (change[:, 0] * change[:, 2]).mean(),
        np.abs(change).mean(),
        (np.abs(change).max(axis=1) > 1e-3).mean(),
    ]


def draw(key: str) -> Callable[[int], Image]:
    """From a seed, an image degraded as the key says: `OPERATION STRENGTH`, `sweep NAME LEVEL` or `engine`."""
    kind, *rest = key.split()
    if kind == "engine":
        return lambda seed: degrade(CLEAN, generator(seed), Settings(global_p=1), [OTHER])[0]
    if kind == "sweep":
        name, level = rest
        return lambda seed: np.clip(SWEEPS[name].apply(CLEAN, float(level), seed), 0, 1)
    return lambda seed: degrade_once(kind, CLEAN, float(rest[0]), generator(seed), [OTHER])


@pytest.mark.parametrize("key", GOLDEN_STATISTICS.files)
def test_degraded_images_are_distributed_as_those_of_the_authors(key: str) -> None:
    theirs = GOLDEN_STATISTICS[key].astype(np.float64)
    degraded = draw(key)
    ours = np.array([statistics(degraded(1000 + seed)) for seed in range(len(theirs))])
    # Values that are equal but for rounding must not count as different: 1e-4 is a fortieth of a level.
    apart = {
        name: p
        for name, a, b in zip(STATISTICS, np.round(ours.T, 4), np.round(theirs.T, 4), strict=True)
        if np.ptp(np.concatenate([a, b])) > 2e-4 and (p := ks_2samp(a, b, method="asymp").pvalue) < LEAST_P
    }
    assert not apart
