"""TensorRT engines up to the builder, which cannot be had here: a fake module `tensorrt` stands in for that alone.

Polygraphy, profiles, timing cache and its lock, manifest, comparison, publication and refusals are the real ones.
"""

import ctypes
import fcntl
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.backend.trt import util as polygraphy_util

from ensemble.streams import GLOBAL_TEXTURE, LOCAL_FACIAL, SEMANTIC_FUSION, STREAMS, Stream
from export import StreamExport, export_stream, samples
from export.__main__ import main
from export.difference import Difference
from export.errors import ParityError, TensorrtError
from export.half.conversion import to_half
from export.layout import CONFIGURATIONS, SKELETON
from export.repository import publish, staging
from export.samples import Pixels
from export.tensorrt import engine, engines
from export.tensorrt.engine import EngineProfile, build_engine, read_profile
from export.tensorrt.engines import add_engines
from export.tensorrt.platform import Platform, require_tensorrt
from server.cli import main as server_main
from server.diagnosis.engines import Runtime, check_engines, find_runtime
from server.errors import RefusedError
from server.findings import Level
from tests.fakes.tensorrt import tensorrt
from tests.unit.export.test_repository import face_model, stream_exports

H100 = Platform("10.12.0.36", "13.0", "NVIDIA H100 80GB HBM3", "9.0", "580.65.06")


@pytest.fixture(scope="module")
def exports(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Stream, StreamExport]:
    return {
        stream: export_stream(stream, tiny / stream.checkpoint, tmp_path_factory.mktemp(stream.name), precision="fp16")
        for stream in STREAMS
    }


@pytest.fixture(params=["10.12.0.36", "11.2.1.2"])
def builder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A TensorRT whose engines are run by ONNX Runtime."""
    fake = tensorrt(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(polygraphy_util, "trt", fake)
    for module in ("loader", "config", "profile"):
        monkeypatch.setattr(sys.modules[f"polygraphy.backend.trt.{module}"], "trt", fake, raising=False)
    monkeypatch.setattr(polygraphy_util, "get_trt_logger", lambda: None)
    monkeypatch.setattr(polygraphy_util, "str_from_config", lambda *arguments: "")
    monkeypatch.setattr(engine, "EngineFromBytes", lambda plan: plan.decode())
    monkeypatch.setattr(engine, "TrtRunner", lambda path: OnnxrtRunner(SessionFromOnnx(path)))
    return fake


def copied(export: StreamExport, folder: Path) -> StreamExport:
    """An export whose files may be moved."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for file in export.files:
        (folder / file.name).write_bytes(file.read_bytes())
        files.append(folder / file.name)
    return replace(export, files=tuple(files))


def build(export: StreamExport, cache: Path, batches: Mapping[str, Pixels] | None = None) -> list[Path]:
    scene = samples.sample_batches(export.stream.pixels)["scene"]
    files, differences = build_engine(
        export.stream.name,
        export.files[0],
        read_profile(SKELETON / export.stream.name / "configs" / "tensorrt.pbtxt"),
        H100,
        cache,
        {"scene": scene} if batches is None else batches,
        "fp16",
    )
    assert differences
    return files


# Building


def test_an_engine_is_strongly_typed_for_the_batches_of_the_configuration(
    builder: Any, exports: Mapping[Stream, StreamExport], tmp_path: Path
) -> None:
    export = copied(exports[GLOBAL_TEXTURE], tmp_path / "model")
    plan, manifest = build(export, tmp_path / "cache.timing")
    (asked,) = builder.builds
    assert asked["flags"] & 1 << int(builder.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert asked["builder_flags"] == [], "TensorRT 11 has no precision flags"
    side = (252, 252, 3)
    assert asked["profiles"] == [{"PIXELS": ((1, *side), (8, *side), (32, *side))}]
    assert plan.read_bytes() == bytes(export.files[0])
    described = json.loads(manifest.read_text())
    assert described["tensorrt"] == H100.tensorrt
    assert (described["cuda"], described["gpu"], described["driver"]) == ("13.0", H100.gpu, H100.driver)
    assert described["compute_capability"] == "9.0"
    assert described["precision"] == "fp16"
    assert described["profile"] == {"PIXELS": [[1, *side], [8, *side], [32, *side]]}
    assert described["built"].endswith("+00:00")
    assert described["build_seconds"] >= 0
    assert set(described["largest_difference"]) == {"LOGITS", "FEATURES", "ATTENTION", "PROBABILITY"}
    for name, file in (("onnx_sha256", export.files[0]), ("engine_sha256", plan)):
        assert described[name] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_measurements_are_kept_for_the_next_build_and_locked(
    builder: Any, exports: Mapping[Stream, StreamExport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache.timing"
    export = copied(exports[GLOBAL_TEXTURE], tmp_path / "model")
    build(export, cache)
    assert cache.read_bytes() == b"measured"
    # Another build holds the file: this one waits, then takes what that one has added.
    program = (
        "import fcntl, sys; file = open(sys.argv[1] + '.lock', 'wb+'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('locked', flush=True); sys.stdin.read(); open(sys.argv[1], 'wb').write(b'of another'); file.close()"
    )
    command, lockf = [sys.executable, "-c", program, str(cache)], fcntl.lockf
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()

        def ask_for_lock(file: int, how: int) -> None:
            """The other goes on once this one has come so far."""
            if not other.stdin.closed:
                other.stdin.close()
            lockf(file, how)

        monkeypatch.setattr(fcntl, "lockf", ask_for_lock)
        build(export, cache)
    assert builder.builds[-1]["cache"] == b"of another"
    assert cache.read_bytes() == b"of another|measured"


def test_an_engine_that_computes_something_else_is_refused(
    builder: Any, exports: Mapping[Stream, StreamExport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(exports[LOCAL_FACIAL].files[0])
    monkeypatch.setattr(engine, "TrtRunner", lambda path: OnnxrtRunner(SessionFromOnnx(other)))
    export = copied(exports[GLOBAL_TEXTURE], tmp_path / "model")
    with pytest.raises(ParityError, match=r"global_texture .TensorRT against ONNX Runtime.*LOGITS on scene by"):
        build(export, tmp_path / "cache.timing")
    assert not (tmp_path / "model" / "model.plan.json").exists()


def test_a_build_that_fails_is_told_plainly(
    builder: Any, exports: Mapping[Stream, StreamExport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder.Builder, "build_serialized_network", lambda *arguments: None)
    with pytest.raises(TensorrtError, match="global_texture: TensorRT cannot build or run its engine: Invalid Engine"):
        build(copied(exports[GLOBAL_TEXTURE], tmp_path / "model"), tmp_path / "cache.timing")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_batch_size: 0", "needs one input PIXELS"),
        ('max_batch_size: 4 input { name: "IMAGE" }', "needs one input PIXELS"),
        ('max_batch_size: 0 input { name: "PIXELS" }', "a max_batch_size of 1 or more"),
        ('max_batch_size: 4 input { name: "PIXELS" } input { name: "BOX" }', "needs one input PIXELS"),
        ("max_batch_size: many", "not a Triton model configuration"),
    ],
)
def test_a_configuration_without_batches_has_no_profile(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text(text)
    with pytest.raises(TensorrtError, match=problem):
        read_profile(tmp_path / "config.pbtxt")


def test_a_configuration_that_is_not_there_has_no_profile(tmp_path: Path) -> None:
    with pytest.raises(TensorrtError, match=r"absent\.pbtxt: not a Triton model configuration"):
        read_profile(tmp_path / "absent.pbtxt")


def test_a_single_image_is_a_batch(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text('max_batch_size: 1 input { name: "PIXELS" dims: [ 4, -1, 3 ] }')
    assert read_profile(tmp_path / "config.pbtxt") == EngineProfile((1, 4, 1, 3), (1, 4, 1024, 3), (1, 4, 1980, 3))


def test_the_manifest_has_the_largest_difference_of_all_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        Difference(f"batch of {size}", size, output, largest, 1.0)
        for size, output, largest in ((1, "LOGITS", 0.2), (1, "FEATURES", 0.1), (3, "LOGITS", 0.5), (8, "LOGITS", 0.3))
    ]
    monkeypatch.setattr(engine, "build_plan", lambda *arguments: (b"plan", 61.26))
    monkeypatch.setattr(engine, "_compare", lambda *arguments: found)
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    profile = EngineProfile((1,), (2,), (3,))
    (plan, manifest), differences = build_engine(
        "any", tmp_path / "model.onnx", profile, H100, tmp_path / "cache", {}, "fp32"
    )
    assert differences == found
    assert plan.read_bytes() == b"plan"
    described = json.loads(manifest.read_text())
    assert described["largest_difference"] == {"LOGITS": 0.5, "FEATURES": 0.1}
    assert described["build_seconds"] == 61.3


def test_a_bfloat16_engine_is_held_against_bfloat16_arithmetic(tmp_path: Path) -> None:
    """ONNX Runtime does not compute in it on a CPU."""
    text = """<ir_version: 10, opset_import: ["" : 18]>
        g (uint8[batch,2] PIXELS) => (float[batch,2] LOGITS) <float[2,2] w = {1.01, 0.0, 0.0, -2.03}> {
            x = Cast<to=1>(PIXELS) y = MatMul(x, w) z = Neg(y) LOGITS = Neg(z)
        }"""
    model = ir.passes.common.ShapeInferencePass()(ir.from_onnx_text(text)).model
    to_half(model, ir.DataType.BFLOAT16)
    ir.save(model, path := tmp_path / "model.onnx")
    feeds = [{"PIXELS": np.full((batch, 2), 3, np.uint8)} for batch in (1, 2)]
    outputs = engine._reference(path, feeds, "bf16")
    assert [list(each) for each in outputs] == [["LOGITS"], ["LOGITS"]]
    # 8 bits of precision: 1.01 is 1.0078125, and 2.03 is 2.03125.
    np.testing.assert_array_equal(outputs[1]["LOGITS"], [[3.03125, -6.09375]] * 2)


def test_small_batches_and_free_sides_have_a_profile() -> None:
    profile = read_profile(CONFIGURATIONS / "face_detector.tensorrt.pbtxt")
    assert profile.smallest == (1, 1, 1, 3)
    assert profile.optimal == (4, 1024, 1024, 3)
    assert profile.largest == (4, 1980, 1980, 3)


# Which models get one


def test_streams_and_the_detector_get_an_engine_and_gfpgan_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, stages, told = list[dict[str, Any]](), list[str](), list[str]()
    names = ("name", "model", "profile", "platform", "cache", "batches", "precision")

    def build_engine(*arguments: Any) -> tuple[list[Path], list[Difference]]:
        asked = dict(zip(names, arguments, strict=True))
        built.append(asked)
        plan = asked["model"].with_name("model.plan")
        return [plan, plan.with_name("model.plan.json")], [Difference("any", 1, asked["name"], 0, 1)]

    monkeypatch.setattr(engines, "build_engine", build_engine)
    exports = stream_exports(tmp_path / "streams", ("model.onnx", "model.onnx.data"))
    faces = [face_model(tmp_path, name) for name in ("face_aligner", "face_detector", "face_restorer")]
    repository = tmp_path / "models"
    for stream in STREAMS:
        configs = repository / stream.name / "configs"
        configs.mkdir(parents=True)
        text = f'max_batch_size: 2 input {{ name: "PIXELS" dims: [ {stream.pixels}, {stream.pixels}, 3 ] }}'
        (configs / "tensorrt.pbtxt").write_text(text)
    streams, others = add_engines(
        exports, faces, repository, H100, stages.append, lambda name, differences: told.append(name)
    )
    expected = [*(stream.name for stream in STREAMS), "face_detector"]
    assert [each["name"] for each in built] == told == expected
    assert [stage.partition(":")[0] for stage in stages] == expected
    assert [each["precision"] for each in built] == ["fp32"] * 3 + ["fp16"]
    assert {each["cache"] for each in built} == {repository / "provenance" / "tensorrt-10.12.0.36-9.0.timing"}
    for before, after in zip((*exports, *faces), (*streams, *others), strict=True):
        added = {"model.plan", "model.plan.json"} if after.name in expected else set()
        assert {file.name for file in after.files} == {file.name for file in before.files} | added
    for stream, each in zip(STREAMS, built, strict=False):
        side = (stream.pixels, stream.pixels, 3)
        assert each["model"] == tmp_path / "streams" / stream.name / "model.onnx"
        assert each["profile"] == EngineProfile((1, *side), (2, *side), (2, *side))
        assert [batch.shape for batch in each["batches"].values()] == [(size, *side) for size in (1, 3, 8, 32)]
    detector = built[-1]
    assert detector["profile"] == read_profile(CONFIGURATIONS / "face_detector.tensorrt.pbtxt")
    shapes = [batch.shape for batch in detector["batches"].values()]
    assert shapes == [(1, 96, 128, 3), (3, 101, 75, 3), (1, 1024, 1024, 3), (1, 1980, 1980, 3)]


def test_no_two_images_of_a_batch_are_the_same() -> None:
    """Else an engine that mixes up the images of a batch would pass."""
    batches = samples.batches_of_sizes(24, (1, 3, 32))
    assert {name: len(batch) for name, batch in batches.items()} == {
        "batch of 1": 1,
        "batch of 3": 3,
        "batch of 32": 32,
    }
    assert len({image.tobytes() for image in batches["batch of 32"]}) > 24, "but for the white ones"


# Publishing


def test_engines_are_published_with_their_models_and_go_with_them(
    builder: Any, exports: Mapping[Stream, StreamExport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engines.TRIED_BATCHES == (1, 3, 8, 32)
    monkeypatch.setattr(engines, "TRIED_BATCHES", (1, 2))
    repository, stages, compared = tmp_path / "models", [], []
    with staging(repository) as folder:
        staged = [copied(export, folder / export.stream.name) for export in exports.values()]
        streams, _ = add_engines(
            staged, [], repository, H100, stages.append, lambda name, differences: compared.append((name, differences))
        )
        publish(repository, streams)
    assert [name for name, _ in compared] == [stream.name for stream in STREAMS]
    assert {each.batch for _, differences in compared for each in differences} == {1, 2}
    for stream in STREAMS:
        names = {file.name for file in (repository / stream.name / "1").iterdir() if not file.name.startswith(".")}
        assert names == {"model.onnx", "model.fused.onnx", "model.plan", "model.plan.json"}
    assert (repository / "provenance/tensorrt-10.12.0.36-9.0.timing").exists()
    runtime = Runtime("10.12.0", H100.gpu, "9.0")
    (finding,) = check_engines(repository, runtime)
    assert (finding.level, finding.subject) == (Level.OK, "engines")

    with staging(repository) as folder:  # without engines, the old ones must not stay beside new models
        publish(repository, [copied(export, folder / export.stream.name) for export in exports.values()])
    assert not list(repository.rglob("model.plan*"))
    assert list(check_engines(repository, runtime)) == []


# The doctor


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A repository with one engine and its manifest."""
    folder = tmp_path / SEMANTIC_FUSION.name / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"onnx")
    (folder / "model.plan").write_bytes(b"plan")
    manifest = {**vars(H100), "onnx_sha256": hashlib.sha256(b"onnx").hexdigest()}
    (folder / "model.plan.json").write_text(json.dumps(manifest))
    return tmp_path


@pytest.mark.parametrize(
    ("runtime", "level", "text"),
    [
        (Runtime("10.12.0", H100.gpu, "9.0"), Level.OK, "here: TensorRT 10.12.0"),
        (Runtime(), Level.OK, "not tried"),
        (Runtime("10.13.0", H100.gpu, "9.0"), Level.WRONG, "TensorRT 10.13.0, which is here, refuses it"),
        (Runtime("11.0.0", H100.gpu, "9.0"), Level.WRONG, "TensorRT 11.0.0"),
        (Runtime("10.12.0", "NVIDIA L4", "8.9"), Level.WRONG, r"the GPU here is NVIDIA L4 (8.9)"),
        (Runtime("10.12.0", "NVIDIA H200", "9.0"), Level.WARNING, "may be slow"),
    ],
)
def test_doctor_compares_manifest_and_runtime(runtime: Runtime, level: Level, text: str, served: Path) -> None:
    (finding,) = check_engines(served, runtime)
    assert finding.level is level
    assert text in finding.detail
    assert ("make engines" in finding.fix) is (level is not Level.OK)


def test_doctor_finds_an_engine_of_another_model(served: Path) -> None:
    (served / SEMANTIC_FUSION.name / "1" / "model.onnx").write_bytes(b"exported since")
    (finding,) = check_engines(served, Runtime())
    assert finding.level is Level.WRONG
    assert "another model" in finding.detail


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", "\xff"])
def test_doctor_trusts_no_engine_without_a_manifest(text: str | None, served: Path) -> None:
    path = served / SEMANTIC_FUSION.name / "1" / "model.plan.json"
    path.unlink()
    if text is not None:
        path.write_text(text, encoding="latin-1")
    (finding,) = check_engines(served, Runtime())
    assert finding.level is Level.WARNING
    assert "unknown origin" in finding.detail


def test_doctor_of_engines_alone_minds_nothing_else(served: Path) -> None:
    """In NVIDIA's container this project's own tritonserver is not there, and not wanted."""
    command = ["doctor", "--engines", "--model-repository", str(served)]
    fine = CliRunner().invoke(server_main, command)
    assert fine.exit_code == 0, fine.output
    assert "semantic_fusion: built with TensorRT 10.12.0.36" in " ".join(fine.output.split())
    assert "tritonserver" not in fine.output
    (served / SEMANTIC_FUSION.name / "1" / "model.onnx").write_bytes(b"exported since")
    wrong = CliRunner().invoke(server_main, command)
    assert wrong.exit_code == 1
    assert "make engines" in wrong.output
    (served / SEMANTIC_FUSION.name / "1" / "model.plan").unlink()
    none = CliRunner().invoke(server_main, command)
    assert isinstance(none.exception, RefusedError)
    assert "has no engines" in str(none.exception)


def test_doctor_looks_for_tensorrt_and_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_runtime() == Runtime()
    fake_nvidia_smi(tmp_path, "NVIDIA H100 80GB HBM3, 9.0")
    assert find_runtime() == Runtime("", H100.gpu, "9.0")
    (tmp_path / "tensorrt.py").write_text("__version__ = '11.2.1.2'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert find_runtime().tensorrt == "11.2.1.2"


# What is missing


def fake_nvidia_smi(folder: Path, text: str, status: int = 0) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{text}'\nexit {status}\n")
    program.chmod(0o755)


def test_what_is_missing_is_said_exactly_and_the_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(TensorrtError, match="make engines") as raised:
        require_tensorrt()
    assert "the Python package tensorrt cannot be imported" in str(raised.value)
    assert "no NVIDIA GPU (no nvidia-smi)" in str(raised.value)

    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt("10.9.0.34"))
    fake_nvidia_smi(tmp_path, "NVIDIA-SMI has failed because it could not communicate with the driver", 9)
    with pytest.raises(TensorrtError, match=r"TensorRT 10\.9\.0\.34 is too old, 10\.12 or later is needed; .*fails"):
        require_tensorrt()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """NVIDIA's driver: what it answers for its version of CUDA, and whether it fails."""
    answer = {"version": 12080, "failed": 0}

    def version_of(pointer: Any) -> int:
        pointer._obj.value = answer["version"]
        return answer["failed"]

    def library(name: str) -> SimpleNamespace:
        assert name == "libcuda.so.1"
        return SimpleNamespace(cuDriverGetVersion=version_of)

    monkeypatch.setattr(ctypes, "CDLL", library)
    return answer


@pytest.mark.parametrize(
    ("version", "cuda", "failed"), [(12080, "12.8", 0), (13000, "13.0", 0), (12110, "12.11", 0), (12080, "", 3)]
)
def test_what_is_there_is_told_of_the_first_gpu(
    version: int, cuda: str, failed: int, driver: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver |= {"version": version, "failed": failed}
    monkeypatch.setenv("PATH", str(tmp_path))
    # The oldest release that will do.
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt("10.12.0.36"))
    fake_nvidia_smi(tmp_path, "NVIDIA H200, 9.0, 580.65.06\nNVIDIA L4, 8.9, 580.65.06")
    assert require_tensorrt() == Platform("10.12.0.36", cuda, "NVIDIA H200", "9.0", "580.65.06")


def test_a_machine_without_a_driver_s_library_tells_no_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt("11.2.1.2"))
    fake_nvidia_smi(tmp_path, "NVIDIA H200, 9.0, 580.65.06")
    assert require_tensorrt().cuda == ""


@pytest.mark.parametrize("answer", ["No devices were found", "NVIDIA H200, 9.0", "NVIDIA H200, 9.0, 580, more"])
def test_an_answer_that_names_no_gpu_is_told(answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt("11.2.1.2"))
    fake_nvidia_smi(tmp_path, answer)
    with pytest.raises(TensorrtError, match=f"built here: nvidia-smi answers '{answer}', not a GPU. Run"):
        require_tensorrt()


def test_command_refuses_before_it_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    options = ["--weights", str(tmp_path / "none"), "--repository", str(tmp_path / "models"), "--target", "tensorrt"]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 1
    message = " ".join(result.output.split())
    assert "no TensorRT engine can be built here" in message
    assert "without --target tensorrt, the ONNX models alone are exported" in message
    assert not list(tmp_path.iterdir())
