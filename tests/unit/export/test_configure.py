"""What Triton has to know of the streams follows from their specifications."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ensemble.streams import GLOBAL_TEXTURE, LOCAL_FACIAL, SEMANTIC_FUSION, STREAMS, Stream
from export.configure import configure, main, stream_configurations, with_parts
from export.layout import GENERATED, SKELETON

FACE = Stream("eyes", "Eyes", "eyes.pth", 196, 1, "face_resize")
OTHER = Stream("other", "Other", "other.onnx", 299, 3, "resize")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    target = tmp_path / "models"
    shutil.copytree(SKELETON, target, ignore=shutil.ignore_patterns(*GENERATED))
    return target


def read(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def dims(tensors) -> dict[str, list[int]]:  # type: ignore[no-untyped-def]
    return {tensor.name: list(tensor.dims) for tensor in tensors}


def test_the_files_of_the_checkout_are_what_is_written(repository: Path) -> None:
    assert configure(repository) == [], "run python -m export.configure"


@pytest.mark.parametrize("path", ["voter/config.pbtxt", "local_facial/configs/tensorrt.pbtxt"])
def test_what_was_changed_by_hand_is_written_anew(path: str, repository: Path) -> None:
    text = (repository / path).read_text()
    (repository / path).write_text(text.replace("LOCAL_FACIAL", "LOCAL").replace("252", "251"))
    result = CliRunner().invoke(main, ["--repository", str(repository)])
    assert result.output.split() == [str(repository / path)]
    assert (repository / path).read_text() == text


def test_a_stream_more_is_cut_run_and_voted_on(repository: Path) -> None:
    streams = (*STREAMS, FACE, OTHER)
    configure(repository, streams)
    assert configure(repository, streams) == []
    assert dims(read(repository / "preprocess/config.pbtxt").output)["OTHER_PIXELS"] == [299, 299, 3]
    assert dims(read(repository / "face_crop/config.pbtxt").output)["EYES_PIXELS"] == [196, 196, 3]
    voter = read(repository / "voter/config.pbtxt")
    assert [tensor.name for tensor in voter.input][:5] == [stream.logits_name for stream in streams]
    assert {"EYES_LOGITS", "OTHER_LOGITS"} < set(voter.model_warmup[0].inputs)
    for path in ("voter/config.pbtxt", "deepfake_detector/config.pbtxt"):
        outputs = dims(read(repository / path).output)
        assert outputs["STREAM_PROBABILITIES"] == outputs["STREAM_VOTES"] == [5]
        assert outputs["SCORE"] == [1]
    steps = {
        step.model_name: step for step in read(repository / "deepfake_detector/config.pbtxt").ensemble_scheduling.step
    }
    assert list(steps) == ["preprocess", "face_crop", *(stream.name for stream in streams), "voter"]
    for stream, source in ((FACE, "face_crop"), (OTHER, "preprocess")):
        assert steps[source].output_map[stream.pixels_name] == steps[stream.name].input_map["PIXELS"]
        assert steps[stream.name].output_map["LOGITS"] == steps["voter"].input_map[stream.logits_name]


def early(repository: Path, streams: tuple[Stream, ...]) -> tuple[list[str], list[str], model_config_pb2.ModelConfig]:
    """The steps of deepfake_verdict, the late streams in their order, and the last step; every input has its source."""
    configure(repository, streams)
    assert configure(repository, streams) == []
    ensemble, decision = (read(repository / name / "config.pbtxt") for name in ("deepfake_verdict", "decision"))
    steps = ensemble.ensemble_scheduling.step
    made = {tensor.name for tensor in ensemble.input}
    for step in steps:
        assert set(step.input_map.values()) <= made, step.model_name
        made |= set(step.output_map.values())
    inputs = {tensor.name for tensor in decision.input}
    assert set(steps[-1].input_map) == inputs
    assert set(decision.model_warmup[0].inputs) == inputs - {"THRESHOLD", "PERMIT"}
    assert dims(ensemble.output)["STREAM_VOTES"] == [len(streams)]
    late = decision.parameters["late"].string_value
    return [step.model_name for step in steps], late.split(",") if late else [], decision


def test_a_stream_of_little_weight_for_its_cost_is_asked_late(repository: Path) -> None:
    steps, late, decision = early(repository, STREAMS)
    assert (steps, late) == (["preprocess", "global_texture", "semantic_fusion", "decision"], ["local_facial"])
    assert {"IMAGE", "DECODED", "BOX"} < {tensor.name for tensor in decision.input}


def test_a_heavy_face_stream_is_asked_first_and_the_others_late(repository: Path) -> None:
    heavy = (GLOBAL_TEXTURE, replace(LOCAL_FACIAL, weight=6), SEMANTIC_FUSION, FACE)
    steps, late, decision = early(repository, heavy)
    assert steps == ["preprocess", "face_crop", "local_facial", "decision"]
    assert late == ["semantic_fusion", "global_texture", "eyes"]
    inputs = dims(decision.input)
    assert inputs["GLOBAL_TEXTURE_PIXELS"] == [252, 252, 3]
    assert inputs["EYES_PIXELS"] == [196, 196, 3]
    assert {"FACE", "FACE_CONFIDENCE", "FACE_SOURCE"} < set(inputs)
    assert not {"DECODED", "BOX", "LOCAL_FACIAL_PIXELS"} & set(inputs)


def test_what_a_network_of_another_method_costs_can_be_declared(repository: Path) -> None:
    cheap, dear = (replace(OTHER, weight=2, tflop=tflop) for tflop in (0.001, 9.0))
    assert early(repository, (*STREAMS, cheap))[1] == ["global_texture", "local_facial"]
    assert early(repository, (*STREAMS, dear))[1] == ["local_facial", "other"]
    with pytest.raises(ValueError, match="tflop is 0; it must be above 0"):
        replace(OTHER, tflop=0)


def test_where_no_majority_is_left_no_stream_is_late(repository: Path) -> None:
    assert early(repository, (GLOBAL_TEXTURE, SEMANTIC_FUSION))[1] == []
    assert early(repository, (GLOBAL_TEXTURE,))[0] == ["preprocess", "global_texture", "decision"]


def test_a_streams_own_configurations() -> None:
    files = stream_configurations(FACE)
    assert set(files) == {"config.pbtxt", "configs/fused.pbtxt", "configs/openvino.pbtxt", "configs/tensorrt.pbtxt"}
    for text in files.values():
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert config.name == "eyes"
        assert dims(config.input) == {"PIXELS": [196, 196, 3]}
        assert dims(config.output) == {"LOGITS": [2], "FEATURES": [-1], "ATTENTION": [-1]}
        assert all(list(each.inputs["PIXELS"].dims) == [196, 196, 3] for each in config.model_warmup)
        assert "# Eyes stream: DINOv2 on the whole face crop." in text
    other = text_format.Parse(stream_configurations(OTHER)["config.pbtxt"], model_config_pb2.ModelConfig())
    assert dims(other.output) == {"LOGITS": [2]}


def test_a_stream_less_leaves_nothing(repository: Path) -> None:
    configure(repository, (GLOBAL_TEXTURE,))
    assert not (repository / "local_facial").exists()
    assert not (repository / "semantic_fusion").exists()
    for path in repository.rglob("*.pbtxt"):
        assert "local_facial" not in path.read_text()
        assert "LOCAL_FACIAL" not in path.read_text()
        read(path)
    assert (repository / "face_crop/1/model.py").exists()


def test_the_rest_of_a_file_stays_as_it_is() -> None:
    text = "before\n  # streams: logits\n  old\n  # streams: end\nafter\n"
    assert with_parts(text, (LOCAL_FACIAL,)) == (
        'before\n  # streams: logits\n  { name: "LOCAL_FACIAL_LOGITS" data_type: TYPE_FP32 dims: [ 2 ] },\n'
        "  # streams: end\nafter\n"
    )
    with pytest.raises(ValueError, match="no part 'logit'"):
        with_parts(text.replace("logits", "logit"), STREAMS)


def test_a_stream_cannot_be_larger_than_the_square_it_is_cut_from() -> None:
    with pytest.raises(ValueError, match="the centre of 256 pixels has no 257"):
        replace(GLOBAL_TEXTURE, pixels=257)
    assert replace(GLOBAL_TEXTURE, pixels=257, framing="resize").is_resized
