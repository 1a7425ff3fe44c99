"""The compound engine: its frequencies, its order, its promises on any image, and its refusals."""

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from degradation import (
    OPERATIONS,
    Settings,
    Step,
    apply_steps,
    degrade,
    degrade_once,
    draw_steps,
    from_bytes,
    generator,
)
from degradation.compression import JpegCompression
from degradation.distractors import ThumbnailDistractor, draw_distractor
from degradation.engine import LARGEST_SCALE, LONGEST_SIDE, RESTORE
from degradation.pixels import GRID, Image, on_grid, settle, to_bytes, truncated
from degradation.resampling import Resize, Restore, scaled
from tests.golden import IMAGES, read_rgb
from tests.unit.degradation.test_degradation_draws import assert_frequency

PHOTOGRAPH = from_bytes(read_rgb(IMAGES[0]))
CHAINS = 3000
SIZE = (252, 252)
ALWAYS = Settings(global_p=1)
EVERYTHING = Settings(global_p=1, op_p=1, strength=0, distractor=False)
"""Every operation in every chain: at strength 0 banding never sits out."""

IMAGES_OF_ANY_SIZE = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)), elements=st.floats(0, 1, width=32)
)


@cache
def chains(settings: Settings, count: int = CHAINS) -> list[list[Step]]:
    rng = generator(99)
    return [draw_steps(rng, settings, SIZE) for _ in range(count)]


def cycles(chain: list[Step]) -> int:
    """Number of JPEG and resize cycles that a chain of every operation but the distractor starts with."""
    return (len(chain) - len(OPERATIONS)) // 2


def test_an_image_is_degraded_at_all_with_global_p() -> None:
    assert_frequency(sum(map(bool, chains(Settings()))), CHAINS, 0.5)
    assert_frequency(sum(map(bool, chains(Settings(global_p=0.2, op_p=1), 1000))), 1000, 0.2)
    assert not any(chains(Settings(global_p=0), 500))


def test_each_operation_is_applied_with_op_p() -> None:
    drawn = chains(ALWAYS)
    names = Counter(name for chain in drawn for name in {step.name for step in chain})
    for name in OPERATIONS.keys() - {"jpeg", "resize", "banding", "distractor"}:
        assert_frequency(names[name], CHAINS, 0.3)
    for name in ("jpeg", "resize"):  # Of their own accord, or in the cycles.
        assert_frequency(names[name], CHAINS, 1 - 0.7 * 0.7)
    assert_frequency(names["banding"], CHAINS, 0.3 * 0.5)  # 1 − s, whose mean is a half.
    assert_frequency(names["distractor"], CHAINS, 0.3 * 0.15 * 0.9)  # There are no thumbnails.
    assert names[RESTORE] == CHAINS


def test_cycles_alternate_either_first_and_come_one_to_five_times() -> None:
    drawn = chains(EVERYTHING)
    counts = Counter(cycles(chain) for chain in drawn)
    assert set(counts) == {1, 2, 3, 4, 5}
    for count in counts.values():
        assert_frequency(count, CHAINS, 0.2)
    assert_frequency(sum(chain[0].name == "jpeg" for chain in drawn), CHAINS, 0.5)
    for chain in drawn[:500]:
        names = [step.name for step in chain[: 2 * cycles(chain)]]
        assert names == (["jpeg", "resize"] if names[0] == "jpeg" else ["resize", "jpeg"]) * cycles(chain)
        assert chain[-1].name == RESTORE
        rest = [step.name for step in chain[2 * cycles(chain) : -1]]
        assert sorted([*rest, "distractor"]) == sorted(OPERATIONS)


def test_cycles_come_with_op_p() -> None:
    drawn = chains(Settings(global_p=1, op_p=0.3, strength=0))
    # A chain that repeats JPEG or resize, or has both and one of them first, may have cycles; two of one surely has.
    repeated = sum(max(Counter(step.name for step in chain).values(), default=0) > 1 for chain in drawn)
    assert_frequency(repeated, CHAINS, 0.3 * (0.8 + 0.2 * (1 - 0.7 * 0.7)))


def test_the_order_is_uniform() -> None:
    drawn = chains(EVERYTHING)
    for name in ("blur", "vignetting", "glitch"):
        places = Counter([step.name for step in chain[2 * cycles(chain) :]].index(name) for chain in drawn)
        assert set(places) == set(range(14))
        for count in places.values():
            assert_frequency(count, CHAINS, 1 / 14)


def test_the_resizes_of_the_cycles_share_one_strength() -> None:
    spread = 0
    for chain in chains(ALWAYS):
        strengths = [step.strength for step in chain if step.name == "resize"]
        if len(strengths) > 2:  # the last one may be of operation 3
            assert len(set(strengths[:-1])) == 1
            spread += 1
    assert spread > 100


def test_the_last_step_restores_the_size_by_one_of_three_interpolations() -> None:
    last = [chain[-1].operation for chain in chains(ALWAYS)]
    assert all(isinstance(each, Restore) and (each.height, each.width) == SIZE for each in last)
    counts = Counter(each.interpolation for each in last if isinstance(each, Restore))
    assert set(counts) == {"linear", "cubic", "area"}
    for count in counts.values():
        assert_frequency(count, CHAINS, 1 / 3)


def test_small_images_are_not_resized_in_the_cycles_but_by_operation_3() -> None:
    for seed in range(300):
        chain = draw_steps(generator(seed), Settings(global_p=1, op_p=1, strength=1), (10, 400))
        assert sum(step.name == "resize" for step in chain) == 1
    sides = []
    for seed in range(300):
        side = 20
        for step in draw_steps(generator(seed), Settings(global_p=1, op_p=1, strength=1), (20, 20)):
            if isinstance(step.operation, Resize):
                sides.append(side)
                side = scaled(side, step.operation.factor)
    assert min(sides) < 10 < max(sides)


def test_strengths_follow_the_beta_distribution_or_are_fixed() -> None:
    free = OPERATIONS.keys() - {"banding", "jpeg", "resize"}
    strengths = np.array([step.strength for chain in chains(ALWAYS) for step in chain if step.name in free])
    variance = 1 / (4 * 3.4)  # ab/((a+b)²(a+b+1)) with a = b = 1.2
    assert abs(strengths.mean() - 0.5) < 4.5 * np.sqrt(variance / len(strengths))
    assert abs(strengths.var() - variance) < 4.5 * variance * np.sqrt(2 / len(strengths))
    assert {step.strength for chain in chains(Settings(global_p=1, strength=0.7), 200) for step in chain[:-1]} == {0.7}


def test_a_fixed_strength_leaves_the_chain_of_a_seed_as_it_is() -> None:
    missing = ("banding", "resize")  # the first by chance, the second where the cycles left a tiny image
    for seed in range(50):
        drawn = [
            draw_steps(generator(seed), Settings(global_p=1, op_p=1, strength=strength, distractor=False), SIZE)
            for strength in (0.0, 0.3, 0.9)
        ]
        kinds = [[(s.name, type(s.operation)) for s in chain if s.name not in missing] for chain in drawn]
        assert kinds[0] == kinds[1] == kinds[2]
        qualities = [[s.operation for s in chain if s.name == "jpeg"] for chain in drawn]
        assert qualities[0] == qualities[1] == qualities[2]


def test_no_chain_enlarges_beyond_the_limit() -> None:
    largest = 0.0
    for chain in chains(EVERYTHING):
        scale = 1.0
        for step in chain:
            if isinstance(step.operation, Resize):
                scale *= step.operation.factor
            largest = max(largest, scale)
    assert largest == pytest.approx(LARGEST_SCALE)


@settings(max_examples=30, deadline=None)
@given(IMAGES_OF_ANY_SIZE, st.integers(0, 2**32), st.sampled_from([None, 0.0, 1.0]))
def test_any_image_gives_one_of_its_shape_and_stays_as_it_was(image: Image, seed: int, strength: float | None) -> None:
    before = image.copy()
    everything = Settings(global_p=1, op_p=1, strength=strength)
    degraded, steps = degrade(image, generator(seed), everything, [image])
    assert degraded.dtype == np.float32
    assert degraded.shape == image.shape
    assert np.isfinite(degraded).all()
    np.testing.assert_array_equal(image, before)
    again, _ = degrade(image, generator(seed), everything, [image])
    np.testing.assert_array_equal(again, degraded)
    np.testing.assert_array_equal(apply_steps(image, steps), degraded)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=15, deadline=None)
@given(IMAGES_OF_ANY_SIZE, st.integers(0, 2**32), st.floats(0, 1))
def test_any_image_passes_any_operation(name: str, image: Image, seed: int, strength: float) -> None:
    before = image.copy()
    degraded = degrade_once(name, image, strength, generator(seed))
    assert degraded.dtype == np.float32
    assert degraded.shape == image.shape
    assert np.isfinite(degraded).all()
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(degrade_once(name, image, strength, generator(seed)), degraded)


def test_operations_work_on_read_only_images_and_return_new_ones() -> None:
    image = PHOTOGRAPH.copy()
    image.flags.writeable = False
    for name in OPERATIONS:
        degraded = degrade_once(name, image, 0.5, generator(1))
        assert degraded.flags.writeable
        assert not np.shares_memory(degraded, image)
    untouched, steps = degrade(image, generator(1), Settings(global_p=0))
    assert steps == []
    np.testing.assert_array_equal(untouched, image)
    assert not np.shares_memory(untouched, image)


def test_operations_see_the_size_that_resizes_left() -> None:
    half = Step("resize", 1.0, Resize(0.5, "nearest"))
    jpeg = Step("jpeg", 1.0, JpegCompression(30))
    image = PHOTOGRAPH[:100, :80]
    small = JpegCompression(30).apply(Resize(0.5, "nearest").apply(image))
    assert small.shape == (50, 40, 3)
    np.testing.assert_array_equal(apply_steps(image, [half, jpeg]), small)


def test_nothing_clips_after_the_size_is_restored() -> None:
    edge = np.zeros((8, 8, 3), np.float32)
    edge[:, 4:] = 1
    restored = Restore(32, 32, "cubic").apply(edge)
    assert restored.min() < -0.05
    assert restored.max() > 1.05
    assert (to_bytes(restored).min(), to_bytes(restored).max()) == (0, 255)
    same = Restore(8, 8, "cubic").apply(edge)
    np.testing.assert_array_equal(same, edge)
    assert not np.shares_memory(same, edge)


def test_whole_levels_survive_truncation_and_what_lies_outside_wraps_around() -> None:
    levels = from_bytes(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))
    np.testing.assert_array_equal(truncated(levels).ravel()[::3], np.arange(256))
    np.testing.assert_array_equal(truncated(on_grid(levels.astype(np.float64))).ravel()[::3], np.arange(256))
    outside = truncated(np.array([[[-0.19, 1.2, 0.999]]], np.float32))
    assert outside.tolist() == [[[208, 50, 254]]]


def test_thumbnails_come_from_the_images_given() -> None:
    rng = generator(4)
    pictures = [PHOTOGRAPH[:10], PHOTOGRAPH[:20]]
    pasted = [
        step.operation.picture
        for _ in range(3000)
        for step in draw_steps(rng, Settings(global_p=1, op_p=1), SIZE, pictures)
        if isinstance(step.operation, ThumbnailDistractor)
    ]
    assert {len(picture) for picture in pasted} == {10, 20}
    assert_frequency(len(pasted), 3000, 0.015)


@given(hnp.arrays(np.float64, (4, 5, 3), elements=st.floats(-2, 3)))
def test_settling_rounds_to_the_grid_and_once_only(values: npt.NDArray[np.float64]) -> None:
    settled = settle(values.copy())
    np.testing.assert_allclose(settled, np.clip(values, 0, 1), atol=0.51 / GRID)
    np.testing.assert_array_equal(settled * GRID, np.round(settled * GRID))
    np.testing.assert_array_equal(settle(settled.astype(np.float64)), settled)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_p": 1.5}, "global_p is 1.5; it must lie in"),
        ({"op_p": -0.1}, "op_p is -0.1"),
        ({"strength": float("nan")}, "strength is nan"),
    ],
)
def test_settings_outside_their_range_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), TypeError, "dtype uint8; float32"),
        (np.zeros((4, 4, 3)), TypeError, "dtype float64"),
        (np.zeros((4, 4), np.float32), ValueError, r"shape \(4, 4\)"),
        (np.zeros((4, 4, 4), np.float32), ValueError, r"shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.float32), ValueError, "at least one pixel"),
        (np.full((4, 4, 3), 1.5, np.float32), ValueError, r"values in \[1.5, 1.5\]"),
        (np.full((4, 4, 3), np.nan, np.float32), ValueError, r"values in \[nan, nan\]"),
        (
            np.zeros((1, LONGEST_SIDE + 1, 3), np.float32),
            ValueError,
            f"16001×1 pixels; the longest side is {LONGEST_SIDE}",
        ),
    ],
)
def test_what_is_no_image_is_refused(image: npt.NDArray[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        degrade(image, generator(0), ALWAYS)


def test_a_wrong_strength_and_a_wrong_thumbnail_are_refused() -> None:
    with pytest.raises(ValueError, match="strength is 2"):
        degrade_once("blur", PHOTOGRAPH, 2, generator(0))
    thumbnails: list[Any] = [np.zeros((4, 4, 3), np.uint8)]
    with pytest.raises(TypeError, match="dtype uint8"):  # One draw in 67 takes a thumbnail.
        _ = [draw_distractor(generator(seed), 0.5, SIZE, thumbnails) for seed in range(1000)]


def test_the_longest_side_survives_a_jpeg_at_the_largest_scale() -> None:
    image = np.zeros((1, LONGEST_SIDE, 3), np.float32)
    steps = [
        Step("resize", 0, Resize(LARGEST_SCALE, "linear")),
        Step("jpeg", 0, JpegCompression(50)),
        Step(RESTORE, 1, Restore(1, LONGEST_SIDE, "area")),
    ]
    assert apply_steps(image, steps).shape == image.shape
