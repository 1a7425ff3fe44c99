"""The real server, started once: tiny seeded checkpoints, exported, served on loopback."""

import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deepfake_client import DetectorClient
from filelock import FileLock
from hypothesis import HealthCheck, settings

from networks import write_random_weights
from server.standin.install import install
from server.standin.layout import Layout, default_layout
from tests.waiting import PATIENCE, wait_for

# A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt. What is handled here is not
# ignored there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# An example may take long because the machine is busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


SECONDS = {"slow": 15.0, "server": 3.0}
"""What a test with such a mark takes, about."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files that take long first, so that no worker still has one when all others are done."""
    seconds = Counter[Path]()
    for item in items:
        marked = [each for mark, each in SECONDS.items() if item.get_closest_marker(mark)]
        seconds[item.path] += max(marked, default=0.1)
    items.sort(key=lambda item: -seconds[item.path])


@dataclass(frozen=True)
class Server:
    """A running `python -m server`."""

    process: subprocess.Popen[bytes]
    repository: Path
    grpc_port: int
    http_port: int
    metrics_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"localhost:{self.grpc_port}"

    def stop(self) -> int:
        """Asks the server to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def start_server(
    repository: Path,
    log: Path,
    *extra: str,
    config_name: str = "",
    grpc_port: int | None = None,
    launcher: Sequence[str] = (),
    **client_options: Any,
) -> Server:
    """Starts `python -m server` on free ports and waits until it says that it is ready, and scores for a client.

    Args:
        repository: What it serves.
        log: Where its output goes.
        extra: Further options of tritonserver.
        config_name: Of the models' named configurations.
        grpc_port: Port for gRPC, where it is not to be a free one.
        launcher: Further options of `python -m server` itself.
        client_options: How a client connects to it.

    Raises:
        RuntimeError: It ended instead; the last of what it said is in the message.
    """
    grpc, http, metrics = free_ports(3)
    grpc = grpc_port or grpc
    ports = ["--grpc-port", str(grpc), "--http-port", str(http), "--metrics-port", str(metrics)]
    named = ["--model-config-name", config_name] if config_name else []
    command = [sys.executable, "-m", "server", "--model-repository", str(repository), *ports, *named, *launcher]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--", *extra],
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, repository, grpc, http, metrics, log)

    def has_started_or_ended() -> bool:
        return process.poll() is not None or b"server: ready in" in log.read_bytes()

    try:
        wait_for(has_started_or_ended, 2 * PATIENCE, lambda: log.read_text()[-4000:])
        if process.poll() is not None:
            raise RuntimeError(f"the server did not start (exit code {process.poll()}):\n{log.read_text()[-4000:]}")
        with DetectorClient(server.url, **client_options) as client:
            client.wait_ready(PATIENCE)
    except BaseException:
        process.kill()
        raise
    return server


@pytest.fixture(scope="session")
def layout() -> Layout:
    """Where tritonserver is, installed if it was not."""
    found = default_layout()
    install(found, print)
    return found


@pytest.fixture(scope="module")
def log() -> list[str]:
    """Of the tritonserver that a module starts without the supervisor."""
    return []


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny seeded checkpoints."""
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


def exported(folder: Path, said: str, *options: str) -> Path:
    """The models that `python -m export` makes, once for all workers: tests that change a repository copy it first.

    Args:
        folder: Where they are, or will be made.
        said: What the command must print of the weights.
        options: Of the command; FOLDER stands for a folder of its own.
    """
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            options = tuple(option.replace("FOLDER", str(partial)) for option in options)
            command = [sys.executable, "-m", "export", *options, "--repository", str(partial / "models")]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            assert said in done.stdout + done.stderr
            partial.rename(folder)
    return folder / "models"


@pytest.fixture(scope="session")
def tiny_repository(shared: Path) -> Path:
    """A model repository exported from the tiny seeded checkpoints."""
    return exported(shared / "tiny", "UNTRAINED", "--random-weights", "tiny", "--weights", "FOLDER/weights")


@pytest.fixture(scope="session")
def server(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server on the tiny repository, for the whole session."""
    running = start_server(tiny_repository, tmp_path_factory.mktemp("server") / "log")
    yield running
    assert running.stop() == 0, running.log.read_text()[-4000:]


@pytest.fixture(scope="session")
def learnt(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server on the stand-in weights of `samples/`, which have learnt something: see `tests.faces`."""
    weights = Path(__file__).parents[1] / "samples" / "weights"
    repository = exported(shared / "stand_in", "STAND-IN", "--weights", str(weights))
    running = start_server(repository, tmp_path_factory.mktemp("learnt") / "log")
    yield running
    assert running.stop() == 0, running.log.read_text()[-4000:]
