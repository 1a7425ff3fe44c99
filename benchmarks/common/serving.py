"""What the benchmarks share: an exported repository, and the real server on it."""

import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import psutil
from deepfake_client import DetectorClient, ServerUnavailableError

from benchmarks.common.machine import ROOT
from server.supervision.process import LIFELINE

PHOTOGRAPHS = sorted((ROOT / "tests" / "golden" / "images").glob("*.png"))
_ANSWER_SECONDS = 60
"""Longest wait for one answer of a starting server: at full size on a CPU it takes a quarter of that."""

_SOURCES = ("networks", "export", "model_repository")


@dataclass(frozen=True)
class Endpoint:
    """A running server.

    Attributes:
        url: HOST:PORT of its gRPC port.
        metrics_url: Of its Prometheus metrics.
        process: The supervisor; tritonserver and its steps descend from it.
    """

    url: str
    metrics_url: str
    process: psutil.Process

    def resident(self) -> int:
        """Memory of the server and its steps, bytes."""
        return sum(resident(each) for each in (self.process, *self.process.children(recursive=True)))


def resident(process: psutil.Process) -> int:
    """Memory of a process, what it shares with others divided among them, bytes; 0 when it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0


def counter(metrics_url: str, name: str, model: str = "") -> int:
    """A Prometheus metric of a running server, of all models or of one."""
    with urllib.request.urlopen(metrics_url) as response:
        text = response.read().decode()
    labels = f'.*model="{model}".*' if model else ".*"
    return sum(int(float(value)) for value in re.findall(rf"^{name}{{{labels}}} (\S+)$", text, re.MULTILINE))


def weights_of(repository: Path) -> Path:
    """The checkpoints that `export` made a repository from."""
    return repository.parent / "weights"


def export(preset: str, *, retinaface: bool = False) -> Path:
    """A model repository of seeded weights under build/benchmarks, made anew when what it is made from has changed."""
    folder = ROOT / "build" / "benchmarks" / (f"{preset}-retinaface" if retinaface else preset)
    repository = folder / "model_repository"
    made = repository / "provenance" / "1" / "provenance.json"
    if not made.exists() or made.stat().st_mtime < max(path.stat().st_mtime for path in sources()):
        if retinaface:
            from networks.faces.retinaface_weights import write_random_retinaface

            (folder / "weights").mkdir(parents=True, exist_ok=True)
            if not (folder / "weights" / "retinaface.h5").exists():
                write_random_retinaface(folder / "weights" / "retinaface.h5")
        options = [
            "--random-weights",
            preset,
            "--weights",
            str(weights_of(repository)),
            "--repository",
            str(repository),
        ]
        subprocess.run([sys.executable, "-m", "export", *options], check=True)
    return repository


def sources() -> list[Path]:
    """The files that decide what an export makes, the checkpoints apart."""
    return [path for folder in _SOURCES for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".pbtxt")]


@contextmanager
def serve(repository: Path, model_config_name: str | None = None, launcher: Sequence[str] = ()) -> Iterator[Endpoint]:
    """The real server on a repository, on free ports of loopback, until the end of the block.

    Args:
        repository: The model repository.
        model_config_name: Serve each model's `configs/NAME.pbtxt` where it has one.
        launcher: Further options of `python -m server`.

    Raises:
        click.ClickException: It did not start.
    """
    grpc, http, metrics = _free_ports(3)
    ports = ["--grpc-port", str(grpc), "--http-port", str(http), "--metrics-port", str(metrics)]
    named = ["--model-config-name", model_config_name] if model_config_name else []
    log = repository.parent / "server.log"
    with log.open("wb") as stream:
        server = [sys.executable, "-m", "server", "--model-repository", str(repository), *ports, *named, *launcher]
        # Bound to the benchmark's life, so that one which is killed leaves no server behind.
        command = [sys.executable, str(LIFELINE), str(os.getpid()), *server]
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    endpoint = Endpoint(f"localhost:{grpc}", f"http://localhost:{metrics}/metrics", psutil.Process(process.pid))
    try:
        with DetectorClient(endpoint.url) as client:
            while process.poll() is None:
                try:
                    client.wait_ready(timeout=_ANSWER_SECONDS)
                    break
                except ServerUnavailableError:
                    continue
        if process.poll() is not None:
            raise click.ClickException(f"the server ended with {process.returncode}; its log is {log}")
        yield endpoint
    finally:
        process.terminate()
        process.wait(60)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
