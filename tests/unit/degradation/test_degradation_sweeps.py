"""Controlled sweeps: the method's levels, severity that rises with them, and nothing else that changes."""

import io

import numpy as np
import PIL.Image
import pytest

from degradation import SWEEPS, Settings, degrade, from_bytes, generator, to_bytes
from degradation.compression import encode_jpeg
from degradation.noise import draw_normal_noise
from tests.golden import IMAGES, read_rgb

PHOTOGRAPHS = [read_rgb(path) for path in IMAGES]
STRENGTHS = (0, 0.2, 0.4, 0.6, 0.8, 1)
CLEAN_AT_ZERO = ("compound", "noise", "blur", "motion_blur", "mix")


def test_levels_are_those_of_the_method() -> None:
    assert {name: sweep.levels for name, sweep in SWEEPS.items()} == {
        "compound": (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
        "jpeg": (100, 80, 60, 40, 20, 10, 5),
        "noise": (0, 10, 20, 30, 40, 50, 60),
        "blur": STRENGTHS,
        "motion_blur": STRENGTHS,
        "mix": STRENGTHS,
    }
    assert all(name == sweep.name for name, sweep in SWEEPS.items())


@pytest.mark.parametrize("name", SWEEPS)
def test_bytes_and_floats_give_the_same_and_stay_as_they_were(name: str) -> None:
    sweep, image = SWEEPS[name], PHOTOGRAPHS[1]
    for level in sweep.levels[::3]:
        degraded = sweep.apply(image, level, 5)
        assert degraded.dtype == np.uint8
        assert degraded.shape == image.shape
        np.testing.assert_array_equal(degraded, sweep.apply(image.copy(), level, 5))
        floats = sweep.apply(from_bytes(image), level, 5)
        assert floats.dtype == np.float32
        np.testing.assert_array_equal(to_bytes(floats), degraded)
    np.testing.assert_array_equal(image, read_rgb(IMAGES[1]))


@pytest.mark.parametrize("name", CLEAN_AT_ZERO)
def test_level_zero_is_the_image(name: str) -> None:
    degraded = SWEEPS[name].apply(PHOTOGRAPHS[0], 0, 1)
    np.testing.assert_array_equal(degraded, PHOTOGRAPHS[0])
    assert not np.shares_memory(degraded, PHOTOGRAPHS[0])


@pytest.mark.parametrize("name", ["jpeg", "noise"])
def test_each_level_is_further_from_the_image(name: str) -> None:
    sweep = SWEEPS[name]
    for seed, image in enumerate(PHOTOGRAPHS):
        degraded = [sweep.apply(image, level, seed) for level in sweep.levels]
        errors = [float(((image.astype(np.float64) - other) ** 2).mean()) for other in degraded]
        assert errors == sorted(errors)
        assert errors[0] < errors[-1]


@pytest.mark.parametrize(("name", "least"), [("compound", 1.25), ("blur", 1.4), ("motion_blur", 2), ("mix", 1.5)])
def test_the_last_level_is_on_the_mean_worse_than_the_mildest(name: str, least: float) -> None:
    sweep = SWEEPS[name]
    mild, severe = (
        np.mean([np.square(sweep.apply(image, level, 3) - image.astype(float)) for image in PHOTOGRAPHS])
        for level in (sweep.levels[1], sweep.levels[-1])
    )
    assert severe > least * mild


def test_jpeg_sweep_has_exactly_that_quality() -> None:
    image = PHOTOGRAPHS[2]
    for level in SWEEPS["jpeg"].levels:
        decoded = PIL.Image.open(io.BytesIO(encode_jpeg(from_bytes(image), int(level))))
        np.testing.assert_allclose(SWEEPS["jpeg"].apply(image, level, 0).astype(int), np.asarray(decoded), atol=1)


def test_noise_sweep_has_exactly_that_sigma_and_one_pattern() -> None:
    grey = np.full((256, 256, 3), 0.5, np.float32)
    kinds = set()
    for seed in range(40):
        kind = draw_normal_noise(generator(seed), 10, 10).channels
        noises = {level: SWEEPS["noise"].apply(grey, level, seed) - np.float64(0.5) for level in (10, 20)}
        if kind not in kinds:
            np.testing.assert_allclose(2 * noises[10], noises[20], atol=5e-6)
        if kind == "independent" and kind not in kinds:
            for level, noise in noises.items():
                assert noise.std() * 255 == pytest.approx(level, rel=4.5 / np.sqrt(2 * noise.size))
        assert (np.ptp(noises[10], axis=2).max() < 1e-5) == (kind == "grey")
        kinds.add(kind)
    assert kinds == {"independent", "grey", "correlated"}


def test_compound_sweep_is_the_engine_with_everything_and_no_distractor() -> None:
    image = from_bytes(PHOTOGRAPHS[3])
    everything = Settings(global_p=1, op_p=1, strength=0.4, distractor=False)
    expected, steps = degrade(image, generator(77), everything)
    assert {"vignetting", "blur", "moire"} <= {step.name for step in steps}
    np.testing.assert_array_equal(SWEEPS["compound"].apply(image, 0.4, 77), expected)


def test_mix_differs_between_seeds() -> None:
    degraded = {SWEEPS["mix"].apply(PHOTOGRAPHS[0], 0.6, seed).tobytes() for seed in range(12)}
    assert len(degraded) == 12


def test_a_level_outside_the_sweep_is_refused() -> None:
    with pytest.raises(ValueError, match=r"quality is 3; the sweep jpeg goes from 100 to 5"):
        SWEEPS["jpeg"].apply(PHOTOGRAPHS[0], 3, 0)
    with pytest.raises(ValueError, match=r"strength is 1.1; the sweep mix goes from 0 to 1"):
        SWEEPS["mix"].apply(PHOTOGRAPHS[0], 1.1, 0)
    with pytest.raises(ValueError, match="shape"):
        SWEEPS["mix"].apply(PHOTOGRAPHS[0][..., 0], 0.5, 0)
