"""The comparison of a model with its network: what is measured, and how much is allowed."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from export.difference import Difference
from export.errors import ParityError
from export.parity import compare, require_parity, torch_outputs
from export.samples import batches_of_two_sizes, sample_batches

ALLOWED = [
    ("fp32", "LOGITS", 1e-3),
    ("fp32", "FEATURES", 1e-3),
    ("fp32", "ATTENTION", 1e-4),
    ("fp32", "SCORES_32", 1e-4),
    ("fp32", "BOXES_8", 1e-3),
    ("fp32", "LANDMARKS", 1e-3),
    ("fp16", "LOGITS", 5e-2),
    ("fp16", "FEATURES", 3e-2),
    ("fp16", "ATTENTION", 2e-2),
    ("fp16", "SCORES_16", 2e-2),
    ("fp16", "BOXES_16", 1e-2),
    ("fp16", "LANDMARKS_16", 1e-2),
    ("bf16", "LOGITS", 4e-1),
    ("bf16", "FEATURES", 2e-1),
    ("bf16", "ATTENTION", 1.6e-1),
    ("bf16", "SCORES_16", 1.6e-1),
    ("bf16", "BOXES_16", 8e-2),
    ("bf16", "LANDMARKS_16", 8e-2),
]


def floats(*values: float) -> NDArray[np.float32]:
    return np.array([values], np.float32)


def differences(name: str, expected: NDArray[np.generic], actual: NDArray[np.generic], precision: str = "fp32"):  # type: ignore[no-untyped-def]
    return compare([name], {"scene": (expected,)}, {"scene": (actual,)}, precision)


@pytest.mark.parametrize(("precision", "name", "allowed"), ALLOWED)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_tolerance_of_each_output(precision: str, name: str, allowed: float, sign: int) -> None:
    """Both logits move together, so that the probability stays; values up to 1 do not widen the tolerance."""
    expected = floats(0.5, 0.5)
    within, beyond = (expected + np.float32(sign * factor * allowed) for factor in (0.97, 1.03))
    require_parity("model", differences(name, expected, within, precision))
    with pytest.raises(ParityError, match=rf"model: .* {name} on scene by .*, {allowed:.2g} is allowed"):
        require_parity("model", differences(name, expected, beyond, precision))


@pytest.mark.parametrize("size", [-40.0, 40.0])
def test_large_values_widen_the_tolerance_by_their_size(size: float) -> None:
    expected = floats(size, 0)
    require_parity("model", differences("FEATURES", expected, expected + np.float32(0.97 * 40e-3)))
    with pytest.raises(ParityError):
        require_parity("model", differences("FEATURES", expected, expected + np.float32(1.03 * 40e-3)))


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-3), ("fp16", 2e-2), ("bf16", 8e-2)])
def test_large_logits_do_not_widen_the_tolerance_of_the_probability(precision: str, allowed: float) -> None:
    """A logit may be off by a thousandth of 100; the probability that is voted on may not."""
    expected = floats(100, 100)
    for factor, fine in ((0.97, True), (1.03, False)):
        actual = expected + floats(0, 4 * factor * allowed)  # a probability at 0.5 moves by a quarter of it
        found = {each.output: each for each in differences("LOGITS", expected, actual, precision)}
        assert found["LOGITS"].within
        assert found["PROBABILITY"].within is fine
        assert found["PROBABILITY"].tolerance == allowed


def test_restored_pixels_may_be_off_by_one_level() -> None:
    expected = np.array([[0, 100, 255]], np.uint8)
    require_parity("model", differences("RESTORED", expected, np.array([[1, 99, 254]], np.uint8)))
    for other in ([2, 100, 255], [0, 100, 253]):
        with pytest.raises(ParityError, match="RESTORED on scene by 2"):
            require_parity("model", differences("RESTORED", expected, np.array([other], np.uint8)))


def test_one_class_in_a_thousand_may_be_another() -> None:
    expected = np.zeros((1, 2000), np.uint8)
    for others, fine in ((2, True), (3, False)):
        actual = expected.copy()
        actual[0, :others] = 18
        (difference,) = differences("CLASSES", expected, actual)
        assert difference.largest == others / 2000
        assert difference.within is fine


def test_the_largest_difference_of_all_images_counts() -> None:
    expected = np.zeros((3, 2), np.float32)
    actual = expected.copy()
    actual[2, 1] = -0.25
    (difference,) = differences("FEATURES", expected, actual)
    assert difference == Difference("scene", 3, "FEATURES", 0.25, 1e-3)


def test_values_of_the_model_itself_widen_no_tolerance() -> None:
    """Else a model would be the freer the farther it is off."""
    (difference,) = differences("FEATURES", floats(1, 1), floats(1, -400))
    assert (difference.largest, difference.tolerance) == (401, 1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["expected", "actual", "both"])
def test_what_is_not_finite_is_no_parity(value: float, side: str) -> None:
    good, bad = floats(0, 0), floats(value, 0)
    expected, actual = {"expected": (bad, good), "actual": (good, bad), "both": (bad, bad)}[side]
    with pytest.raises(ParityError), np.errstate(invalid="ignore"):
        require_parity("model", differences("FEATURES", expected, actual))


def test_another_shape_or_type_is_told() -> None:
    with pytest.raises(ParityError, match=r"FEATURES is float32 of shape \(1, 3\), not float32 of \(1, 2\)"):
        differences("FEATURES", floats(0, 0), floats(0, 0, 0))
    with pytest.raises(ParityError, match="FEATURES is float64"):
        differences("FEATURES", floats(0, 0), floats(0, 0).astype(np.float64))


def test_an_output_too_many_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare(["FEATURES"], {"scene": (floats(0),)}, {"scene": (floats(0), floats(0))})


def test_every_batch_and_output_is_compared_and_all_faults_are_listed() -> None:
    expected = {"one": (floats(0, 0), floats(0)), "two": (floats(0, 0), floats(0))}
    actual = {"one": (floats(0, 0), floats(1)), "two": (floats(0, 2), floats(0))}
    found = compare(["LOGITS", "FEATURES"], expected, actual)
    assert [(each.pixels, each.output) for each in found] == [
        (pixels, output) for pixels in ("one", "two") for output in ("LOGITS", "PROBABILITY", "FEATURES")
    ]
    with pytest.raises(ParityError) as raised:
        require_parity("model", found)
    assert raised.value.differences == tuple(found)
    message = str(raised.value)
    assert "FEATURES on one by 1, 0.001 is allowed; LOGITS on two by 2" in message
    assert "PROBABILITY on two by 0.38, 0.001" in message
    assert "FEATURES on two" not in message


@pytest.mark.parametrize(
    ("precision", "advice"),
    [
        ("fp32", r"is allowed$"),
        ("fp16", "; export with --precision fp32$"),
        ("bf16", "; export with --precision fp16, "),
    ],
)
def test_the_error_says_which_precision_to_take(precision: str, advice: str) -> None:
    with pytest.raises(ParityError, match=advice):
        require_parity("model", differences("FEATURES", floats(0), floats(1), precision), precision)


def test_a_difference_as_large_as_allowed_is_within() -> None:
    assert Difference("scene", 1, "X", 1e-3, 1e-3).within
    assert not Difference("scene", 1, "X", float("nan"), 1e-3).within


class Doubles(nn.Module):
    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pixels.float() * 2, pixels.float().sum(dim=1)


def test_a_network_is_run_on_every_batch_without_touching_it() -> None:
    batches = {"a": np.full((2, 3), 4, np.uint8), "b": np.full((1, 3), 200, np.uint8)}
    outputs = torch_outputs(Doubles(), batches)
    np.testing.assert_array_equal(outputs["a"][0], np.full((2, 3), 8))
    np.testing.assert_array_equal(outputs["b"][1], [600])


def test_the_images_are_noise_photographs_and_both_at_once() -> None:
    batches = sample_batches(64)
    assert {name: batch.shape for name, batch in batches.items()} == {
        "random": (1, 64, 64, 3),
        "scene": (1, 64, 64, 3),
        "mixed": (3, 64, 64, 3),
    }
    assert all(batch.dtype == np.uint8 for batch in batches.values())
    steps = {name: float(np.abs(np.diff(batch[0].astype(int), axis=0)).mean()) for name, batch in batches.items()}
    assert steps["scene"] < 20 < 60 < steps["random"], "a photograph is smoother than noise"
    assert len(np.unique(batches["mixed"][2])) == 1
    for name, batch in sample_batches(64).items():
        np.testing.assert_array_equal(batch, batches[name])


def test_face_networks_are_tried_on_sides_that_are_multiples_of_the_strides_and_on_others() -> None:
    shapes = {name: batch.shape for name, batch in batches_of_two_sizes().items()}
    assert shapes == {"scene 96×128": (1, 96, 128, 3), "mixed 101×75": (3, 101, 75, 3)}
