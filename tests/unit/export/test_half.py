"""Float16 exports: what is computed in which type, true half arithmetic, and overflow, which must not get through."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ensemble.streams import GLOBAL_TEXTURE, SEMANTIC_FUSION, Stream
from export import StreamExport, export_stream
from export.errors import HalfRangeError
from export.half import arithmetic
from export.half.arithmetic import STREAM, HalfArithmetic, Range, require_range, widest
from export.half.conversion import LARGEST, to_half
from export.onnx.graph import to_onnx
from export.onnx.interface import Interface


@pytest.fixture(scope="module")
def exports(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Stream, StreamExport]:
    return {
        stream: export_stream(
            stream, tiny / stream.checkpoint, tmp_path_factory.mktemp(stream.name), precision="fp16", inline_limit=limit
        )
        for stream, limit in ((GLOBAL_TEXTURE, 2**30), (SEMANTIC_FUSION, 0))
    }


# Types


@pytest.mark.parametrize("stream", [GLOBAL_TEXTURE, SEMANTIC_FUSION], ids=lambda stream: stream.name)
def test_products_are_in_half_and_what_half_would_spoil_is_in_single(
    stream: Stream, exports: dict[Stream, StreamExport]
) -> None:
    graph = ir.load(exports[stream].files[0]).graph
    assert [value.dtype for value in graph.inputs] == [ir.DataType.UINT8]
    assert {value.name: value.dtype for value in graph.outputs} == dict.fromkeys(
        ("LOGITS", "FEATURES", "ATTENTION"), ir.DataType.FLOAT
    )
    for node in graph:
        types = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None} - {ir.DataType.INT64}
        if node.op_type in ("MatMul", "Conv", "Softmax"):
            assert types == {ir.DataType.FLOAT16}, node
        if node.op_type in ("LayerNormalization", "Gemm", "ReduceMean", "Erf"):
            assert types == {ir.DataType.FLOAT}, node
        computed = [value for value in node.inputs if value is not None and not value.is_initializer()]
        if node.op_type == "Add" and len(computed) == 2:
            assert types == {ir.DataType.FLOAT}, "the residual stream is not in single"
        if any(value is not None and "lambda1" in str(value.name) for value in node.inputs):
            assert types == {ir.DataType.FLOAT}, "LayerScale is not in single"


def test_attention_is_the_pattern_that_tensorrt_fuses(exports: dict[Stream, StreamExport]) -> None:
    """MatMul, Softmax, MatMul with nothing in between; the scale comes before (NVIDIA's page on fused attention)."""
    graph = ir.load(exports[GLOBAL_TEXTURE].files[0]).graph
    softmaxes = [node for node in graph if node.op_type == "Softmax"]
    assert len(softmaxes) == 2
    for softmax in softmaxes:
        scores = softmax.inputs[0]
        assert scores is not None
        producer = scores.producer()
        assert producer is not None
        assert producer.op_type == "MatMul"
        assert "MatMul" in {reader.op_type for reader, _ in softmax.outputs[0].uses()}


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_half_is_what_lies_between_products_alone(dtype: ir.DataType) -> None:
    """Each rule on a graph of one node of its kind."""
    weights = {"w": (4, 4), "v": (4, 4), "bias": (4,), "gain": (4,), "scale": (1,)}
    nodes = [
        helper.make_node("Cast", ["PIXELS"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["x"], ["before"]),  # nothing before a product is in half
        helper.make_node("MatMul", ["before", "w"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["biased"]),
        helper.make_node("Mul", ["biased", "scale"], ["scaled"]),  # by one number
        helper.make_node("Softmax", ["scaled"], ["shares"]),
        helper.make_node("MatMul", ["shares", "v"], ["second"]),
        helper.make_node("Add", ["second", "product"], ["both"]),  # two halves
        helper.make_node("Add", ["both", "x"], ["stream"]),  # a half and a single
        helper.make_node("Mul", ["second", "gain"], ["gained"]),  # a gain for each channel: LayerScale
        helper.make_node("Exp", ["second"], ["other"]),  # what is not named
        helper.make_node("Sum", ["stream", "gained", "other"], ["sum"]),
        helper.make_node("MatMul", ["sum", "w"], ["OUT"]),  # an output
    ]
    graph = helper.make_graph(
        nodes,
        "rules",
        [helper.make_tensor_value_info("PIXELS", TensorProto.UINT8, ["batch", 4])],
        [helper.make_tensor_value_info("OUT", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = ir.passes.common.ShapeInferencePass()(ir.from_proto(proto)).model
    to_half(model, dtype)
    types = {str(output.name): output.dtype for node in model.graph for output in node.outputs}
    half = {"product", "biased", "scaled", "shares", "second", "both"}
    single = {"x", "before", "stream", "gained", "other", "sum", "OUT"}
    assert {name for name in half | single if types[name] is dtype} == half
    assert {name for name in half | single if types[name] is ir.DataType.FLOAT} == single
    kept = {str(name): value.dtype for name, value in model.graph.initializers.items()}
    # `w` is read by a product in half and by one in single; `gain` by single alone; what nothing reads is gone.
    assert kept == {
        "w": ir.DataType.FLOAT,
        "gain": ir.DataType.FLOAT,
        **dict.fromkeys(("w_half", "v_half", "bias_half", "scale_half"), dtype),
    }
    casts = [node for node in model.graph if node.op_type == "Cast" and node.outputs[0].dtype is ir.DataType.FLOAT]
    assert len(casts) == 3, "PIXELS, and one for all readers of each half that single reads: both, second"


def model_of(nodes: list[onnx.NodeProto], outputs: list[str], constants: dict[str, np.ndarray]) -> ir.Model:  # type: ignore[type-arg]
    """A graph from PIXELS uint8 [1, 4, 4, 4], its types and shapes inferred."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("PIXELS", TensorProto.UINT8, [1, 4, 4, 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ir.passes.common.ShapeInferencePass()(ir.from_proto(proto)).model


AFTER_A_PRODUCT = [
    ("Concat", ["product", "product"], {"axis": 1}, True),
    ("Gather", ["product", "first"], {}, True),
    ("Gather", ["table", "first"], {}, False),  # nothing that was computed in half
    ("MaxPool", ["product"], {"kernel_shape": [2, 2]}, True),
    ("Relu", ["product"], {}, True),
    ("Reshape", ["product", "shape"], {}, True),
    ("Resize", ["product", "", "scales"], {}, True),
    ("Sigmoid", ["product"], {}, True),
    ("Slice", ["product", "first", "second"], {}, True),
    ("Split", ["product"], {"num_outputs": 1}, True),
    ("Transpose", ["product"], {}, True),
    ("Erf", ["product"], {}, False),
    ("Div", ["product", "product"], {}, False),
    ("ReduceMean", ["product"], {}, False),
    ("ReduceSum", ["product"], {}, False),
    ("InstanceNormalization", ["product", "gain", "gain"], {}, False),
]


@pytest.mark.parametrize(("kind", "inputs", "attributes", "half"), AFTER_A_PRODUCT)
def test_after_a_product_only_what_adds_no_error_of_its_own_stays_in_half(
    kind: str, inputs: list[str], attributes: dict[str, object], half: bool
) -> None:
    constants = {
        "kernel": np.ones((4, 4, 1, 1), np.float32),
        "table": np.ones((4, 4), np.float32),
        "gain": np.ones(4, np.float32),
        "scales": np.ones(4, np.float32),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "shape": np.array([1, -1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["PIXELS"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "kernel"], ["product"]),
        helper.make_node(kind, inputs, ["y"], **attributes),
        helper.make_node("Neg", ["y"], ["OUT"]),
        helper.make_node("Neg", ["product"], ["OTHER"]),
    ]
    model = model_of(nodes, ["OUT", "OTHER"], constants)
    to_half(model)
    types = {output.name: output.dtype for node in model.graph for output in node.outputs}
    assert types["product"] is ir.DataType.FLOAT16
    assert types["y"] is (ir.DataType.FLOAT16 if half else ir.DataType.FLOAT)


@pytest.mark.parametrize(
    ("kernel", "strides", "brain"),
    [
        ((2, 2), [2, 2], False),  # from patch to patch: bfloat16 would spoil it
        ((2, 2), [1, 1], True),
        ((2, 2), None, True),
        ((1, 1), [1, 1], True),
        ((2, 1), [2, 1], False),
        ((2, 1), [1, 1], True),
    ],
)
def test_only_a_projection_of_patches_stays_in_single_and_only_in_bfloat16(
    kernel: tuple[int, int], strides: list[int] | None, brain: bool
) -> None:
    nodes = [
        helper.make_node("Cast", ["PIXELS"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "kernel"], ["product"], **({"strides": strides} if strides else {})),
        helper.make_node("Neg", ["product"], ["OUT"]),
    ]
    for dtype, half in ((ir.DataType.FLOAT16, True), (ir.DataType.BFLOAT16, brain)):
        model = model_of(nodes, ["OUT"], {"kernel": np.ones((4, 4, *kernel), np.float32)})
        to_half(model, dtype)
        (product,) = (node.outputs[0] for node in model.graph if node.op_type == "Conv")
        assert product.dtype is (dtype if half else ir.DataType.FLOAT)


def test_a_half_model_is_half_as_large_and_says_what_it_is(exports: dict[Stream, StreamExport], tiny: Path) -> None:
    for stream, export in exports.items():
        shares = ir.load(export.files[0]).graph.initializers.values()
        weights = [value for value in shares if value.const_value is not None and value.const_value.size > 1000]
        large = [value for value in weights if "position" not in str(value.name) and "head" not in str(value.name)]
        assert all(value.dtype is ir.DataType.FLOAT16 for value in large), [str(value.name) for value in large]
        metadata = onnxruntime.InferenceSession(export.files[0]).get_modelmeta().custom_metadata_map
        assert metadata["precision"] == export.precision == "fp16"
        beside = ["model.onnx.data"] if stream.has_clip else []
        assert [file.name for file in export.files][1:] == [*beside, "model.fused.onnx"]
        assert sorted(export.files[0].parent.iterdir()) == sorted(export.files), "a file is left over"


# Arithmetic


def matrix_product(folder: Path, weight: np.ndarray) -> Path:  # type: ignore[type-arg]
    """A model in half: pixels through a matrix, then through its transpose."""
    nodes = [
        helper.make_node("Cast", ["PIXELS"], ["x"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Softmax", ["y"], ["p"]),
        helper.make_node("MatMul", ["p", "v"], ["z"]),
        helper.make_node("Cast", ["z"], ["OUT"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("PIXELS", TensorProto.UINT8, ["batch", len(weight)])],
        [helper.make_tensor_value_info("OUT", TensorProto.FLOAT, ["batch", len(weight)])],
        [
            numpy_helper.from_array(weight.astype(np.float16), "w"),
            numpy_helper.from_array(weight.T.astype(np.float16), "v"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    inferred = ir.passes.common.ShapeInferencePass()(ir.from_proto(model)).model
    ir.save(inferred, folder / "model.onnx")
    return folder / "model.onnx"


def test_every_value_is_rounded_as_float16_stores_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.01, (64, 48)).astype(np.float16)
    pixels = random.integers(0, 256, (5, 64), dtype=np.uint8)
    (actual,), ranges = HalfArithmetic(matrix_product(tmp_path, weight)).run(pixels)

    def half(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return values.astype(np.float16).astype(np.float32)

    wide = weight.astype(np.float32)
    scores = half(pixels.astype(np.float32) @ wide)
    powers = half(np.exp(half(scores - scores.max(axis=1, keepdims=True))))
    shares = half(powers / half(powers.sum(axis=1, keepdims=True)))
    expected = half(shares @ wide.T)
    # The order of a sum may tip a rounding: one unit in the last place of float16.
    np.testing.assert_allclose(actual, expected, rtol=2**-10, atol=0)
    assert (actual == expected).mean() > 0.9
    largest = {each.tensor: each.largest for each in ranges}
    assert largest["y"] == pytest.approx(np.abs(pixels.astype(np.float32) @ wide).max(), rel=1e-5)


def test_a_convolution_in_single_is_given_tf32(tmp_path: Path) -> None:
    """Of what it multiplies; what it adds stays as it is."""
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.1, (4, 3, 2, 2)).astype(np.float32)
    bias = random.normal(0, 1000, 4).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["PIXELS"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "third"], ["thirds"]),
        helper.make_node("Conv", ["thirds", "w", "b"], ["OUT"], strides=[2, 2]),
    ]
    constants = {"w": weight, "b": bias, "third": np.float32(1 / 3)}
    graph = helper.make_graph(
        nodes,
        "patches",
        [helper.make_tensor_value_info("PIXELS", TensorProto.UINT8, [1, 3, 6, 6])],
        [helper.make_tensor_value_info("OUT", TensorProto.FLOAT, [1, 4, 3, 3])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    ir.save(ir.passes.common.ShapeInferencePass()(ir.from_proto(model)).model, tmp_path / "model.onnx")
    pixels = np.random.default_rng(1).integers(0, 256, (1, 3, 6, 6), dtype=np.uint8)
    thirds = pixels.astype(np.float32) * np.float32(1 / 3)
    (actual,), _ = HalfArithmetic(tmp_path / "model.onnx").run(pixels)

    def convolved(images: np.ndarray, weights: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        images, weights = images.astype(np.float32), weights.astype(np.float32)
        return nn.functional.conv2d(*map(torch.tensor, (images, weights, bias)), stride=2).numpy()

    expected = convolved(thirds.astype(np.float16), weight.astype(np.float16))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=5e-4)
    for images, weights in ((thirds, weight), (thirds, weight.astype(np.float16)), (thirds.astype(np.float16), weight)):
        assert np.abs(actual - convolved(images, weights)).max() > 1e-3


def test_every_float16_value_and_every_sum_in_single_has_a_kind_and_a_range(tmp_path: Path) -> None:
    """Of all blocks together; what only moves values, or adds a constant to them, has none."""
    weights = {f"layer.{index}.dense.weight": np.full((4, 4), -2.0, np.float32) for index in (0, 1)}
    nodes = [
        helper.make_node("Cast", ["PIXELS"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "layer.0.dense.weight"], ["first"]),
        helper.make_node("Relu", ["first"], ["moved"]),
        helper.make_node("MatMul", ["first", "layer.1.dense.weight"], ["second"]),
        helper.make_node("MatMul", ["moved", "unnamed"], ["third"]),
        helper.make_node("Neg", ["second"], ["single"]),
        helper.make_node("Add", ["single", "bias"], ["shifted"]),
        helper.make_node("Sum", ["shifted", "third"], ["other"]),
        helper.make_node("Add", ["other", "single"], ["sum"]),
        helper.make_node("Neg", ["sum"], ["OUT"]),
    ]
    constants = {"unnamed": np.eye(4, dtype=np.float32), "bias": np.ones(4, np.float32)}
    model = model_of(nodes, ["OUT"], {**weights, **constants})
    to_half(model)
    ir.save(model, tmp_path / "model.onnx")
    _, ranges = HalfArithmetic(tmp_path / "model.onnx").run(np.full((1, 4, 4, 4), 3, np.uint8))
    found = {each.tensor: (each.kind, each.largest) for each in ranges}
    assert found.pop("x_half") == ("Cast(Cast)", 3)
    assert found == {
        "first": ("layer.*.dense.weight", 24),  # of -24
        "second": ("layer.*.dense.weight", 192),
        "third": ("MatMul(Relu, weights)", 0),
        "sum": (STREAM, 383),  # of -191 and -192
    }


def test_only_what_is_normalised_is_scaled_up(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["PIXELS"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("LayerNormalization", ["x", "gain"], ["normalised"]),
        helper.make_node("MatMul", ["x", "w"], ["plain"]),
        helper.make_node("MatMul", ["normalised", "w"], ["scaled"]),
        helper.make_node("Sum", ["plain", "scaled"], ["OUT"]),
    ]
    model = model_of(nodes, ["OUT"], {"gain": np.ones(4, np.float32), "w": np.eye(4, dtype=np.float32)})
    to_half(model)
    ir.save(model, tmp_path / "model.onnx")
    half = HalfArithmetic(tmp_path / "model.onnx")
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 4, 4, 4)
    once, fourfold = ({each.tensor: each.largest for each in half.run(pixels, gain)[1]} for gain in (1, 4))
    assert {name: fourfold[name] / once[name] for name in ("plain", "scaled")} == {"plain": 1, "scaled": 4}


def test_a_model_that_cannot_be_opened_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, **options: object) -> None:
        raise RuntimeError(f"no memory for {path.name}")

    monkeypatch.setattr(arithmetic, "open_session", fails)
    model = matrix_product(tmp_path, np.ones((64, 48), np.float32))
    with pytest.raises(RuntimeError, match="no memory"):
        HalfArithmetic(model)
    assert list(tmp_path.iterdir()) == [model]


def test_attention_that_accumulates_in_float16_is_rounded_after_every_step(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.01, (64, 40)).astype(np.float16)  # the last step of the second sum is half a one
    pixels = random.integers(0, 256, (5, 64), dtype=np.uint8)
    model = matrix_product(tmp_path, weight)
    (actual,), _ = HalfArithmetic(model, half_sums=True).run(pixels)
    (in_single,), _ = HalfArithmetic(model).run(pixels)

    def half(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return values.astype(np.float16).astype(np.float32)

    def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        total = np.zeros((len(left), right.shape[1]), np.float32)
        for start in range(0, left.shape[1], 16):
            total = half(total + left[:, start : start + 16] @ right[start : start + 16])
        return total

    wide = weight.astype(np.float32)
    scores = product(pixels.astype(np.float32), wide)
    powers = half(np.exp(half(scores - scores.max(axis=1, keepdims=True))))
    expected = product(half(powers / half(powers.sum(axis=1, keepdims=True))), wide.T)
    np.testing.assert_allclose(actual, expected, rtol=2**-9, atol=0)
    assert (actual == expected).mean() > 0.8
    assert (in_single != actual).mean() > 0.2


@pytest.mark.parametrize(
    ("weight", "fits"), [(65504, True), (-65504, True), (65521, False), (-65521, False), (-1e5, False)]
)
def test_weights_are_held_against_both_ends_of_float16(weight: float, fits: bool) -> None:
    x, w = ir.val("x", ir.DataType.FLOAT, [1, 1]), ir.val("w", ir.DataType.FLOAT, [1, 1])
    w.const_value = ir.tensor(np.array([[weight]], np.float32), name="w")
    product = ir.node("MatMul", [x, w])
    product.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    scaled = ir.node("Identity", product.outputs)
    graph = ir.Graph([], scaled.outputs, nodes=[product, scaled], initializers=[w], opset_imports={"": 18}, name="one")
    source = ir.node("RandomNormal", [], {"shape": ir.AttrInt64s("shape", [1, 1])})
    source.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(product, source)
    product.replace_input_with(0, source.outputs[0])
    if fits:
        to_half(ir.Model(graph, ir_version=10))
    else:
        with pytest.raises(HalfRangeError, match="beyond float16"):
            to_half(ir.Model(graph, ir_version=10))


def test_overflow_shows_though_onnxruntime_hides_it(tmp_path: Path) -> None:
    """What a GPU would make of it; on a CPU, ONNX Runtime computes in float32 between the casts."""
    weight = np.zeros((64, 48), np.float32)
    weight[:, 0], weight[:, 1] = 10, 9.9
    pixels = np.full((1, 64), 255, np.uint8)
    model = matrix_product(tmp_path, weight)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, {"PIXELS": pixels})[0]).all()
    (actual,), ranges = HalfArithmetic(model).run(pixels)
    assert not np.isfinite(actual).all()
    assert next(each for each in ranges if each.tensor == "y").largest == pytest.approx(64 * 255 * 10)
    with pytest.raises(HalfRangeError, match=r"product: float16 ends at 65504, and .*tensor y\) reaches 1\.63e\+05"):
        require_range("product", ranges)


def test_the_end_of_float16_itself_fits_and_nan_does_not() -> None:
    require_range("edge", [Range("MatMul", "x", LARGEST), Range(STREAM, "tokens", 1e9)])
    for value in (np.nextafter(np.float32(LARGEST), np.float32(np.inf)), np.inf, np.nan):
        with pytest.raises(HalfRangeError):
            require_range("edge", [Range("MatMul", "x", float(value))])


def test_the_error_names_the_type_that_ends() -> None:
    beyond = float(np.finfo(np.float32).max)
    require_range("edge", [Range("MatMul", "x", 1e38, beyond)])
    with pytest.raises(
        HalfRangeError, match=r"edge: bfloat16 ends at 3\.4028e\+38, and MatMul \(tensor x\) reaches inf"
    ):
        require_range("edge", [Range("MatMul", "x", np.inf, beyond), Range("MatMul", "y", np.nan, beyond)])


def test_widest_takes_the_largest_of_each_kind() -> None:
    ranges = [Range("a", "1", 2.0), Range("b", "2", 3.0), Range("a", "3", 5.0), Range("b", "4", float("nan"))]
    assert [each.tensor for each in widest(ranges)] == ["4", "3"]


def test_gain_scales_what_is_normalised(exports: dict[Stream, StreamExport]) -> None:
    """A way to look for overflow without weights that have it."""
    arithmetic = HalfArithmetic(exports[GLOBAL_TEXTURE].files[0])
    pixels = np.random.default_rng(1).integers(0, 256, (1, 252, 252, 3), dtype=np.uint8)
    plain, quadrupled, massive = (arithmetic.run(pixels, gain)[1] for gain in (1, 4, 4096))
    first = next(index for index, each in enumerate(plain) if each.kind == "Cast(LayerNormalization)")
    assert quadrupled[first].largest == pytest.approx(4 * plain[first].largest, rel=1e-3)
    require_range("plain", plain)
    with pytest.raises(HalfRangeError):
        require_range("massive", massive)


class Convolutions(nn.Module):
    """Normalisations before and between convolutions, as RetinaFace has them, with statistics far from half."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(3, eps=2e-5), nn.BatchNorm2d(8, eps=2e-5)
        self.conv, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.first.running_mean.fill_(127.3)  # type: ignore[union-attr]
        self.first.running_var.fill_(1e5)  # type: ignore[union-attr]
        self.second.running_var.fill_(1e-6)  # type: ignore[union-attr]
        self.second.running_mean.fill_(0.2)  # type: ignore[union-attr]
        for parameter, value in ((self.first.weight, 0.7), (self.second.weight, 0.3), (self.second.bias, 20.0)):
            nn.init.constant_(parameter, value)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(self.first(pixels.float().permute(0, 3, 1, 2))))
        x = torch.relu(self.second(x + 1e-3 * x))
        return self.out(x).permute(0, 2, 3, 1)


def test_normalisations_keep_their_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Convolutions().eval().requires_grad_(False)
    model = to_onnx(network, Interface("PIXELS", ("OUT",), 75, 101, any_size=True))
    to_half(model)
    ir.save(model, tmp_path / "model.onnx")
    pixels = np.random.default_rng(2).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    expected = network(torch.from_numpy(pixels)).numpy()
    (actual,), ranges = HalfArithmetic(tmp_path / "model.onnx").run(pixels)
    require_range("any", ranges)
    np.testing.assert_allclose(actual, expected, atol=2e-3 * float(np.abs(expected).max()))


# Exports


def test_half_exports_agree_with_torch(exports: dict[Stream, StreamExport]) -> None:
    for export in exports.values():
        assert export.ranges
        compared = {(each.output, each.pixels) for each in export.differences}
        runs = {"random", "scene", "mixed", "scene, ONNX Runtime", "scene, fused attention"}
        assert runs == {pixels for _, pixels in compared}
        assert all(each.within for each in export.differences)
        # True half arithmetic is worse than what ONNX Runtime shows on a CPU; both are far from exact.
        logits = {each.pixels: each.largest for each in export.differences if each.output == "LOGITS"}
        assert max(logits.values()) > 1e-4


def spoilt(tiny: Path, folder: Path, factor: float, name: str) -> Path:
    """A checkpoint of which one tensor is multiplied."""
    checkpoint = folder / GLOBAL_TEXTURE.checkpoint
    tensors = torch.load(tiny / GLOBAL_TEXTURE.checkpoint, weights_only=True)
    (key,) = (key for key in tensors if key.endswith(name))
    torch.save({**tensors, key: tensors[key] * factor}, checkpoint)
    return checkpoint


def test_an_overflow_on_the_way_refuses_the_export(tiny: Path, tmp_path: Path) -> None:
    """The SwiGLU product grows with the square of what comes in."""
    checkpoint = spoilt(tiny, tmp_path, 300, "layer.0.norm2.weight")
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(HalfRangeError, match=r"global_texture: .*65504, and Mul\(Mul, Split\).*--precision"):
        export_stream(GLOBAL_TEXTURE, checkpoint, folder, precision="fp16")


def test_a_weight_beyond_half_refuses_the_export(tiny: Path, tmp_path: Path) -> None:
    checkpoint = spoilt(tiny, tmp_path, 1e6, "layer.1.mlp.weights_out.weight")
    with pytest.raises(HalfRangeError, match=r"a weight of .* is beyond float16"):
        export_stream(GLOBAL_TEXTURE, checkpoint, tmp_path, precision="fp16")


@pytest.mark.slow
def test_the_face_detector_in_half_agrees_with_torch(tmp_path: Path) -> None:
    from export.exporters.face_models import export_face_detector
    from networks.faces.retinaface_weights import write_random_retinaface

    write_random_retinaface(tmp_path / "retinaface.h5")
    export = export_face_detector(tmp_path / "retinaface.h5", tmp_path, precision="fp16")
    assert export.precision == "fp16"
    assert export.size < 0.55 * (tmp_path / "retinaface.h5").stat().st_size
    assert max(each.largest for each in export.differences if each.output.startswith("SCORES")) < 0.01
    session = onnxruntime.InferenceSession(export.files[0], providers=["CPUExecutionProvider"])
    assert {output.type for output in session.get_outputs()} == {"tensor(float)"}
    assert session.get_inputs()[0].type == "tensor(uint8)"
