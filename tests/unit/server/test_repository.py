"""What the launcher reads in a model repository, and says of it before and after a start."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.errors import RepositoryError
from server.repository import (
    ENSEMBLE,
    describe_face_detector,
    describe_framing,
    describe_weights,
    missing_parts,
    read_models,
)

CHAIN = """
platform: "ensemble" max_batch_size: 32
ensemble_scheduling { step [ { model_name: "preprocess" model_version: -1 }, { model_name: "net" model_version: -1 } ] }
"""


def add(repository: Path, name: str, config: str, *versions: str, files: tuple[str, ...] = ()) -> None:
    for version in ("", *versions):
        (repository / name / version).mkdir(parents=True, exist_ok=True)
    (repository / name / "config.pbtxt").write_text(config)
    for file in files:
        (repository / name / file).write_text("")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    add(tmp_path, ENSEMBLE, CHAIN, "1")
    add(tmp_path, "preprocess", 'backend: "python" max_batch_size: 8', "1", files=("1/model.py",))
    add(tmp_path, "net", 'platform: "onnxruntime_onnx"', "2", "10", "old", files=("10/model.onnx",))
    return tmp_path


def test_a_model_has_its_steps_its_backend_and_the_file_of_its_latest_version(repository: Path) -> None:
    ensemble, net, preprocess = read_models(repository)
    assert (ensemble.name, ensemble.backend, ensemble.file) == (ENSEMBLE, "", None)
    assert (ensemble.max_batch_size, ensemble.steps) == (32, ("preprocess", "net"))
    assert (net.backend, net.file) == ("onnxruntime", repository / "net" / "10" / "model.onnx")
    assert (net.max_batch_size, net.steps) == (0, ())
    assert (preprocess.backend, preprocess.file) == ("python", repository / "preprocess" / "1" / "model.py")
    assert preprocess.max_batch_size == 8
    assert missing_parts([ensemble, net, preprocess], repository) == []


@pytest.mark.parametrize(
    ("backend", "file"),
    [("openvino", "model.xml"), ("tensorrt", "model.plan"), ("onnxruntime", "model.onnx"), ("python", "model.py")],
)
def test_each_backend_has_its_file(tmp_path: Path, backend: str, file: str) -> None:
    add(tmp_path, "net", f'backend: "{backend}"')
    (model,) = read_models(tmp_path)
    assert model.file == tmp_path / "net" / "1" / file
    assert f"net needs {model.file}, which is not there" in missing_parts([model], tmp_path)


def test_a_configuration_may_name_its_file_and_a_backend_that_has_none_needs_a_version_folder(tmp_path: Path) -> None:
    add(tmp_path, "named", 'backend: "onnxruntime" default_model_filename: "other.onnx"', "3", files=("3/other.onnx",))
    add(tmp_path, "other", 'backend: "identity"', "x1")
    named, other = read_models(tmp_path)
    assert named.file == tmp_path / "named" / "3" / "other.onnx"
    assert other.file is None
    lacks = missing_parts([named, other], tmp_path)
    assert lacks == [
        f"{tmp_path} has no model {ENSEMBLE}; it has named, other",
        f"other needs a version folder, {tmp_path / 'other' / '1'} (it may be empty)",
    ]
    (tmp_path / "other" / "1").mkdir()
    assert missing_parts([named, other], tmp_path) == lacks[:1]


def test_a_step_that_is_not_there_is_named(repository: Path) -> None:
    models = [model for model in read_models(repository) if model.name != "preprocess"]
    assert missing_parts(models, repository) == [f"{ENSEMBLE} needs the model preprocess, which is not there"]


def test_a_named_configuration_is_read_where_a_model_has_it_and_the_default_one_elsewhere(repository: Path) -> None:
    (repository / "net" / "configs").mkdir()
    (repository / "net" / "configs" / "openvino.pbtxt").write_text('backend: "openvino" max_batch_size: 4')
    ensemble, net, preprocess = read_models(repository, "openvino")
    assert (net.backend, net.max_batch_size, net.file) == ("openvino", 4, repository / "net" / "10" / "model.xml")
    assert (ensemble.max_batch_size, preprocess.backend) == (32, "python")
    assert read_models(repository)[1].backend == "onnxruntime"


def test_a_configuration_that_is_no_text_is_named(repository: Path) -> None:
    (repository / "net" / "config.pbtxt").write_bytes(b"\xff\xfe")
    with pytest.raises(RepositoryError, match=r"net/config\.pbtxt: not a Triton model configuration") as caught:
        read_models(repository)
    assert caught.value.fix == "mend or remove it"


def provenance(repository: Path, **changed: Any) -> None:
    document = {
        "untrained": False,
        "created": "2026-01-01",
        "precision": "fp32",
        "streams": {"one": {"checkpoint": "a.pth"}, "two": {"checkpoint": "b.pth"}},
    }
    folder = repository / "provenance" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "provenance.json").write_text(json.dumps(document | changed))


def test_weights_are_told_from_random_ones_and_stand_ins(tmp_path: Path) -> None:
    provenance(tmp_path)
    assert describe_weights(tmp_path) == ("weights a.pth, b.pth (exported 2026-01-01, fp32)", True)
    provenance(tmp_path, untrained=True)
    assert describe_weights(tmp_path) == (
        "UNTRAINED random weights (exported 2026-01-01, fp32): the scores mean nothing",
        False,
    )
    provenance(tmp_path, stand_in="of samples")
    assert describe_weights(tmp_path) == ("STAND-IN weights: of samples (exported 2026-01-01, fp32)", False)


@pytest.mark.parametrize("changed", [{"streams": None}, {"streams": {"one": {}}}, {"streams": {"one": 3}}])
def test_a_provenance_that_says_no_weights_is_of_unknown_origin(tmp_path: Path, changed: dict[str, Any]) -> None:
    provenance(tmp_path, **changed)
    said, trained = describe_weights(tmp_path)
    assert said.startswith(f"weights of unknown origin ({tmp_path / 'provenance' / '1' / 'provenance.json'} is unread")
    assert not trained


@pytest.mark.parametrize("text", ["", "{", "[]", "3", None])
def test_a_provenance_that_cannot_be_read_is_of_unknown_origin(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "provenance" / "1" / "provenance.json"
    path.parent.mkdir(parents=True)
    if text is None:
        path.mkdir()
    else:
        path.write_text(text)
    said, trained = describe_weights(tmp_path)
    assert said.startswith(f"weights of unknown origin ({path} is unreadable: ")
    assert not trained


def test_a_repository_without_provenance_is_of_unknown_origin(tmp_path: Path) -> None:
    said, trained = describe_weights(tmp_path)
    assert said.endswith("provenance.json is missing)")
    assert not trained


def parameters(**values: str) -> str:
    return "".join(f'parameters {{ key: "{k}" value: {{ string_value: "{v}" }} }}\n' for k, v in values.items())


def test_the_framing_is_told_with_the_margin_where_it_has_one(tmp_path: Path) -> None:
    assert describe_framing(tmp_path) == ""
    add(tmp_path, "preprocess", parameters(framing="square", face_margin="1.3"), "1")
    assert describe_framing(tmp_path) == "square"
    (tmp_path / "preprocess" / "config.pbtxt").write_text(parameters(framing="face", face_margin="1.7"))
    assert describe_framing(tmp_path) == "face, margin 1.7"


def test_the_face_detector_is_told_as_it_will_be_chosen(tmp_path: Path) -> None:
    assert describe_face_detector(tmp_path) == ""
    add(tmp_path, "face_crop", parameters(detector="auto", attempts="all"), "1")
    assert describe_face_detector(tmp_path) == "haar, all attempts"
    (tmp_path / "face_restorer").mkdir()
    assert describe_face_detector(tmp_path) == "haar, all attempts, with GFPGAN"
    (tmp_path / "face_detector").mkdir()
    assert describe_face_detector(tmp_path) == "retinaface, all attempts, with GFPGAN"
    (tmp_path / "face_crop" / "config.pbtxt").write_text(parameters(detector="haar", attempts="1"))
    assert describe_face_detector(tmp_path) == "haar, 1 attempts, with GFPGAN"
