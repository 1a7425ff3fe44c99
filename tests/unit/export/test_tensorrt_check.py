"""The check of engines without a GPU: what it reads in the builder's log, and the real builder where that is."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

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
from export.onnx.interface import ALIGNER_INTERFACE, DETECTOR_INTERFACE, RESTORER_INTERFACE, Interface
from export.tensorrt import __main__ as command
from export.tensorrt import check, faults, subjects
from export.tensorrt.__main__ import main
from export.tensorrt.check import Built, build_ahead, read_log, weights_beyond_half
from export.tensorrt.engine import EngineProfile
from export.tensorrt.faults import attention_that_does_not_fuse, float_into_half, refusals
from export.tensorrt.subjects import Subject, smallest_half_stream, stream_subjects
from networks import dinov2
from networks.attention import HEAD_SIZE, split_heads
from networks.faces import FACE_MODELS

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
        (
            ("Severity.VERBOSE", "Name: __myl_RefoRefo_myl0_5, LayerType: kgen"),
            "only cast or reorder: __myl_RefoRefo_myl0_5",
        ),
        (("Severity.VERBOSE", "Name: Reformatting, LayerType: Reformat"), "only cast or reorder: Reformatting"),
    ],
)
def test_what_should_not_be_is_a_problem(line: tuple[str, str], problem: str) -> None:
    assert read_log([*LOG, line], 89, 1, 1).problems(1) == [problem]


def test_where_attention_does_not_matter_no_more_do_casts() -> None:
    """In float32 and in the networks of faces there is no kernel for it."""
    log = [*LOG, ("Severity.VERBOSE", "Name: __myl_Cast_myl0_5, LayerType: kgen")]
    assert read_log(log, 89, 1, 1).problems(None) == []
    assert read_log([("Severity.INFO", "nothing")], 89, 1, 1).problems(None) == ["cut into 0 subgraphs"]


def test_weights_beyond_float16_are_named(tmp_path: Path) -> None:
    values = {"good": 65504.0, "infinite": np.inf, "negative": -np.inf, "nan": np.nan, "least": -65504.0}
    initializers = []
    for name, value in values.items():
        with np.errstate(over="ignore"):
            tensor = ir.tensor(np.array([value], np.float16), name=name)
        initializers.append(ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT16), const_value=tensor))
    total = ir.node("Sum", initializers)
    graph = ir.Graph([], total.outputs, nodes=[total], initializers=initializers, opset_imports={"": 18}, name="x")
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    assert weights_beyond_half(tmp_path / "model.onnx") == ["infinite", "negative", "nan"]


def test_without_tensorrt_for_rtx_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(TensorrtError, match=r"pip install --editable '\.\[tensorrt-check\]'"):
        build_ahead(tmp_path / "model.onnx", EngineProfile((1,), (1,), (1,)), 89)


class Rtx(SimpleNamespace):
    """TensorRT for RTX as far as it is asked: it says what it was told to say, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.plan: memoryview | None = memoryview(b"12345")
        self.config = MagicMock()
        self.shapes = MagicMock()
        self.created: list[int] = []
        rtx = self

        class Builder:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def create_network(self, flags: int) -> Any:
                rtx.created.append(flags)
                return SimpleNamespace(get_input=lambda index: SimpleNamespace(name=f"input {index}"))

            def create_builder_config(self) -> Any:
                return rtx.config

            def create_optimization_profile(self) -> Any:
                return rtx.shapes

            def build_serialized_network(self, network: Any, config: Any) -> Any:
                for severity, message in LOG:
                    self.logger.log(severity, message)
                if rtx.plan is None:
                    self.logger.log("Severity.ERROR", "out of tactics")
                return None if rtx.plan is None else SimpleNamespace(nbytes=rtx.plan.nbytes)

        class OnnxParser:
            def __init__(self, network: Any, logger: Any) -> None:
                self.num_errors = len(rtx.errors)

            def parse_from_file(self, path: str) -> bool:
                return not rtx.errors

            def get_error(self, index: int) -> Any:
                return SimpleNamespace(desc=lambda: rtx.errors[index])

        class ILogger:
            pass

        super().__init__(
            ILogger=ILogger,
            Builder=Builder,
            OnnxParser=OnnxParser,
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=3),
            ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
            ComputeCapability=SimpleNamespace(__members__={"SM89": "of an L4", "SM80": "of an A100"}),
        )


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> Rtx:
    rtx = Rtx()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)
    monkeypatch.setattr(check, "_LOGS", {})
    return rtx


PROFILE = EngineProfile((1, 8), (2, 8), (4, 8))


def test_an_engine_is_asked_for_as_it_is_to_be_and_judged_by_its_own_log(rtx: Rtx) -> None:
    for _ in range(2):
        built = build_ahead(Path("model.onnx"), PROFILE, 89)
        assert built.problems(1) == []
        assert (built.capability, built.size, len(built.layers)) == (89, 5, 4)
        assert built.seconds >= 0
    assert rtx.created == [1 << 3, 1 << 3], "strongly typed"
    assert rtx.config.profiling_verbosity == "detailed", "else layers have no names"
    assert rtx.config.num_compute_capabilities == 1
    rtx.config.set_compute_capability.assert_called_with("of an L4", 0)
    rtx.shapes.set_shape.assert_called_with("input 0", (1, 8), (2, 8), (4, 8))
    rtx.config.add_optimization_profile.assert_called_with(rtx.shapes)


def test_what_the_parser_and_the_builder_say_is_told(rtx: Rtx) -> None:
    rtx.plan = None
    with pytest.raises(TensorrtError, match=r"^model\.onnx: not built for SM80: out of tactics$"):
        build_ahead(Path("model.onnx"), PROFILE, 80)
    rtx.errors = ["first", "second"]
    with pytest.raises(TensorrtError, match=r"^model\.onnx: not parsed: first; second$"):
        build_ahead(Path("model.onnx"), PROFILE, 80)


@pytest.mark.parametrize(
    ("name", "titles", "largest"),
    [
        ("face_detector", ["face_detector fp32", "face_detector fp16"], (4, 1980, 1980, 3)),
        ("face_aligner", ["face_aligner fp32"], (4, 1980, 1980, 3)),
        ("face_restorer", ["face_restorer fp32"], (4, 512, 512, 3)),
    ],
)
def test_each_face_model_is_built_for_its_sizes(
    name: str, titles: list[str], largest: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The detector in the precisions that engines have; the others in float32, as they are served."""
    for made in ("retinaface", "gfpgan", "parsenet", "face_aligner"):
        monkeypatch.setattr(subjects, f"write_random_{made}", lambda *arguments: None)
    for loaded in ("retinaface", "face_aligner", "face_restorer"):
        monkeypatch.setattr(subjects, f"load_{loaded}", lambda *arguments, loaded=loaded: loaded)
    traced = []

    def graphs(network: str, interface: Interface, precisions: tuple[str, ...], folder: Path) -> Any:
        traced.append((network, interface.outputs))
        return [(precision, folder / precision) for precision in precisions]

    monkeypatch.setattr(subjects, "_graphs", graphs)
    found = list(subjects.face_subjects(name, tmp_path))
    assert [each.title for each in found] == titles
    assert {(each.profile.largest, each.attentions) for each in found} == {(largest, None)}
    network = {"face_detector": "retinaface"}.get(name, name)
    interfaces = {"face_detector": DETECTOR_INTERFACE, "face_aligner": ALIGNER_INTERFACE}
    assert traced == [(network, interfaces.get(name, RESTORER_INTERFACE).outputs)]


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


@pytest.mark.parametrize(
    ("options", "names", "precisions", "capabilities"),
    [
        (["--preset", "giant"], [*(stream.name for stream in STREAMS), *FACE_MODELS], PRECISIONS, (80, 86, 89, 120)),
        (["--only", "local_facial", "--precision", "fp16"], ["local_facial"], ("fp16",), (80, 86, 89, 120)),
        (["--only", "face_detector", "--capability", "89"], ["face_detector"], PRECISIONS, (89,)),
    ],
)
def test_all_is_built_but_for_what_is_asked_for_and_faults_are_always_tried(
    options: list[str],
    names: list[str],
    precisions: tuple[str, ...],
    capabilities: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs: list[command.Job] = []
    monkeypatch.setattr(command, "builder_version", lambda: "1.7")
    monkeypatch.setattr(command, "work", lambda job: jobs.append(job) or [])
    outcome = CliRunner().invoke(main, options)
    assert outcome.exit_code == 0, outcome.output
    preset = "giant" if "giant" in options else "tiny"
    assert jobs == [command.Job(name, preset, precisions, capabilities) for name in (*names, "")]


def test_a_model_is_built_for_each_kind_of_gpu_and_its_weights_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = Subject("face_aligner fp32", tmp_path / "model.onnx", PROFILE, None)
    monkeypatch.setattr(command, "face_subjects", lambda name, folder: [subject])
    monkeypatch.setattr(command, "build_ahead", lambda model, profile, capability: read_log(LOG, capability, 1, 1))
    monkeypatch.setattr(command, "weights_beyond_half", lambda model: ["w"] if model == subject.model else [])
    rows = command.work(command.Job("face_aligner", "tiny", ("fp32",), (80, 89)))
    assert [(row.title, row.built.capability, row.problems) for row in rows if isinstance(row, command.Row)] == [
        (subject.title, capability, ["beyond float16: w"]) for capability in (80, 89)
    ]


@pytest.mark.parametrize("notices", [True, False])
def test_each_model_with_a_fault_is_tried_and_told(
    notices: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]>
        g (uint8[1,1,2,2] PIXELS) => (float[1,1,2,2] OUT) <float16[1,1,1,1] kernel = {1}> {
            x = Cast<to=1>(PIXELS) h = Cast<to=10>(x) c = Conv(h, kernel) p = Softmax(c) OUT = Cast<to=1>(p)
        }"""
    ir.save(ir.from_onnx_text(text), tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    tried = []

    def build(model: Path, profile: EngineProfile, capability: int) -> Built:
        tried.append((model.name, profile.largest, capability))
        if notices and model.name != "unfused.onnx":
            raise TensorrtError("refused")
        return read_log(LOG, capability, 1, 1)

    monkeypatch.setattr(faults, "build_ahead", build)
    subject = Subject("stream", tmp_path / "model.onnx", PROFILE, 2 if notices else 1)
    found = dict(refusals(subject, 89))
    assert len(found) == 4
    assert set(found.values()) == {notices}
    small = (32, 224, 224, 3)
    models = ["corrupt.onnx", "model.onnx", "float_into_half.onnx", "unfused.onnx"]
    assert tried == [(name, small if name == "model.onnx" else (4, 8), 89) for name in models]
    assert (tmp_path / "model.onnx").read_bytes() == content
    assert (tmp_path / "corrupt.onnx").read_bytes() == content[:-1000]
    (conv,) = (node for node in ir.load(tmp_path / "float_into_half.onnx").graph if node.op_type == "Conv")
    assert conv.inputs[0] is not None
    assert conv.inputs[0].name == "x", "float32"
    assert [output.name for output in ir.load(tmp_path / "unfused.onnx").graph.outputs] == ["OUT", "PROBABILITIES"]


@pytest.mark.parametrize("name", ["semantic_fusion"])
def test_each_precision_of_a_stream_is_a_file_of_its_type(tmp_path: Path, name: str) -> None:
    stream = next(stream for stream in STREAMS if stream.name == name)
    found, files = {}, list[Path]()
    for subject in stream_subjects(stream, "tiny", PRECISIONS, tmp_path):
        types = {value.dtype for value in ir.load(subject.model).graph.initializers.values()}
        found[subject.title] = (subject.attentions, types & {ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
        files.append(subject.model)
    assert found == {
        f"{name} fp32": (None, set()),
        f"{name} fp16": (3, {ir.DataType.FLOAT16}),
        f"{name} bf16": (3, {ir.DataType.BFLOAT16}),
    }
    assert [file.exists() for file in files] == [True, False, False], "all but what the others are made of are gone"
