"""The repository with the cache in front: links, and the two ensembles behind steps of their names; and that step."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from server.cli import main
from server.container import cache_size
from server.errors import RefusedError
from server.response_cache.overlay import ENSEMBLES, lay_over
from tests.fakes.backend import LONG, Backend, InferenceResponse, Request, Tensor, TritonError, column

ROOT = Path(__file__).resolve().parents[3]
SKELETON = ROOT / "model_repository"


def read(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((path / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


@pytest.mark.parametrize("name", ENSEMBLES)
def test_each_ensemble_keeps_its_interface_behind_a_step_of_its_name(name: str, tmp_path: Path) -> None:
    lay_over(SKELETON, tmp_path, 3)
    ensemble, front, behind = read(SKELETON / name), read(tmp_path / name), read(tmp_path / f"{name}_uncached")
    assert (front.name, front.backend, front.platform) == (name, "python", "")
    assert (tmp_path / name / "1" / "model.py").is_file()
    for part in ("input", "output", "max_batch_size"):
        assert getattr(front, part) == getattr(behind, part) == getattr(ensemble, part)
    assert behind.ensemble_scheduling == ensemble.ensemble_scheduling
    assert behind.name == front.parameters["uncached"].string_value == f"{name}_uncached"
    assert front.parameters["bytes"].string_value == str(3 << 20)
    assert front.parameters["face_networks"].string_value == "false"


def test_all_other_models_are_those_of_the_repository(tmp_path: Path) -> None:
    repository, target = tmp_path / "models", tmp_path / "served"
    repository.mkdir()
    target.mkdir()
    for model in SKELETON.iterdir():
        (repository / model.name).symlink_to(model)
    (repository / "face_detector").mkdir()
    lay_over(repository, target, 1)
    others = {model.name for model in repository.iterdir()} - set(ENSEMBLES)
    for name in others:
        assert (target / name).resolve() == (repository / name).resolve()
    assert {model.name for model in target.iterdir()} == {*others, *ENSEMBLES, *(f"{n}_uncached" for n in ENSEMBLES)}
    assert read(target / "deepfake_detector").parameters["face_networks"].string_value == "true"


@pytest.mark.parametrize("size", ["0", "-1", "much"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    assert CliRunner().invoke(main, ["serve", "--response-cache", size]).exit_code == 2
    with pytest.raises(RefusedError, match=f"RESPONSE_CACHE is '{size}'; it must be a number of MiB"):
        cache_size([], {"RESPONSE_CACHE": size})


def test_the_container_keeps_none_unless_asked() -> None:
    assert cache_size([], {}) is None
    assert cache_size([], {"RESPONSE_CACHE": ""}) is None
    assert cache_size(["--model-control-mode=poll"], {}) is None
    assert cache_size(["--model-control-mode=none"], {"RESPONSE_CACHE": "256"}) == 256


@pytest.mark.parametrize("words", [["--model-control-mode=poll"], ["--model-control-mode", "explicit"]])
def test_no_answers_are_kept_where_models_may_change(words: list[str]) -> None:
    with pytest.raises(RefusedError, match="--model-control-mode would change models under the answers"):
        cache_size(words, {"RESPONSE_CACHE": "256"})


# the step in front of an ensemble


@pytest.fixture
def backend() -> Backend:
    """A server whose ensemble scores the image `b"0.3"` as 0.3."""
    backend = Backend()

    def ensemble(inputs: Mapping[str, np.ndarray]) -> InferenceResponse:
        images = inputs["IMAGE"][:, 0].tolist()
        scores = [[float(image) if image != b"bad" else np.nan] for image in images]
        outputs = {
            "SCORE": np.float32(scores),
            "FACE": np.float32([[*row, 1, 2, 3] for row in scores]),
            "FACE_SOURCE": column(*[b"bilateral" if image == b"0.7" else b"raw" for image in images]),
            "STATUS": column(*[b"unreadable_image" if image == b"bad" else b"ok" for image in images]),
        }
        return InferenceResponse([Tensor(name, values) for name, values in outputs.items()])

    backend.models["deepfake_detector_uncached"] = ensemble
    return backend


def begin(
    backend: Backend, tmp_path: Path, pending: tuple[int, int] = (8, 1000), size: int = 1 << 20, **more: str
) -> Any:
    """The step as the server makes it, behind a first step with these limits in images and bytes."""
    limits = dict(zip(("max_pending", "max_pending_bytes"), pending, strict=True))
    (tmp_path / "preprocess").mkdir()
    (tmp_path / "preprocess" / "config.pbtxt").write_text(
        "".join(f'parameters {{ key: "{name}" value {{ string_value: "{n}" }} }}\n' for name, n in limits.items())
    )
    parameters = {"uncached": "deepfake_detector_uncached", "bytes": "1000000", "face_networks": "false"} | more
    config = {
        "parameters": {name: {"string_value": value} for name, value in parameters.items()},
        "input": [{"name": "IMAGE"}, {"name": "FACE_BOX"}],
        "output": [
            {"name": "SCORE", "data_type": "TYPE_FP32"},
            {"name": "FACE", "data_type": "TYPE_FP32"},
            {"name": "FACE_SOURCE", "data_type": "TYPE_STRING"},
            {"name": "STATUS", "data_type": "TYPE_STRING"},
        ],
    }
    model = backend.load(ROOT / "server" / "response_cache" / "front" / "1" / "model.py").TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(tmp_path / "deepfake_detector"),
            "model_name": "deepfake_detector",
        }
    )
    return model


def told(backend: Backend) -> list[float]:
    """Lookups, hits and bytes, as the metrics tell them."""
    names = [f"deepfake_detector_cache_{name}" for name in ("lookups_total", "hits_total", "bytes")]
    assert [backend.families[name].kind for name in names] == ["counter", "counter", "gauge"]
    (labels,) = {str(each.labels) for name in names for each in backend.families[name].metrics}
    assert labels == "{'model': 'deepfake_detector'}"
    return [backend.families[name].metrics[-1].value for name in names]


def asked(backend: Backend) -> list[list[bytes]]:
    """The images of each request to the ensemble."""
    return [request.inputs["IMAGE"][:, 0].tolist() for request in backend.asked]


def ask(model: Any, *images: bytes, **more: Any) -> InferenceResponse:
    request = Request(IMAGE=column(*images), **more)
    (now,) = model.execute([request])
    return request.answer() if now is None else now


def test_only_images_that_are_new_are_asked_about_and_every_row_is_its_images(backend: Backend, tmp_path: Path) -> None:
    model = begin(backend, tmp_path)
    ask(model, b"0.2", b"bad")
    answer = ask(model, b"0.4", b"0.2", b"0.6", b"bad").outputs
    assert asked(backend) == [[b"0.2", b"bad"], [b"0.4", b"0.6", b"bad"]]
    np.testing.assert_array_equal(answer["SCORE"], np.float32([[0.4], [0.2], [0.6], [np.nan]]))
    np.testing.assert_array_equal(answer["FACE"][:2], np.float32([[0.4, 1, 2, 3], [0.2, 1, 2, 3]]))
    assert answer["STATUS"].tolist() == [[b"ok"]] * 3 + [[b"unreadable_image"]]
    assert list(answer) == ["SCORE", "FACE", "FACE_SOURCE", "STATUS"]
    assert {str(answer[name].dtype) for name in ("SCORE", "FACE")} == {"float32"}
    request = Request(IMAGE=column(b"0.6", b"0.2", b"0.4"))
    (at_once,) = model.execute([request])
    assert at_once.outputs["SCORE"][:, 0].tolist() == np.float32([0.6, 0.2, 0.4]).tolist()
    assert len(backend.asked) == 2
    lookups, hits, kept = told(backend)
    assert (lookups, hits) == (2 + 4 + 3, 0 + 1 + 3)
    assert kept == model._cache.bytes > 0
    assert backend.asked[0].wanted == ["SCORE", "FACE", "FACE_SOURCE", "STATUS"]
    assert backend.asked[0].memory == "cpu"
    model.finalize()


def test_a_face_box_is_part_of_what_is_asked_and_goes_with_its_image(backend: Backend, tmp_path: Path) -> None:
    model = begin(backend, tmp_path)
    boxes = np.float32([[1, 2, 3, 4], [5, 6, 7, 8]])
    ask(model, b"0.2", FACE_BOX=boxes[:1])
    ask(model, b"0.2")
    ask(model, b"0.2", b"0.2", FACE_BOX=boxes)
    assert asked(backend) == [[b"0.2"]] * 3
    assert [request.inputs.get("FACE_BOX", np.empty(0)).tolist() for request in backend.asked] == [
        boxes[:1].tolist(),
        [],
        boxes[1:].tolist(),
    ]
    assert backend.asked[2].inputs["FACE_BOX"].flags["C_CONTIGUOUS"]
    model.finalize()


def test_an_answer_that_must_be_fresh_is_neither_kept_nor_taken_nor_counted(backend: Backend, tmp_path: Path) -> None:
    model = begin(backend, tmp_path)
    fresh = {"parameters": json.dumps({"fresh": True, "other": 1})}
    ask(model, b"0.2", **fresh)
    assert told(backend) == [0, 0, 0]
    ask(model, b"0.2")
    assert ask(model, b"0.2", **fresh).outputs["SCORE"].tolist() == np.float32([[0.2]]).tolist()
    assert ask(model, b"0.2", parameters=json.dumps({"fresh": False})).outputs["STATUS"].tolist() == [[b"ok"]]
    assert asked(backend) == [[b"0.2"]] * 3
    assert told(backend)[:2] == [2, 1]
    model.finalize()


def test_where_networks_search_for_faces_a_face_that_was_found_late_is_searched_again(
    backend: Backend, tmp_path: Path
) -> None:
    model = begin(backend, tmp_path, face_networks="true")
    for _ in range(2):
        ask(model, b"0.7", b"0.3")
    assert asked(backend) == [[b"0.7", b"0.3"], [b"0.7"]]
    model.finalize()


def test_what_is_over_the_first_steps_limits_is_refused_before_it_and_places_come_back(
    backend: Backend, tmp_path: Path
) -> None:
    model = begin(backend, tmp_path, pending=(2, 10))
    gate = threading.Event()
    ensemble = backend.models["deepfake_detector_uncached"]

    def wait(inputs: Mapping[str, np.ndarray]) -> InferenceResponse:
        assert gate.wait(LONG)
        return ensemble(inputs)

    backend.models["deepfake_detector_uncached"] = wait
    waiting = Request(IMAGE=column(b"0.2"))
    for others, said in (([b"0.3", b"0.4"], "2 more"), ([b"0.3" + b"0" * 8], "1 more")):
        assert model.execute([waiting]) == [None]
        (refused,) = model.execute([Request(IMAGE=column(*others))])
        assert refused.error().code() == TritonError.UNAVAILABLE
        assert refused.error().message().startswith("OVERLOADED: the queue is full: 1 images")
        assert said in refused.error().message()
        gate.set()
        assert waiting.answer()
        assert not ask(model, *others).has_error()
        gate.clear()
        waiting = Request(IMAGE=column(b"0.5"))
    model.finalize()


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (
            InferenceResponse(error=TritonError("a stream died", TritonError.UNAVAILABLE)),
            "UNAVAILABLE",
            "a stream died",
        ),
        (InferenceResponse([]), "INTERNAL", "AttributeError: 'NoneType' object has no attribute 'as_numpy'"),
    ],
)
def test_an_ensemble_that_fails_is_told_and_nothing_of_it_is_kept(
    backend: Backend, tmp_path: Path, failure: InferenceResponse, code: str, message: str
) -> None:
    model = begin(backend, tmp_path, pending=(1, 1000))
    ensemble = backend.models["deepfake_detector_uncached"]
    backend.models["deepfake_detector_uncached"] = lambda _: failure
    error = ask(model, b"0.2").error()
    assert error is not None
    assert (error.code(), error.message()) == (code, message)
    backend.models["deepfake_detector_uncached"] = ensemble
    assert not ask(model, b"0.2").has_error()  # its place came back
    assert asked(backend) == [[b"0.2"]] * 2
    model.finalize()


def test_it_ends_after_the_answers_that_are_under_way(backend: Backend, tmp_path: Path) -> None:
    model = begin(backend, tmp_path)
    gate, ensemble = threading.Event(), backend.models["deepfake_detector_uncached"]
    backend.models["deepfake_detector_uncached"] = lambda inputs: gate.wait(LONG) and ensemble(inputs)
    request = Request(IMAGE=column(b"0.2"))
    assert model.execute([request]) == [None]
    threading.Timer(0.05, gate.set).start()
    model.finalize()
    assert request.answered.is_set()
