"""What nvidia-smi says, or why it says nothing."""

import os
import subprocess
from pathlib import Path

import pytest

from server.nvidia_smi import DriverError, query_gpus


def install(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin:/bin")


def test_each_gpu_has_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, 'echo "$1"; echo second', monkeypatch)
    assert query_gpus("name", "compute_cap") == ["--query-gpu=name,compute_cap", "second"]


def test_no_driver_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query_gpus("name") is None


def test_a_failure_says_the_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "echo no devices were found; echo more; exit 6", monkeypatch)
    with pytest.raises(DriverError, match=r"nvidia-smi fails: \['no devices were found'\]"):
        query_gpus("name")


def test_a_program_that_cannot_start_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "", monkeypatch)
    (tmp_path / "nvidia-smi").write_text("#!/nowhere/sh\n")
    with pytest.raises(DriverError, match="nvidia-smi fails: No such file or directory"):
        query_gpus("name")


def test_a_driver_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def hang(*command: object, timeout: float, **_: object) -> None:
        limits.append(timeout)
        raise subprocess.TimeoutExpired("nvidia-smi", timeout)

    install(tmp_path, "", monkeypatch)
    monkeypatch.setattr("server.nvidia_smi.subprocess.run", hang)
    with pytest.raises(DriverError, match="nvidia-smi hangs"):
        query_gpus("name")
    assert limits == [20]


def test_what_it_warns_of_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "echo 'a warning' >&2; echo H200", monkeypatch)
    assert query_gpus("name") == ["H200"]
    install(tmp_path, "echo 'no driver' >&2; exit 9", monkeypatch)
    with pytest.raises(DriverError, match="no driver"):
        query_gpus("name")
