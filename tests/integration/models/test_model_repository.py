"""Every config.pbtxt against the stream specifications, the ensemble's wiring and the contract with clients."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tritonclient.grpc
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from ensemble.images import Limits
from ensemble.streams import ENSEMBLE_NAME, MAX_BATCH_SIZE, STREAMS
from tests.conftest import free_ports, start_server
from tests.golden import ROOT
from tests.waiting import PATIENCE

REPOSITORY = ROOT / "model_repository"
FACE_CONFIGURATIONS = sorted((ROOT / "export" / "configurations").glob("face_*.pbtxt"))
CONFIGS = {
    path.parent.name: text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    for path in sorted(REPOSITORY.glob("*/config.pbtxt"))
}
ENSEMBLE = CONFIGS[ENSEMBLE_NAME]

# Of the models that the export puts there, too: beside it lie NAME.pbtxt and NAME.OTHER.pbtxt.
DEFAULTS = CONFIGS | {
    path.stem: text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    for path in FACE_CONFIGURATIONS
    if "." not in path.stem
}
ALTERNATIVES = {
    (name, kind): text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    for path, name, kind in (
        *((path, path.parent.parent.name, path.stem) for path in sorted(REPOSITORY.glob("*/configs/*.pbtxt"))),
        *((path, *path.stem.split(".")) for path in FACE_CONFIGURATIONS if "." in path.stem),
    )
}

INPUTS = {"IMAGE": ("TYPE_STRING", [1], False), "FACE_BOX": ("TYPE_FP32", [4], True)}
OUTPUTS = {
    "SCORE": ("TYPE_FP32", [1]),
    "PROBABILITY": ("TYPE_FP32", [1]),
    "STREAM_PROBABILITIES": ("TYPE_FP32", [3]),
    "STREAM_VOTES": ("TYPE_FP32", [3]),
    "FACE": ("TYPE_FP32", [4]),
    "FACE_CONFIDENCE": ("TYPE_FP32", [1]),
    "FACE_SOURCE": ("TYPE_STRING", [1]),
    "STATUS": ("TYPE_STRING", [1]),
}


def _type(tensor: pb.ModelInput | pb.ModelOutput) -> tuple[str, list[int]]:
    return pb.DataType.Name(tensor.data_type), list(tensor.dims)


def test_every_folder_is_a_model_named_after_it() -> None:
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir()}
    assert folders == set(CONFIGS)
    assert all(config.name == folder for folder, config in CONFIGS.items())


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"provenance"}))
def test_batch_size_is_the_specified_one(name: str) -> None:
    assert CONFIGS[name].max_batch_size == MAX_BATCH_SIZE


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"provenance", ENSEMBLE_NAME, "deepfake_verdict"}))
def test_steps_batch_and_warm_up_and_state_their_instances(name: str) -> None:
    assert CONFIGS[name].HasField("dynamic_batching") == (
        name not in ("preprocess", "decision")
    )  # which answer requests one by one
    assert CONFIGS[name].model_warmup
    assert [group.count for group in CONFIGS[name].instance_group] == [2 if name == "face_crop" else 1]


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_backbones_follow_their_stream(stream) -> None:
    config = CONFIGS[stream.name]
    assert config.backend == "onnxruntime"
    assert {tensor.name: _type(tensor) for tensor in config.input} == {
        "PIXELS": ("TYPE_UINT8", [stream.pixels, stream.pixels, 3])
    }
    assert {tensor.name: _type(tensor) for tensor in config.output} == {
        "LOGITS": ("TYPE_FP32", [2]),
        "FEATURES": ("TYPE_FP32", [-1]),
        "ATTENTION": ("TYPE_FP32", [-1]),
    }
    for warmup in config.model_warmup:
        assert list(warmup.inputs["PIXELS"].dims) == [stream.pixels, stream.pixels, 3]


@pytest.mark.parametrize("key", sorted(ALTERNATIVES), ids="-".join)
def test_every_configuration_of_a_model_has_one_interface(key: tuple[str, str]) -> None:
    config, default = ALTERNATIVES[key], DEFAULTS[key[0]]
    assert (config.name, config.max_batch_size) == (default.name, default.max_batch_size)
    assert list(config.input) == list(default.input)
    assert list(config.output) == list(default.output)
    assert config.HasField("dynamic_batching")
    assert config.model_warmup
    assert all(size <= config.max_batch_size for size in config.dynamic_batching.preferred_batch_size)


@pytest.mark.parametrize("name", [*(stream.name for stream in STREAMS), "face_detector"])
def test_engines_are_served_on_a_gpu(name: str) -> None:
    config = ALTERNATIVES[name, "tensorrt"]
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, pb.ModelInstanceGroup.KIND_GPU)]


@pytest.mark.parametrize("name", [*(stream.name for stream in STREAMS), "face_detector"])
def test_onnx_models_take_a_gpu_where_there_is_one(name: str) -> None:
    config = DEFAULTS[name]
    assert [group.kind for group in config.instance_group] == [pb.ModelInstanceGroup.KIND_AUTO]
    assert config.parameters["cudnn_conv_algo_search"].string_value == "1"  # HEURISTIC


@pytest.mark.server
def test_a_named_configuration_is_taken_where_a_model_has_it(tiny_repository: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(tiny_repository, repository)
    text = (repository / "voter" / "config.pbtxt").read_text()
    (repository / "voter" / "configs").mkdir()
    (repository / "voter" / "configs" / "other.pbtxt").write_text(text.replace("{ count: 1 ", "{ count: 2 "))
    server = start_server(repository, tmp_path / "log", config_name="other")
    try:
        with tritonclient.grpc.InferenceServerClient(server.url) as client:
            counts = {
                name: client.get_model_config(name).config.instance_group[0].count for name in ("voter", "preprocess")
            }
    finally:
        assert server.stop() == 0
    assert counts == {"voter": 2, "preprocess": 1}


@pytest.mark.server
def test_engines_are_refused_where_nothing_can_run_them(tiny_repository: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(tiny_repository, repository)
    for stream in STREAMS:
        (repository / stream.name / "1" / "model.plan").touch()
    command = [sys.executable, "-m", "server", "--model-repository", str(repository), "--model-config-name", "tensorrt"]
    ports = [f"--{name}-port={port}" for name, port in zip(("grpc", "http", "metrics"), free_ports(3), strict=True)]
    done = subprocess.run([*command, *ports], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "no backend tensorrt (global_texture)" in done.stderr


def test_the_ensemble_keeps_the_contract() -> None:
    assert {t.name: (*_type(t), t.optional) for t in ENSEMBLE.input} == INPUTS
    assert {t.name: _type(t) for t in ENSEMBLE.output} == OUTPUTS


def test_the_ensemble_is_wired_without_a_gap_or_a_mismatch() -> None:
    tensors = {t.name: _type(t) for t in ENSEMBLE.input}
    steps = list(ENSEMBLE.ensemble_scheduling.step)
    for step in steps:
        for tensor in CONFIGS[step.model_name].output:
            if tensor.name in step.output_map:
                target = step.output_map[tensor.name]
                assert target not in tensors, f"{target} is written twice"
                tensors[target] = _type(tensor)
    for step in steps:
        inputs = {tensor.name: _type(tensor) for tensor in CONFIGS[step.model_name].input}
        assert set(step.input_map) == set(inputs)
        assert set(step.output_map) <= {tensor.name for tensor in CONFIGS[step.model_name].output}
        assert {name: tensors[source] for name, source in step.input_map.items()} == inputs
    assert {name: tensors[name] for name in OUTPUTS} == OUTPUTS
    assert {step.model_name for step in steps} >= {stream.name for stream in STREAMS}


def test_no_step_limits_its_queue_since_the_first_one_admits() -> None:
    ensembles = [config for config in CONFIGS.values() if config.platform == "ensemble"]
    steps = {step.model_name for config in ensembles for step in config.ensemble_scheduling.step}
    assert not [name for name in steps if CONFIGS[name].dynamic_batching.default_queue_policy.max_queue_size]


def test_limits_are_the_defaults_of_the_library() -> None:
    parameters = CONFIGS["preprocess"].parameters
    limits = Limits(**{key: int(parameters[key].string_value) for key in ("max_bytes", "max_pixels")})
    assert limits == Limits()
