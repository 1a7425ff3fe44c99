"""The check of engines without a GPU: what it reads in the builder's log, and the real builder where that is."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from ensemble.streams import GLOBAL_TEXTURE
from export import export_stream
from export.errors import TensorrtError
from export.layout import SKELETON
from export.tensorrt.__main__ import attention_that_does_not_fuse, float_into_half
from export.tensorrt.check import Built, build_ahead, read_log, weights_beyond_half
from export.tensorrt.engine import EngineProfile, read_profile

LOG = [
    ("Severity.VERBOSE", "--- Timing Runner: {ForeignNode[node__to_copy...node_linear_12]} (Myelin[0x80000023])"),
    ("Severity.VERBOSE", "Layer: {ForeignNode[node__to_copy...node_linear_12]} Scratch Memory: 40423424 bytes"),
    ("Severity.INFO", "Total Activation Memory: 40423424 bytes"),
    (
        "Severity.VERBOSE",
        "Layers:\n"
        "Name: __mye9313_0_myl0_0, LayerType: shape_call, Inputs: []\n"
        "Name: __myl_CastAddMulMoveCastTranReplConc_myl0_1, LayerType: kgen, Inputs: [ { Name: PIXELS }]\n"
        "Name: _gemm_mha_v2_myl0_8, LayerType: kgen, Inputs: [ { Name: x }]\n"
        "Name: node_MatMul_43_myl0_9, LayerType: gemm, Inputs: []\n\nI/O Tensors:\n Name: PIXELS, IOMode: Input",
    ),
]


def test_the_log_tells_pieces_kernels_and_memory() -> None:
    built = read_log(LOG, 89, 4_000_000, 2.5)
    assert (built.capability, built.size, built.seconds, built.activations) == (89, 4_000_000, 2.5, 40423424)
    assert built.subgraphs == 1
    assert len(built.layers) == 4
    assert built.fused_attentions == 1
    assert built.alone == ()
    assert built.problems(1) == []
    assert built.problems(2) == ["1 fused attentions, not 2"]
    assert built.problems(None) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (("Severity.WARNING", "Something is odd"), "warning: Something is odd"),
        (("Severity.ERROR", "Something is wrong"), "warning: Something is wrong"),
        (("Severity.VERBOSE", "{ForeignNode[another...piece]}"), "cut into 2 subgraphs"),
        (("Severity.VERBOSE", "Name: __myl_Cast_myl0_5, LayerType: kgen"), "only cast or reorder: __myl_Cast_myl0_5"),
        (
            ("Severity.VERBOSE", "Name: __myl_MoveCast_myl0_5, LayerType: kgen"),
            "only cast or reorder: __myl_MoveCast_myl0_5",
        ),
    ],
)
def test_what_should_not_be_is_a_problem(line: tuple[str, str], problem: str) -> None:
    assert read_log([*LOG, line], 89, 1, 1).problems(1) == [problem]


def test_weights_beyond_float16_are_named(tmp_path: Path) -> None:
    values = {"good": 65504.0, "infinite": np.inf, "nan": np.nan}
    initializers = []
    for name, value in values.items():
        with np.errstate(over="ignore"):
            tensor = ir.tensor(np.array([value], np.float16), name=name)
        initializers.append(ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT16), const_value=tensor))
    total = ir.node("Sum", initializers)
    graph = ir.Graph([], total.outputs, nodes=[total], initializers=initializers, opset_imports={"": 18}, name="x")
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    assert weights_beyond_half(tmp_path / "model.onnx") == ["infinite", "nan"]


def test_without_tensorrt_for_rtx_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(TensorrtError, match=r"pip install --editable '\.\[tensorrt-check\]'"):
        build_ahead(tmp_path / "model.onnx", EngineProfile((1,), (1,), (1,)), 89)


@pytest.mark.slow
def test_the_real_builder_fuses_attention_and_refuses_what_is_wrong(tiny: Path, tmp_path: Path) -> None:
    """TensorRT for RTX, ahead of time; no kernel is run."""
    pytest.importorskip("tensorrt_rtx")
    model = export_stream(GLOBAL_TEXTURE, tiny / GLOBAL_TEXTURE.checkpoint, tmp_path, precision="fp16").files[0]
    profile = read_profile(SKELETON / GLOBAL_TEXTURE.name / "configs" / "tensorrt.pbtxt")
    built = build_ahead(model, profile, 89)
    assert isinstance(built, Built)
    assert built.problems(attentions=1) == [], "two blocks, and the last one's attention is for CLS alone"
    assert weights_beyond_half(model) == []
    unfused = build_ahead(attention_that_does_not_fuse(model), profile, 89)
    assert unfused.problems(attentions=1) == ["0 fused attentions, not 1"]
    with pytest.raises(TensorrtError, match="must be of same type"):
        build_ahead(float_into_half(model), profile, 89)
    with pytest.raises(TensorrtError, match="profile has min=224"):
        build_ahead(model, EngineProfile(*((batch, 224, 224, 3) for batch in (1, 8, 32))), 89)
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(model.read_bytes()[:-1000])
    with pytest.raises(TensorrtError, match="not parsed"):
        build_ahead(corrupt, profile, 89)
