"""Linear layers in FP8: rounded as E4M3 is, scaled by a calibration set, and taken by NVIDIA's builder."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.half import fp8
from export.half.arithmetic import HalfArithmetic
from export.half.conversion import to_half
from export.half.fp8 import LARGEST, calibrate, linear_products, to_fp8

E4M3 = ml_dtypes.float8_e4m3fn
WEIGHT = np.random.default_rng(3).standard_normal((8, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linear(tmp_path_factory.mktemp("fp8"))


def linear(folder: Path, factor: float = 1 / 16, weights: tuple[np.ndarray, ...] = (WEIGHT,)) -> Path:
    """PIXELS uint8 [batch, 8] → Y = the sum of (factor · PIXELS) · weight over the weights, in float32."""
    names = [f"product{index}" if index else "product" for index in range(len(weights))]
    nodes = [
        helper.make_node("Cast", ["PIXELS"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "factor"], ["x"]),
        *(helper.make_node("MatMul", ["x", f"{name}.weight"], [name]) for name in names),
        helper.make_node("Sum", names, ["sum"]),
        helper.make_node("Neg", ["sum"], ["negative"]),
        helper.make_node("Neg", ["negative"], ["Y"]),
    ]
    constants = {f"{name}.weight": weight for name, weight in zip(names, weights, strict=True)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("PIXELS", TensorProto.UINT8, ["batch", 8])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["batch", 4])],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in {"factor": np.float32(factor), **constants}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = folder / "model.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def eight_bit(single: Path, largest: dict[str, float]) -> HalfArithmetic:
    model = ir.load(single)
    to_half(model)
    to_fp8(model, largest)
    path = single.with_name("eight.onnx")
    ir.save(model, path)
    onnx.checker.check_model(path)
    return HalfArithmetic(path)


def rounded(values: np.ndarray, largest: float) -> np.ndarray:
    """What E4M3 keeps of values, by ml_dtypes."""
    scale = np.float32(np.float16(largest / LARGEST))
    return (values / scale).clip(-LARGEST, LARGEST).astype(E4M3).astype(np.float32) * scale


def test_the_largest_value_of_the_calibration_set_is_found(single: Path) -> None:
    quiet, loud = np.full((2, 8), 16, np.uint8), np.full((1, 8), 64, np.uint8)
    assert calibrate(single, [quiet]) == {"product": 1.0}
    assert calibrate(single, [quiet, loud, quiet]) == {"product": 4.0}
    assert sorted(path.name for path in single.parent.glob("calibration*")) == []


def test_the_largest_value_may_be_a_negative_one(tmp_path: Path) -> None:
    assert calibrate(linear(tmp_path, -1 / 16), [np.full((1, 8), 64, np.uint8)]) == {"product": 4.0}


def test_a_calibration_that_fails_leaves_nothing_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> None:
        raise RuntimeError(f"no memory for {path.name}")

    monkeypatch.setattr(fp8, "open_session", fails)
    model = linear(tmp_path)
    with pytest.raises(RuntimeError, match="no memory"):
        calibrate(model, [])
    assert list(tmp_path.iterdir()) == [model]


def test_layers_without_any_value_give_zeros(tmp_path: Path) -> None:
    """A scale of 0 would make 0/0 of them."""
    model = linear(tmp_path, 0.0, (np.zeros_like(WEIGHT),))
    pixels = np.full((1, 8), 64, np.uint8)
    (actual,), _ = eight_bit(model, calibrate(model, [pixels])).run(pixels)
    np.testing.assert_array_equal(actual, np.zeros((1, 4)))


def test_a_layer_s_largest_weight_may_be_a_negative_one_too(tmp_path: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (4, 8), np.uint8)
    outputs = []
    for name, weight in (("plain", WEIGHT), ("negated", -WEIGHT)):
        (tmp_path / name).mkdir()
        outputs.append(eight_bit(linear(tmp_path / name, weights=(weight,)), {"product": 16.0}).run(pixels)[0][0])
    np.testing.assert_array_equal(outputs[0], -outputs[1])


def test_what_several_layers_take_is_rounded_once_for_all(tmp_path: Path) -> None:
    model = ir.load(linear(tmp_path, weights=(WEIGHT, -2 * WEIGHT)))
    to_half(model)
    to_fp8(model, {"product": 4.0, "product1": 4.0})
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("QuantizeLinear") == 1
    assert kinds.count("DequantizeLinear") == 3, "of the values, and of each weight"
    kept = {
        value.dtype for value in model.graph.initializers.values() if value.shape is not None and value.shape.rank()
    }
    assert kept == {ir.DataType.FLOAT8E4M3FN}, "weights are kept in FP8 alone"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=8, max_size=8), st.sampled_from([1.0, 4.0, 16.0]))
def test_both_factors_are_rounded_to_e4m3(single: Path, pixels: list[int], largest: float) -> None:
    """Values over the calibrated largest one are cut off."""
    values = np.array([pixels], np.uint8)
    (actual,), _ = eight_bit(single, {"product": largest}).run(values)
    expected = rounded(values.astype(np.float32) / 16, largest) @ rounded(WEIGHT, float(np.abs(WEIGHT).max()))
    # Beside E4M3, what float16 rounds: scaled weights, and the product.
    np.testing.assert_allclose(actual, expected, rtol=4e-3, atol=4e-3 * largest)


def test_eight_bits_are_coarser_than_sixteen_and_near_enough_to_be_right(single: Path) -> None:
    values = np.random.default_rng(4).integers(0, 256, (64, 8), np.uint8)
    exact = values.astype(np.float32) / 16 @ WEIGHT
    (actual,), _ = eight_bit(single, calibrate(single, [values])).run(values)
    error = np.abs(actual - exact).max() / np.abs(exact).max()
    assert 2**-9 < error < 2**-3


def test_the_largest_value_is_that_of_the_type() -> None:
    assert float(ml_dtypes.finfo(E4M3).max) == LARGEST


def test_a_layer_that_was_not_calibrated_stays_in_float16(single: Path) -> None:
    model = ir.load(single)
    to_half(model)
    (product,) = linear_products(model.graph, ir.DataType.FLOAT16)
    to_fp8(model, {})
    assert linear_products(model.graph, ir.DataType.FLOAT16) == [product]
    assert not [node for node in model.graph if node.op_type == "QuantizeLinear"]
