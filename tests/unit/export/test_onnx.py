"""Graphs as the exports write them, on small ones written by hand: what is checked, moved, fused, saved and freed."""

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from export.errors import ExportError
from export.onnx.fused_attention import fuse_attention
from export.onnx.graph import free_weights, quiet, save_model, to_onnx
from export.onnx.interface import Interface

HEADER = '<ir_version: 10, opset_import: ["" : 18]>'


def graph(text: str) -> ir.Model:
    """A graph from its text, with shapes inferred."""
    return ir.passes.common.ShapeInferencePass()(ir.from_onnx_text(f"{HEADER} {text}")).model


# Tracing


def traced(model: ir.Model | None, monkeypatch: pytest.MonkeyPatch, any_size: bool = False) -> ir.Model:
    """What `to_onnx` makes of what the exporter gave."""
    program = None if model is None else SimpleNamespace(model=model)
    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **options: program)
    return to_onnx(nn.Identity(), Interface("PIXELS", ("OUT",), 2, 2, any_size=any_size))


@pytest.mark.parametrize(
    ("pixels", "out", "any_size", "fixed"),
    [
        ("[batch,2,2,3]", "[batch,2,2,3]", False, ""),
        ("[batch,h,w,3]", "[batch,h,w,3]", True, ""),
        ("[2,2,2,3]", "[2,2,2,3]", False, "PIXELS, OUT"),
        ("[2,2,2,3]", "[batch,2,2,3]", False, "PIXELS"),
        ("[batch,2,2,3]", "[2,2,2,3]", False, "OUT"),
        ("[batch,2,w,3]", "[batch,2,w,3]", True, "PIXELS"),
        ("[batch,h,2,3]", "[batch,h,2,3]", True, "PIXELS"),
    ],
)
def test_an_axis_that_should_be_free_and_is_not_is_refused(
    pixels: str, out: str, any_size: bool, fixed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"g (uint8{pixels} PIXELS) => (float{out} OUT) {{ x = Cast<to=1>(PIXELS) OUT = Neg(x) }}"
    model = ir.from_onnx_text(f"{HEADER} {text}")
    if not fixed:
        assert traced(model, monkeypatch, any_size) is model
        return
    with pytest.raises(ExportError, match=f"fixed batch, height or width in {fixed}$"):
        traced(model, monkeypatch, any_size)


@pytest.mark.parametrize(
    ("any_size", "axes"),
    [(False, {0: ("batch", 0)}), (True, {0: ("batch", 0), 1: ("height", 33), 2: ("width", 33)})],
)
def test_what_the_exporter_is_asked_for(
    any_size: bool, axes: dict[int, tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images, since one would be taken for a constant; sides from 33 on, since a single cell would be, too."""
    asked: dict[str, Any] = {}

    def export(network: nn.Module, example: tuple[torch.Tensor], **options: Any) -> None:
        asked.update(options, example=example[0])

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(ExportError, match="no model"):
        to_onnx(nn.Identity(), Interface("PIXELS", ("A", "B"), 40, 50, any_size=any_size))
    assert (asked["example"].shape, asked["example"].dtype) == ((2, 40, 50, 3), torch.uint8)
    assert (asked["dynamo"], asked["opset_version"]) == (True, 18)
    assert (asked["input_names"], tuple(asked["output_names"])) == (["PIXELS"], ("A", "B"))
    ((free,),) = (asked["dynamic_shapes"],)
    assert {axis: (each.__name__, each.min) for axis, each in free.items()} == axes


def test_an_output_may_have_whatever_number_of_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Triton's configuration has -1 there, and NVIDIA's backend wants the same in the graph."""
    text = "g (uint8[batch,3] PIXELS) => (float[batch,3] A, float[batch,3] B) { A = Cast<to=1>(PIXELS) B = Neg(A) }"
    program = SimpleNamespace(model=graph(text))
    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **options: program)
    model = to_onnx(nn.Identity(), Interface("PIXELS", ("A", "B"), 2, 2, free_outputs=("B",)))
    session = onnxruntime.InferenceSession(save_model(model, tmp_path, {})[0], providers=["CPUExecutionProvider"])
    assert [(each.name, each.shape) for each in session.get_outputs()] == [
        ("A", ["batch", 3]),
        ("B", ["batch", "B_size"]),
    ]
    a, b = session.run(None, {"PIXELS": np.array([[1, 2, 3]] * 2, np.uint8)})
    np.testing.assert_array_equal(a, [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(b, -a)


def test_an_exporter_that_gives_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match="no model"):
        traced(None, monkeypatch)


def test_what_asks_the_pixels_for_their_shape_asks_the_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT only casts 8-bit inputs; the cast then has to come first."""
    text = """g (uint8[batch,2,2,3] PIXELS) => (float[batch,12] OUT) <int64[1] rest = {12}> {
        batch = Shape<start=0, end=1>(PIXELS) shape = Concat<axis=0>(batch, rest)
        x = Cast<to=1>(PIXELS) OUT = Reshape(x, shape)
    }"""
    model = graph(text)
    model.graph[0].doc_string = "/home/someone/network.py"
    model.graph[0].metadata_props["stack_trace"] = "/home/someone/network.py"
    nodes = list(traced(model, monkeypatch).graph)
    assert [node.op_type for node in nodes] == ["Cast", "Shape", "Concat", "Reshape"]
    assert nodes[1].inputs[0] is nodes[0].outputs[0]
    assert not any(node.doc_string or node.metadata_props for node in nodes), "the machine's paths are told"


@pytest.mark.parametrize(
    ("nodes", "reader"),
    [
        ("y = Add(PIXELS, PIXELS) OUT = Cast<to=1>(y)", "Add"),
        ("x = Cast<to=1>(PIXELS) y = Add(PIXELS, PIXELS) z = Cast<to=1>(y) OUT = Add(x, z)", "Add"),
        ("y = Shape(PIXELS) x = Cast<to=1>(y) OUT = Expand(x, y)", "nothing"),
    ],
)
def test_pixels_that_are_not_cast_first_are_refused(nodes: str, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph(f"g (uint8[batch,2,2,3] PIXELS) => (float[batch,2,2,3] OUT) {{ {nodes} }}")
    with pytest.raises(ExportError, match=f"^{reader} reads PIXELS before a Cast does"):
        traced(model, monkeypatch)


@pytest.mark.parametrize("fails", [True, False])
def test_torch_is_quiet_only_meanwhile(fails: bool) -> None:
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    try:
        with quiet():
            warnings.warn("torch's own", DeprecationWarning, stacklevel=1)
            assert not logger.isEnabledFor(logging.WARNING)
            if fails:
                raise ExportError("no model")
    except ExportError:
        assert fails
    assert logger.level == before


# Saving


def weighted() -> ir.Model:
    """12 bytes of weights."""
    return graph("g (float[batch,3] x) => (float[batch,3] OUT) <float[3] w = {1.5, 2.5, 3.5}> { OUT = Mul(x, w) }")


@pytest.mark.parametrize(("limit", "beside"), [(12, False), (11, True)])
def test_weights_lie_beside_the_model_from_a_size_on(limit: int, beside: bool, tmp_path: Path) -> None:
    files = save_model(weighted(), tmp_path, {"stream": "global_texture"}, limit)
    assert [file.name for file in files] == ["model.onnx", *(["model.onnx.data"] if beside else [])]
    assert sorted(tmp_path.iterdir()) == files
    session = onnxruntime.InferenceSession(files[0], providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"stream": "global_texture"}
    np.testing.assert_array_equal(session.run(None, {"x": np.full((1, 3), 2, np.float32)})[0], [[3, 5, 7]])


def test_a_model_that_is_not_valid_onnx_is_refused(tmp_path: Path) -> None:
    x = ir.val("x", ir.DataType.FLOAT, [1])
    node = ir.node("NoSuchOperator", [x])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "OUT", x.type, x.shape
    unknown = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 18}, name="unknown")
    with pytest.raises(onnx.checker.ValidationError, match="NoSuchOperator"):
        save_model(ir.Model(unknown, ir_version=10), tmp_path, {})


def test_weights_are_freed_in_the_network_and_in_its_graph() -> None:
    network, model = nn.Linear(3, 3), weighted()
    free_weights(network, model)
    assert sum(parameter.numel() for parameter in network.parameters()) == 0
    assert all(value.const_value is None for value in model.graph.initializers.values())


# Fused attention

ATTENTION = """
    q{0} = Neg(x) qs{0} = Reshape(q{0}, split) qt{0} = Transpose<perm=[0,2,1,3]>(qs{0})
    k{0} = Abs(x) ks{0} = Reshape(k{0}, split) kt{0} = Transpose<perm=[0,2,3,1]>(ks{0})
    v{0} = Exp(x) vs{0} = Reshape(v{0}, split) vt{0} = Transpose<perm=[0,2,1,3]>(vs{0})
    scores{0} = MatMul(qt{0}, kt{0})
    p{0} = Softmax<axis=-1>(scores{0})
    heads{0} = MatMul(p{0}, vt{0})
    joined{0} = Transpose<perm=[0,2,1,3]>(heads{0}) out{0} = Reshape(joined{0}, join)
"""
"""Two heads of four channels, over five tokens."""


def attention(nodes: str, outputs: str, folder: Path) -> Path:
    """A model file, float32 [2, 5, 8] → the outputs."""
    text = f"""g (float[2,5,8] x) => ({outputs})
        <int64[4] split = {{0, 5, 2, 4}}, int64[3] join = {{0, 5, 8}}> {{ {nodes} }}"""
    ir.save(graph(text), folder / "model.onnx")
    return folder / "model.onnx"


def test_attention_is_fused_and_what_has_to_be_written_out_is_not(tmp_path: Path) -> None:
    nodes = ATTENTION.format(0) + ATTENTION.format(1) + "OUT = Sub(out0, out1) P = Neg(p1)"
    model = attention(nodes.replace("k1 = Abs(x)", "k1 = Sin(x)"), "float[2,5,8] OUT, float[2,2,5,5] P", tmp_path)
    fused = fuse_attention(model)
    assert fused == tmp_path / "model.fused.onnx"
    kinds = [node.op_type for node in ir.load(fused).graph]
    assert (kinds.count("MultiHeadAttention"), kinds.count("Softmax"), kinds.count("MatMul")) == (1, 1, 2)
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    expected, actual = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for path in (model, fused)
    )
    for value, reference in zip(actual, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("known", "other"),
    [
        ("out1 = Reshape(joined1, join)", "out1 = Squeeze(joined1)"),
        ("joined1 = Transpose<perm=[0,2,1,3]>(heads1)", "joined1 = Identity(heads1)"),
        ("heads1 = MatMul(p1, vt1)", "heads1 = Abs(p1)"),
        ("scores1 = MatMul(qt1, kt1)", "scores1 = Abs(qt1)"),
        ("qt1 = Transpose<perm=[0,2,1,3]>(qs1)", "qt1 = Neg(qs1)"),
        ("ks1 = Reshape(k1, split)", "ks1 = Neg(qs1)"),
        ("vs1 = Reshape(v1, split)", "vs1 = Neg(qs1)"),
    ],
)
def test_one_attention_of_another_form_is_refused_though_the_others_are_known(
    known: str, other: str, tmp_path: Path
) -> None:
    """On a GPU it would be written out, and nobody would be told."""
    nodes = ATTENTION.format(0) + ATTENTION.format(1)
    assert known in nodes
    nodes = nodes.replace(known, other) + "OUT = Neg(out0) OTHER = Neg(out1)"
    text = f"""g (float[2,5,8] x) => (float[2,5,8] OUT, float OTHER)
        <int64[4] split = {{0, 5, 2, 4}}, int64[3] join = {{0, 5, 8}}> {{ {nodes} }}"""
    model = ir.from_onnx_text(f"{HEADER} {text}")
    for node in model.graph:  # what the other form gives has whatever shape
        if node.op_type == "Transpose":
            node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, 2, 5, 4])
    ir.save(model, path := tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="cannot be fused"):
        fuse_attention(path)
    assert list(tmp_path.iterdir()) == [path]
