"""The repository with the cache in front: links, and the two ensembles behind steps of their names."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from server.cli import main
from server.container import cache_size
from server.errors import RefusedError
from server.response_cache.overlay import ENSEMBLES, lay_over

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
