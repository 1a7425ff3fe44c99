"""Publishing models: the order in which files are moved, what is removed, and that nothing interrupts it."""

import fcntl
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from ensemble.streams import STREAMS
from export import StreamExport
from export.errors import RepositoryError
from export.exporters.exporter import ModelExport
from export.repository import describe, publish, require_space, staging
from export.state import weights_state


def stream_exports(folder: Path, names: tuple[str, ...] = ("model.onnx", "model.fused.onnx")) -> list[StreamExport]:
    """Exports whose files hold their own names."""
    exports = []
    for stream in STREAMS:
        own = folder / stream.name
        own.mkdir(parents=True, exist_ok=True)
        files = tuple(own / name for name in names)
        for file in files:
            file.write_text(file.name)
        exports.append(
            StreamExport(
                name=stream.name,
                weights=(Path(stream.checkpoint),),
                hashes=(f"hash of {stream.checkpoint}",),
                untrained=False,
                stand_in="",
                precision="fp32",
                files=files,
                size=1,
                seconds=0,
                differences=(),
                ranges=(),
                stream=stream,
                base={"layer": "same"},
            )
        )
    return exports


def face_model(folder: Path, name: str = "face_detector", untrained: bool = False) -> ModelExport:
    (folder / name).mkdir()
    file = folder / name / "model.onnx"
    file.write_text(name)
    return ModelExport(
        name=name,
        weights=(Path("retinaface.h5"),),
        hashes=("hash of the detector",),
        untrained=untrained,
        stand_in="",
        precision="fp16",
        files=(file,),
        size=1,
        seconds=0,
        differences=(),
        ranges=(),
    )


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Targets of Path.replace, in order."""
    replace, targets = Path.replace, list[str]()

    def record(self: Path, target: Path) -> Path:
        targets.append(f"{target.parent.parent.name}/{target.name}")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", record)
    return targets


def test_what_is_loaded_comes_after_what_it_needs(tmp_path: Path, moved: list[str]) -> None:
    """tritonserver may look in between: a model without its weights, or an engine without its manifest, is broken."""
    names = ("model.onnx", "model.plan", "model.onnx.data", "model.fused.onnx", "model.plan.json")
    with staging(tmp_path / "models") as folder:
        publish(tmp_path / "models", stream_exports(folder, names))
    for stream in STREAMS:
        order = [name.partition("/")[2] for name in moved if name.startswith(f"{stream.name}/")]
        assert set(order[:2]) == {"model.onnx.data", "model.plan.json"}
        assert set(order[2:]) == {"model.onnx", "model.fused.onnx", "model.plan"}
    assert moved[-1] == "provenance/provenance.json", "clients are told last"


def test_nothing_is_said_of_models_while_they_change_nor_where_one_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else clients would take the new weights for the old ones."""
    repository = tmp_path / "models"
    provenance = repository / "provenance/1/provenance.json"
    with staging(repository) as folder:
        publish(repository, stream_exports(folder))
    replace, told = Path.replace, list[bool]()

    def watched(self: Path, target: Path) -> Path:
        told.append(provenance.exists())
        if target.parent.parent.name == STREAMS[-1].name:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    with (
        staging(repository) as folder,
        pytest.raises(RepositoryError, match=r"No space left.*the new models are not all in place"),
    ):
        publish(repository, stream_exports(folder))
    assert len(told) > 2
    assert not any(told)
    assert not provenance.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_until_all_is_in_place(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, repository = Path.replace, tmp_path / "models"
    seen: list[bool] = []
    before = signal.signal(number, lambda *_: seen.append((repository / "provenance/1/provenance.json").exists()))

    def signalled(self: Path, target: Path) -> Path:
        os.kill(os.getpid(), number)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", signalled)
    try:
        with staging(repository) as folder:
            publish(repository, stream_exports(folder))
    finally:
        signal.signal(number, before)
    assert seen == [True], "a signal that came early was handled before the models were in place, or was lost"


def test_models_are_published_from_any_thread(tmp_path: Path) -> None:
    with staging(tmp_path / "models") as folder, ThreadPoolExecutor() as pool:
        pool.submit(publish, tmp_path / "models", stream_exports(folder)).result()
    assert (tmp_path / "models/provenance/1/provenance.json").exists()


def test_files_of_older_models_go(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    with staging(repository) as folder:
        publish(repository, stream_exports(folder, ("model.onnx", "model.onnx.data", "model.plan", "model.plan.json")))
    (repository / "global_texture/1/notes.txt").write_text("of the user")
    with staging(repository) as folder:
        publish(repository, stream_exports(folder))
    there = {path.name for path in (repository / "global_texture/1").iterdir()}
    assert there - {".gitkeep"} == {"model.onnx", "model.fused.onnx", "notes.txt"}


def test_face_models_come_with_their_configurations_and_go_with_their_weights(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    with staging(repository) as folder:
        publish(repository, stream_exports(folder), [face_model(folder)])
    detector = repository / "face_detector"
    assert (detector / "1/model.onnx").read_text() == "face_detector"
    assert 'backend: "onnxruntime"' in (detector / "config.pbtxt").read_text()
    assert 'backend: "tensorrt"' in (detector / "configs/tensorrt.pbtxt").read_text()
    assert not (repository / "face_restorer").exists()
    provenance = json.loads((repository / "provenance/1/provenance.json").read_text())
    assert provenance["face_detector"] == "retinaface"
    assert provenance["face_models"] == {
        "face_detector": {
            "weights": {"retinaface.h5": "hash of the detector"},
            "untrained": False,
            "precision": "fp16",
        }
    }
    with staging(repository) as folder:
        publish(repository, stream_exports(folder))
    assert not detector.exists()
    assert json.loads((repository / "provenance/1/provenance.json").read_text())["face_detector"] == "haar"


def test_one_untrained_part_makes_the_whole_untrained(tmp_path: Path) -> None:
    exports = stream_exports(tmp_path)
    assert describe(exports)["untrained"] is False
    assert describe(exports, [face_model(tmp_path, untrained=True)])["untrained"] is True
    last = StreamExport(**{**vars(exports[-1]), "untrained": True})
    assert describe([*exports[:-1], last])["untrained"] is True


def test_clients_are_told_which_weights_each_stream_has_and_since_when(tmp_path: Path) -> None:
    exports = stream_exports(tmp_path)
    told = describe(exports)
    assert told["precision"] == "fp32"
    created = datetime.fromisoformat(str(told["created"]))
    assert timedelta(0) <= datetime.now(UTC) - created < timedelta(hours=1)
    streams = told["streams"]
    assert isinstance(streams, dict)
    assert list(streams) == [stream.name for stream in STREAMS]
    for stream in STREAMS:
        assert {name: value for name, value in streams[stream.name].items() if name != "base_sha256"} == {
            "checkpoint": stream.checkpoint,
            "sha256": f"hash of {stream.checkpoint}",
            "untrained": False,
            "state": weights_state(exports[0]),
        }
        assert len(streams[stream.name]["base_sha256"]) == 64


def test_what_exports_and_servers_leave_in_the_checkout_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models there may be gigabytes, of other weights."""
    checkout = tmp_path / "checkout"
    with staging(checkout):
        pass
    left = ("global_texture/1/model.onnx", "global_texture/1/model.plan", "provenance/1/provenance.json")
    for name in (*left, "provenance/tensorrt.timing", "voter/1/__pycache__/model.pyc", "provenance/.staging-x/half"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    monkeypatch.setattr("export.repository.SKELETON", checkout)
    with staging(tmp_path / "models"):
        pass
    copied = {str(path.relative_to(tmp_path / "models")) for path in (tmp_path / "models").rglob("*")}
    assert "voter/1/model.py" in copied
    assert not [name for name in copied if name.endswith((*left, ".timing", "__pycache__", "half"))]


def test_base_networks_are_compared(tmp_path: Path) -> None:
    exports = stream_exports(tmp_path)
    assert describe(exports)["same_base_network"] is True
    other = StreamExport(**{**vars(exports[1]), "base": {"layer": "another"}})
    assert describe([exports[0], other, exports[2]])["same_base_network"] is False


def test_networks_of_another_method_have_no_base_to_compare(tmp_path: Path) -> None:
    exports = stream_exports(tmp_path)
    other = StreamExport(**{**vars(exports[2]), "base": {}})
    assert describe([exports[0], exports[1], other])["same_base_network"] is True


def test_one_stand_in_is_told_whichever_it_is(tmp_path: Path) -> None:
    exports = stream_exports(tmp_path)
    assert describe(exports)["stand_in"] == ""
    last = StreamExport(**{**vars(exports[2]), "stand_in": "of samples"})
    assert describe([*exports[:2], last])["stand_in"] == "of samples"


@pytest.mark.parametrize(("free", "fits"), [(1000, True), (999, False)])
def test_a_disk_has_to_hold_the_models(free: int, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free if path == tmp_path else 10**9))
    if fits:
        require_space(tmp_path, 1000)
    else:
        with pytest.raises(RepositoryError, match="make room"):
            require_space(tmp_path, 1000)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.copytree", refuse)
    with pytest.raises(RepositoryError, match="cannot be written"), staging(tmp_path / "models"):
        pass


def test_the_repository_of_the_checkout_is_not_copied_onto_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.repository.SKELETON", tmp_path)
    with staging(tmp_path) as folder:
        assert folder.parent == tmp_path / "provenance", "tritonserver would take it for a model"
    assert {path.name for path in tmp_path.iterdir()} == {"provenance", *(stream.name for stream in STREAMS)}


def test_that_repository_is_known_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.repository.SKELETON", tmp_path)
    monkeypatch.setattr("shutil.copytree", lambda *_, **__: pytest.fail("it was copied"))
    monkeypatch.chdir(tmp_path.parent)
    for name in (Path(tmp_path.name), tmp_path / "provenance" / ".."):
        with staging(name):
            pass


def test_staging_is_removed_whatever_happens(tmp_path: Path) -> None:
    folder = tmp_path

    def interrupted() -> None:
        nonlocal folder
        with staging(tmp_path) as folder:
            (folder / "half").write_bytes(b"a model")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert folder != tmp_path
    assert not folder.exists()
    leftover = folder.with_name(".staging-killed")
    leftover.mkdir()
    with staging(tmp_path):
        assert not leftover.exists(), "what a killed export left is not removed"


def test_two_exports_do_not_meet_in_one_repository(tmp_path: Path) -> None:
    with (
        staging(tmp_path),
        pytest.raises(RepositoryError, match="another export is at work there"),
        staging(tmp_path),
    ):
        pass
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the lock was let go
    os.close(handle)


def test_a_repository_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="cannot be used as a model repository"), staging(tmp_path / "file"):
        pass
