"""Every random parameter of the degradations fills its range and never leaves it; branches come as often as stated."""

import math
import string
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from degradation.artefacts import Band, draw_aberration, draw_glitch, draw_moire
from degradation.blur import (
    AnisotropicGaussianBlur,
    BoxBlur,
    GaussianBlur,
    draw_blur,
    draw_motion_blur,
)
from degradation.colour import ChannelGains, Greyscale, Saturation, Tone, draw_colour, draw_tone, draw_vignetting
from degradation.compression import draw_banding, draw_chroma, draw_jpeg
from degradation.distractors import TextDistractor, ThumbnailDistractor, draw_distractor
from degradation.engine import OPERATIONS, Draw
from degradation.noise import (
    PoissonNoise,
    SaltAndPepperNoise,
    SpeckleNoise,
    draw_gaussian_noise,
    draw_sensor_noise,
)
from degradation.pixels import generator
from degradation.resampling import draw_resize

DRAWS = 6000
STRENGTHS = (0.0, 0.1, 0.5, 1.0)
THUMBNAIL = np.zeros((4, 4, 3), np.float32)


@cache
def drawn(draw: Draw, strength: float, count: int = DRAWS) -> list[Any]:
    rng = generator(20260701)
    return [draw(rng, strength) for _ in range(count)]


def assert_frequency(count: int, total: int, probability: float) -> None:
    """Within 4.5 standard deviations of the binomial (missed by chance once in 10⁵)."""
    assert abs(count - total * probability) <= 4.5 * math.sqrt(total * probability * (1 - probability))


def of_kind(kind: type, operations: list[Any]) -> list[Any]:
    return [operation for operation in operations if isinstance(operation, kind)]


def assert_fills(values: list[float], low: float, high: float, least: int = 700) -> None:
    """All values within the bounds, and some within 2 % of each (missed by chance once in 10⁶ with 700 values)."""
    assert len(values) >= least
    tolerance = 1e-12
    assert low - tolerance <= min(values) <= low + 0.02 * (high - low) + tolerance
    assert high - 0.02 * (high - low) - tolerance <= max(values) <= high + tolerance


Bounds = Callable[[float], tuple[float, float]]

FLOATS: dict[str, tuple[Draw, Callable[[list[Any]], list[float]], Bounds]] = {
    "anisotropic l1": (
        draw_blur,
        lambda ops: [op.variances[0] for op in of_kind(AnisotropicGaussianBlur, ops)],
        lambda s: (0, 30 * s),
    ),
    "anisotropic l2": (
        draw_blur,
        lambda ops: [op.variances[1] for op in of_kind(AnisotropicGaussianBlur, ops)],
        lambda s: (0, 30 * s),
    ),
    "anisotropic angle": (
        draw_blur,
        lambda ops: [op.angle for op in of_kind(AnisotropicGaussianBlur, ops)],
        lambda s: (0, math.pi),
    ),
    "isotropic sigma": (draw_blur, lambda ops: [op.sigma for op in of_kind(GaussianBlur, ops)], lambda s: (0, 30 * s)),
    "motion angle": (draw_motion_blur, lambda ops: [op.angle for op in ops], lambda s: (0, 180)),
    "Poisson log10 peak": (
        draw_sensor_noise,
        lambda ops: [math.log10(op.peak) for op in of_kind(PoissonNoise, ops)],
        lambda s: (2, 4),
    ),
    "enlarging factor": (
        draw_resize,
        lambda ops: [op.factor for op in ops if op.factor > 1],
        lambda s: (1, 2),
    ),
    "saturation": (
        draw_colour,
        lambda ops: [op.factor for op in of_kind(Saturation, ops)],
        lambda s: (0.1, max(0.2, 1 - s)),
    ),
    "channel gain": (
        draw_colour,
        lambda ops: [gain for op in of_kind(ChannelGains, ops) if op.gains != (0.8, 1.2, 0.8) for gain in op.gains],
        lambda s: (1 - 0.4 * s, 1 + 0.4 * s),
    ),
    "brightness before contrast": (
        draw_tone,
        lambda ops: [op.brightness for op in ops if None not in (op.contrast, op.brightness)],
        lambda s: (1, 1 + 1.5 * s),
    ),
    "moiré frequency": (draw_moire, lambda ops: [op.frequency for op in ops], lambda s: (0.5, 3)),
    "moiré angle": (draw_moire, lambda ops: [op.angle for op in ops], lambda s: (0, math.pi)),
}


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", FLOATS)
def test_a_continuous_parameter_fills_its_range(name: str, strength: float) -> None:
    draw, values, bounds = FLOATS[name]
    assert_fills(values(drawn(draw, strength)), *bounds(strength))


INTEGERS: dict[str, tuple[Draw, Callable[[list[Any]], set[int]], Callable[[float], set[int]]]] = {
    "isotropic size": (
        draw_blur,
        lambda ops: {op.size for op in of_kind(GaussianBlur, ops)},
        lambda s: set(range(7, 26, 2)),
    ),
    "box side": (
        draw_blur,
        lambda ops: {op.side for op in of_kind(BoxBlur, ops)},
        lambda s: set(range(3, max(3, int(30 * s)) + 1)),
    ),
    "motion size": (
        draw_motion_blur,
        lambda ops: {op.size for op in ops},
        lambda s: {{0.0: 3, 0.1: 3, 0.5: 7, 1.0: 13}[s]},
    ),
    "JPEG quality": (draw_jpeg, lambda ops: {op.quality for op in ops}, lambda s: set(range(10, 96))),
    "banding levels": (
        draw_banding,
        lambda ops: {op.levels for op in ops if op},
        lambda s: {0.0: {32}, 0.1: {30}, 0.5: {25}, 1.0: set()}[s],
    ),
    "aberration": (
        draw_aberration,
        lambda ops: {op.shift for op in ops},
        lambda s: {{0.0: 1, 0.1: 1, 0.5: 2, 1.0: 4}[s]},
    ),
    "glitch bands": (draw_glitch, lambda ops: {len(op.bands) for op in ops}, lambda s: {int(10 * s)}),
    "glitch rows": (
        draw_glitch,
        lambda ops: {band.rows for op in ops for band in op.bands},
        lambda s: set(range(1, max(2, int(8 * s)) + 1)) if s else set(),
    ),
    "glitch roll": (
        draw_glitch,
        lambda ops: {band.shift for op in ops for band in op.bands if band.level is None},
        lambda s: set(range(-int(30 * s), int(30 * s) + 1)) if s else set(),
    ),
}


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_parameter_takes_each_of_its_values(name: str, strength: float) -> None:
    draw, values, expected = INTEGERS[name]
    assert values(drawn(draw, strength)) == expected(strength)


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_noise_levels_are_whole_numbers_times_strength(strength: float) -> None:
    speckle = np.array([op.sigma for op in of_kind(SpeckleNoise, drawn(draw_sensor_noise, strength))])
    gaussian = np.array([op.sigma for op in drawn(draw_gaussian_noise, strength)])
    for sigma, least, most in ((speckle, 2, 25), (gaussian, 2, 100)):
        levels = sigma * 255 / strength
        np.testing.assert_allclose(levels, np.round(levels), rtol=1e-12)
        assert set(np.round(levels)) == set(range(least, most + 1))
    assert_frequency(int(np.sum(gaussian * 255 / strength < 59.5)), DRAWS, 0.2 * 58 / 99)


@pytest.mark.parametrize("draw", [draw_sensor_noise, draw_gaussian_noise])
def test_no_strength_is_no_normal_noise(draw: Draw) -> None:
    for operation in drawn(draw, 0.0, 500):
        assert isinstance(operation, PoissonNoise) or getattr(operation, "sigma", 0) == 0


@pytest.mark.parametrize(
    ("strength", "low"),
    [(0.0, 1.0), (5e-324, 1.0), (0.1, 1.0), (0.25, 1.0), (0.3, 0.25 / 0.3), (0.5, 0.5), (1.0, 0.25)],
)
def test_a_shrinking_factor_is_at_least_a_quarter_over_strength(strength: float, low: float) -> None:
    factors = [op.factor for op in drawn(draw_resize, strength) if op.factor <= 1]
    assert min(factors) >= low
    assert max(factors) == 1.0
    assert min(factors) <= low + 0.02 * (1 - low)


def test_darkening_reaches_its_bound_at_full_strength() -> None:
    tones: list[Tone] = drawn(draw_tone, 1.0, 30_000)
    assert_fills([op.brightness for op in tones if op.brightness is not None and op.contrast is None], 0.02, 1.5)
    assert_fills([op.contrast for op in tones if op.contrast is not None and op.brightness is None], 0.5, 1.5)
    both = [(op.brightness, op.contrast) for op in tones if op.brightness is not None and op.contrast is not None]
    assert_fills([brightness for brightness, _ in both], 1, 2.5)
    assert_fills([contrast for _, contrast in both], 0.1, 0.8)


def test_moire_vignetting_and_salt_grow_with_strength() -> None:
    for strength in STRENGTHS:
        assert {op.alpha for op in drawn(draw_moire, strength, 3)} == {0.15 * strength}
        assert {op.falloff for op in drawn(draw_vignetting, strength, 3)} == {0.4 + 0.4 * strength}
        salted = of_kind(SaltAndPepperNoise, drawn(draw_sensor_noise, strength, 50))
        assert {op.share for op in salted} == {0.1 * strength}


def test_distractor_parameters_fill_their_ranges() -> None:
    rng = generator(5)
    draws = [draw_distractor(rng, 0.5, (300, 200), [THUMBNAIL]) for _ in range(60_000)]
    texts = of_kind(TextDistractor, draws)
    thumbnails = of_kind(ThumbnailDistractor, draws)
    assert {len(op.text) for op in texts} == set(range(11))
    assert set("".join(op.text for op in texts)) == set(string.printable)
    assert {op.thickness for op in texts} == set(range(1, 9))
    assert {op.font for op in texts} == set(range(8))
    assert {op.line for op in texts} == {0, 1, 2}
    assert {op.left for op in texts} == set(range(-100, 201))
    assert {op.bottom for op in texts} == set(range(401))
    assert {op.width for op in thumbnails} == set(range(20, 101))
    assert_fills([op.height / op.width for op in thumbnails if op.width > 80], 0.79, 1.2, least=150)
    assert {op.interpolation for op in thumbnails} == {"linear", "cubic", "area"}
    assert_fills([op.scale for op in texts], 0, 8)
    assert_fills([channel for op in texts for channel in op.colour], 0, 1)
    for place in ([op.left for op in thumbnails], [op.top for op in thumbnails]):
        assert_fills(place, 0, 1)
    assert_frequency(len(texts) + len(thumbnails), len(draws), 0.15)
    assert_frequency(len(thumbnails), len(texts) + len(thumbnails), 0.1)


def test_without_thumbnails_their_cases_stay_as_they_are() -> None:
    draws = [op for op in drawn(draw_distractor, 0.5) if op]
    assert of_kind(TextDistractor, draws) == draws
    assert_frequency(len(draws), DRAWS, 0.15 * 0.9)


FREQUENCIES: dict[str, tuple[Draw, float, Callable[[Any], bool], float]] = {
    "anisotropic blur": (draw_blur, 0.5, lambda op: isinstance(op, AnisotropicGaussianBlur), 1 / 3),
    "box blur": (draw_blur, 0.5, lambda op: isinstance(op, BoxBlur), 1 / 3),
    "speckle": (draw_sensor_noise, 0.5, lambda op: isinstance(op, SpeckleNoise), 0.33),
    "Poisson": (draw_sensor_noise, 0.5, lambda op: isinstance(op, PoissonNoise), 0.33),
    "grey Poisson": (draw_sensor_noise, 0.5, lambda op: getattr(op, "grey", False), 0.165),
    "speckle per channel": (draw_sensor_noise, 0.5, lambda op: getattr(op, "channels", "") == "independent", 0.132),
    "grey speckle": (draw_sensor_noise, 0.5, lambda op: getattr(op, "channels", "") == "grey", 0.132),
    "Gaussian per channel": (draw_gaussian_noise, 0.5, lambda op: op.channels == "independent", 0.7),
    "grey Gaussian": (draw_gaussian_noise, 0.5, lambda op: op.channels == "grey", 0.2),
    "enlarged": (draw_resize, 1.0, lambda op: op.factor > 1, 0.2),
    "size unchanged": (draw_resize, 1.0, lambda op: op.factor == 1, 0.1),
    "shrunk by nearest": (draw_resize, 1.0, lambda op: op.factor < 1 and op.interpolation == "nearest", 0.35),
    "shrunk by area": (draw_resize, 1.0, lambda op: op.factor < 1 and op.interpolation == "area", 0.35 / 3),
    "enlarged by cubic": (draw_resize, 1.0, lambda op: op.factor > 1 and op.interpolation == "cubic", 0.2 / 3),
    "enlarged by nearest": (draw_resize, 1.0, lambda op: op.factor >= 1 and op.interpolation == "nearest", 0.0),
    "greyscale": (draw_colour, 0.5, lambda op: op == Greyscale(), 0.2),
    "saturation": (draw_colour, 0.5, lambda op: isinstance(op, Saturation), 0.24),
    "fixed cast": (draw_colour, 0.5, lambda op: op == ChannelGains((0.8, 1.2, 0.8)), 0.112),
    "banding, weak": (draw_banding, 0.2, bool, 0.8),
    "banding, strong": (draw_banding, 0.9, bool, 0.1),
    "brighter and flatter": (draw_tone, 0.5, lambda op: None not in (op.brightness, op.contrast), 0.45),
    "contrast alone": (draw_tone, 0.5, lambda op: op.brightness is None, 0.05),
    "flat band": (draw_glitch, 0.1, lambda op: op.bands[0].level is not None, 0.4),
    "black band": (draw_glitch, 0.1, lambda op: op.bands[0].level == 0, 0.4 / 3),
    "white band": (draw_glitch, 0.1, lambda op: op.bands[0].level == 1, 0.4 / 3),
}


@pytest.mark.parametrize("name", FREQUENCIES)
def test_a_branch_is_taken_as_often_as_stated(name: str) -> None:
    draw, strength, taken, probability = FREQUENCIES[name]
    assert_frequency(sum(map(taken, drawn(draw, strength))), DRAWS, probability)


def test_grey_bands_lie_between_a_fifth_and_four_fifths() -> None:
    bands: list[Band] = [band for op in drawn(draw_glitch, 1.0) for band in op.bands]
    assert_fills([band.level for band in bands if band.level and band.level < 1], 0.2, 0.8)
    assert_fills([band.top for band in bands], 0, 1)


@pytest.mark.parametrize(("draw", "most"), [(draw_sensor_noise, 25), (draw_gaussian_noise, 100)])
def test_correlated_noise_has_the_scale_of_the_strongest(draw: Draw, most: int) -> None:
    scales = {op.scale for op in drawn(draw, 0.5) if getattr(op, "channels", "") == "correlated"}
    assert scales == {most * 0.5 / 255}


def test_chroma_subsampling_has_nothing_to_draw() -> None:
    assert set(drawn(draw_chroma, 0.3, 5)) == {OPERATIONS["chroma_subsampling"](generator(9), 1.0)}
