"""The check of engines without a GPU: what it reads in the builder's log, and the real builder where that is."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from ensemble.streams import STREAMS
from export.errors import TensorrtError
from export.half.conversion import PRECISIONS
from export.half.fp8 import linear_products, to_fp8
from export.tensorrt import __main__ as command
from export.tensorrt.__main__ import main
from export.tensorrt.check import Built, build_ahead, read_log, weights_beyond_half
from export.tensorrt.engine import EngineProfile
from export.tensorrt.faults import attention_that_does_not_fuse, float_into_half
from export.tensorrt.subjects import Subject, smallest_half_stream, stream_subjects
from networks import dinov2
from networks.attention import HEAD_SIZE, split_heads

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


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return smallest_half_stream(tmp_path_factory.mktemp("half"))


@pytest.mark.slow
def test_the_real_builder_fuses_attention_and_refuses_what_is_wrong(half: Subject) -> None:
    """TensorRT for RTX, ahead of time; no kernel is run. `make check-engines` does so for all networks and GPUs."""
    pytest.importorskip("tensorrt_rtx")
    built = build_ahead(half.model, half.profile, 89)
    assert isinstance(built, Built)
    assert half.attentions == 1, "two blocks, and the last one's attention is for CLS alone"
    assert built.problems(half.attentions) == []
    assert weights_beyond_half(half.model) == []
    unfused = build_ahead(attention_that_does_not_fuse(half.model), half.profile, 89)
    assert unfused.problems(attentions=1) == ["0 fused attentions, not 1"]
    with pytest.raises(TensorrtError, match="must be of same type"):
        build_ahead(float_into_half(half.model), half.profile, 89)
    with pytest.raises(TensorrtError, match="profile has min=224"):
        build_ahead(half.model, EngineProfile(*((batch, 224, 224, 3) for batch in (1, 8, 32))), 89)
    corrupt = half.model.with_name("corrupt.onnx")
    corrupt.write_bytes(half.model.read_bytes()[:-1000])
    with pytest.raises(TensorrtError, match="not parsed"):
        build_ahead(corrupt, half.profile, 89)


@pytest.mark.slow
def test_the_real_builder_takes_linear_layers_in_fp8(half: Subject) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = ir.load(half.model)
    products = linear_products(model.graph, ir.DataType.FLOAT16)
    assert len(products) == 12, "six a block"
    to_fp8(model, {str(product.outputs[0].name): 4.0 for product in products})
    ir.save(model, path := half.model.with_name("eight.onnx"))
    for capability in (89, 120):
        assert build_ahead(path, half.profile, capability).problems(half.attentions) == []


def softmax_by_hand(query: Tensor, key: Tensor) -> Tensor:
    """The same numbers, in a form that the builder does not know for attention."""
    scores = split_heads(query * HEAD_SIZE**-0.5) @ split_heads(key).transpose(-1, -2)
    exponentials = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


@pytest.mark.slow
def test_the_check_is_red_when_attention_is_written_in_a_form_that_does_not_fuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The form of today is built by the test above."""
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(dinov2, "attention_probabilities", softmax_by_hand)
    (row,) = command.work(command.Job("global_texture", "tiny", ("fp16",), (89,)))
    assert row.problems == ["0 fused attentions, not 1"]


def test_what_a_job_finds_is_told_and_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = read_log(LOG, 89, 4_000_000, 2.5)
    monkeypatch.setattr(command, "builder_version", lambda: "1.7")
    monkeypatch.setattr(
        command, "work", lambda job: [command.Row(job.name, 1, built, [])] if job.name else [("a fault", True)]
    )
    arguments = ["--only", "face_aligner", "--output", str(tmp_path / "record.json")]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "a fault: refused" in outcome.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["engines"][0]["fused_attentions"] == 1
    assert record["refused"] == {"a fault": True}
    for found in ([command.Row("x", 1, built, ["cut into 2 subgraphs"])], [("a fault", False)]):
        monkeypatch.setattr(command, "work", lambda job, found=found: found)
        outcome = CliRunner().invoke(main, ["--only", "face_aligner"])
        assert outcome.exit_code == 1
        assert "cut into" in outcome.output or "not noticed" in outcome.output


@pytest.mark.parametrize("name", ["semantic_fusion"])
def test_each_precision_of_a_stream_is_a_file_of_its_type(tmp_path: Path, name: str) -> None:
    stream = next(stream for stream in STREAMS if stream.name == name)
    found = {}
    for subject in stream_subjects(stream, "tiny", PRECISIONS, tmp_path):
        types = {value.dtype for value in ir.load(subject.model).graph.initializers.values()}
        found[subject.title] = (subject.attentions, types & {ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
    assert found == {
        f"{name} fp32": (None, set()),
        f"{name} fp16": (3, {ir.DataType.FLOAT16}),
        f"{name} bf16": (3, {ir.DataType.BFLOAT16}),
    }
