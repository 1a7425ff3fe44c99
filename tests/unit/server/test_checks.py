"""What a start needs of a machine: ports, shared memory, a repository."""

import json
import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from server.diagnosis import checks
from server.diagnosis.checks import SHARED_MEMORY_NEEDED, check_ports, check_repository, check_shared_memory
from server.findings import Level, check_import
from server.standin.checks import SERVED_BACKENDS
from tests.backends import save_net
from tests.waiting import wait_for

Usage = namedtuple("Usage", "total used free")
ENSEMBLE = """
platform: "ensemble" max_batch_size: 32
input [ { name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "SCORE" data_type: TYPE_FP32 dims: [ 1 ] } ]
ensemble_scheduling { step [ { model_name: "net" model_version: -1 input_map { key: "IMAGE" value: "IMAGE" }
  output_map { key: "SCORE" value: "SCORE" } } ] }
"""


@pytest.mark.parametrize(
    ("free", "level"),
    [
        (0, Level.WRONG),
        (SHARED_MEMORY_NEEDED // 8 - 1, Level.WRONG),
        (SHARED_MEMORY_NEEDED // 8, Level.WARNING),
        (SHARED_MEMORY_NEEDED - 1, Level.WARNING),
        (SHARED_MEMORY_NEEDED, Level.OK),
    ],
)
def test_a_full_dev_shm_is_told(monkeypatch: pytest.MonkeyPatch, free: int, level: Level) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**30, 2**30 - free, free))
    finding = check_shared_memory()
    assert finding.level is level
    assert f"{free / 2**20:,.0f} MiB free of 1,024 MiB" in finding.detail
    assert ("--shm-size" in finding.fix) == (level is not Level.OK)
    assert SHARED_MEMORY_NEEDED == 256 * 2**20


def test_a_missing_dev_shm_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "SHARED_MEMORY", tmp_path / "gone")
    finding = check_shared_memory()
    assert finding.level is Level.WRONG
    assert "does not exist" in finding.detail


def test_a_port_whose_last_connections_are_still_closing_counts_as_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listener.accept()
            accepted.close()  # first, so that this side waits in TIME_WAIT

    def closing() -> set[str]:
        ours = [each.status for each in psutil.net_connections("tcp") if each.laddr and each.laddr.port == port]
        return set(ours) & {psutil.CONN_TIME_WAIT, psutil.CONN_FIN_WAIT2}

    wait_for(closing)
    (finding,) = check_ports("127.0.0.1", {"grpc": port})
    assert (finding.level, finding.detail) == (Level.OK, "free on 127.0.0.1 for grpc")


def test_a_port_that_somebody_listens_on_is_taken_by_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (finding,) = check_ports("127.0.0.1", {"http": port})
    assert finding.level is Level.WRONG
    assert f"http port {port} on 127.0.0.1 is taken by " in finding.detail
    assert f"(process {os.getpid()}: " in finding.detail
    assert finding.fix == "choose another with --http-port"


def test_a_port_that_somebody_only_calls_from_is_no_listener_s() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as caller,
    ):
        (finding,) = check_ports("127.0.0.1", {"http": caller.getsockname()[1]})
    assert finding.level is Level.WRONG
    assert "cannot be listened on (Address already in use)" in finding.detail


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ([("LISTEN", None)], "is taken by a process of another user"),
        ([("LISTEN", os.getpid())], f"(process {os.getpid()}: "),
        ([("ESTABLISHED", None), ("LISTEN", os.getpid())], f"(process {os.getpid()}: "),
        ([("LISTEN", 2**22 + 1)], "is taken by a process that this user may not see"),
        (psutil.AccessDenied(), "is taken by a process that this user may not see"),
    ],
    ids=["another user's", "this one", "this one, that also calls", "gone", "not to be asked"],
)
def test_a_taken_port_is_told_with_what_is_known_of_its_owner(
    monkeypatch: pytest.MonkeyPatch, seen: Any, told: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def connections(kind: str) -> list[Any]:
            if isinstance(seen, Exception):
                raise seen
            other = SimpleNamespace(laddr=(), status="LISTEN", pid=1)
            elsewhere = SimpleNamespace(laddr=SimpleNamespace(port=port + 1), status="LISTEN", pid=1)
            here = [SimpleNamespace(laddr=SimpleNamespace(port=port), status=status, pid=pid) for status, pid in seen]
            return [other, elsewhere, *here]

        monkeypatch.setattr(psutil, "net_connections", connections)
        (finding,) = check_ports("127.0.0.1", {"grpc": port})
    assert finding.level is Level.WRONG
    assert told in finding.detail


def test_an_address_that_is_not_here_cannot_be_listened_on() -> None:
    (finding,) = check_ports("192.0.2.1", {"grpc": 50_123})
    assert finding.level is Level.WRONG
    assert "cannot be listened on (Cannot assign requested address)" in finding.detail


def test_two_uses_of_one_port_are_told() -> None:
    found = check_ports("127.0.0.1", {"grpc": 50_123, "http": 50_123, "metrics": 50_124})
    assert [each.level for each in found][:1] == [Level.WRONG]
    assert found[0].detail == "grpc and http have the same port 50123"
    assert len(found) == 2


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    save_net(tmp_path / "net")
    (tmp_path / "deepfake_detector" / "1").mkdir(parents=True)
    (tmp_path / "deepfake_detector" / "config.pbtxt").write_text(ENSEMBLE)
    return tmp_path


def test_a_repository_without_provenance_is_served_with_a_warning(repository: Path) -> None:
    models, weights = check_repository(repository, "", SERVED_BACKENDS)
    assert (models.level, models.detail) == (Level.OK, f"{repository}: deepfake_detector, net")
    assert weights.level is Level.WARNING
    assert "unknown origin" in weights.detail
    assert "make export" in weights.fix


def test_trained_weights_are_fine(repository: Path) -> None:
    folder = repository / "provenance" / "1"
    folder.mkdir(parents=True)
    (repository / "provenance" / "config.pbtxt").write_text('backend: "python"')
    (folder / "model.py").write_text("")
    document = {"untrained": False, "created": "today", "precision": "fp16", "streams": {"a": {"checkpoint": "a.pth"}}}
    (folder / "provenance.json").write_text(json.dumps(document))
    *_, weights = check_repository(repository, "", SERVED_BACKENDS)
    assert (weights.level, weights.detail, weights.fix) == (Level.OK, "weights a.pth (exported today, fp16)", "")


def test_framing_and_face_detector_are_told(repository: Path) -> None:
    for name, known in (("preprocess", {"framing": "square"}), ("face_crop", {"detector": "haar", "attempts": "3"})):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1" / "model.py").write_text("")
        text = "".join(f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }} ' for k, v in known.items())
        (repository / name / "config.pbtxt").write_text(f'backend: "python" {text}')
    found = {each.subject: (each.level, each.detail) for each in check_repository(repository, "", SERVED_BACKENDS)}
    assert found["framing"] == (Level.OK, "square")
    assert found["face detector"] == (Level.OK, "haar, 3 attempts")
    assert list(found) == ["repository", "framing", "face detector", "weights"]


def test_a_missing_file_of_a_model_is_told_with_the_export(repository: Path) -> None:
    (repository / "net" / "1" / "model.onnx").unlink()
    (finding,) = check_repository(repository, "", SERVED_BACKENDS)
    assert finding.level is Level.WRONG
    assert f"net needs {repository / 'net' / '1' / 'model.onnx'}, which is not there" in finding.detail
    assert "make export" in finding.fix


def test_an_import_that_fails_is_told_with_its_reason() -> None:
    finding = check_import("thing", "raise ImportError('no such thing')", "get it")
    assert (finding.level, finding.detail) == (Level.WRONG, "cannot be imported: ImportError: no such thing")
    assert finding.fix == "get it"
    assert check_import("thing", "import os; os._exit(3)", "").detail == "cannot be imported: exit code 3"
    fine = check_import("thing", "print('1.2')", "get it")
    assert (fine.level, fine.detail, fine.fix) == (Level.OK, "1.2", "")
