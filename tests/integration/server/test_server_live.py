"""The launcher and its supervisor with the real tritonserver."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ensemble.contract import OVERLOADED, STUCK
from server.errors import GaveUpError
from server.standin.install import install
from server.standin.layout import CHECKOUT, default_layout
from server.supervision.health import Policy
from server.supervision.probe import Kind, Prober
from server.supervision.process import Options
from server.supervision.supervisor import Supervisor
from tests.backends import free_ports, save_net
from tests.processes import living
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.server

ENSEMBLE = """
platform: "ensemble" max_batch_size: 8
input [ { name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "LOGITS" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "STATUS" data_type: TYPE_STRING dims: [ 1 ] } ]
ensemble_scheduling { step [
  { model_name: "pixels" model_version: -1 input_map { key: "IMAGE" value: "IMAGE" }
    output_map { key: "PIXELS" value: "pixels" } output_map { key: "STATUS" value: "STATUS" } },
  { model_name: "net" model_version: -1 input_map { key: "PIXELS" value: "pixels" }
    output_map { key: "LOGITS" value: "LOGITS" } } ] }
"""
PIXELS = """
backend: "python" max_batch_size: 8
input [ { name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "PIXELS" data_type: TYPE_UINT8 dims: [ 4, 4, 3 ] } ]
output [ { name: "STATUS" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
# Files beside model.py steer it: `seconds` how long an answer takes, `broken` a message to fail to load with, `refuses`
# one to refuse every request with.
PIXELS_MODEL = """
import time
from pathlib import Path
import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).parent

class TritonPythonModel:
    def initialize(self, args):
        if (HERE / "broken").exists():
            raise pb_utils.TritonModelException((HERE / "broken").read_text())

    def execute(self, requests):
        if (HERE / "refuses").exists():
            error = pb_utils.TritonError((HERE / "refuses").read_text(), pb_utils.TritonError.UNAVAILABLE)
            return [pb_utils.InferenceResponse(error=error) for _ in requests]
        if (HERE / "seconds").exists():
            time.sleep(float((HERE / "seconds").read_text()))
        answers = []
        for request in requests:
            images = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()
            pixels = np.full((len(images), 4, 4, 3), 7, np.uint8)
            status = np.array([[b"ok" if image[0][1:4] == b"PNG" else b"unreadable"] for image in images], object)
            tensors = [pb_utils.Tensor("PIXELS", pixels), pb_utils.Tensor("STATUS", status)]
            answers.append(pb_utils.InferenceResponse(tensors))
        return answers
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small ensemble with the detector's name: a Python step and an ONNX step."""
    install(default_layout(), print)
    repository = tmp_path / "repository"
    save_net(repository / "net")
    for name, config in (("deepfake_detector", ENSEMBLE), ("pixels", PIXELS)):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config)
    (repository / "pixels" / "1" / "model.py").write_text(PIXELS_MODEL)
    return repository


def steer(repository: Path, name: str, value: str) -> None:
    (repository / "pixels" / "1" / name).write_text(value)


def own_regions(pid: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"deepfake_detector_{pid}_*"))


class Launched:
    """`python -m server` as a user starts it."""

    def __init__(self, repository: Path, *more: str) -> None:
        self.ports = free_ports()
        command = [sys.executable, "-m", "server", "--model-repository", str(repository)]
        command += [f"--{name}-port={port}" for name, port in self.ports.items()]
        self.process = subprocess.Popen(
            [*command, *more], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            self.lines.extend(iter(stream.readline, ""))

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_for_line(self, pattern: str, occurrence: int = 1) -> str:
        def found() -> str | None:
            matches = re.findall(f"^.*{pattern}.*$", self.log, re.MULTILINE)
            return matches[occurrence - 1] if len(matches) >= occurrence else None

        return wait_for(found, hint=lambda: self.log)

    def descendants(self) -> dict[str, psutil.Process]:
        return {" ".join(line[:2]): process for process, line in living(self.process.pid).items()}

    def tritonserver(self) -> psutil.Process:
        return next(process for text, process in self.descendants().items() if "/tritonserver " in text)

    def stubs(self) -> dict[str, psutil.Process]:
        """By model."""
        pairs = [(text.split(" ", 1)[1], p) for text, p in self.descendants().items() if "backend_stub " in text]
        return {Path(path).parents[1].name: process for path, process in pairs}

    def probe(self) -> Kind:
        """What becomes of a real inference; a busy machine may take several tries to connect."""
        prober = Prober(f"127.0.0.1:{self.ports['grpc']}")

        def reached() -> Kind | None:
            kind = wait_for(prober.start(PATIENCE).outcome).kind
            return None if kind is Kind.UNREACHABLE else kind

        try:
            return wait_for(reached, hint=lambda: self.log)
        finally:
            prober.close()


@pytest.fixture
def launch() -> Iterator[Callable[..., Launched]]:
    started: list[Launched] = []

    def start(*arguments: Any) -> Launched:
        started.append(Launched(*arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
            try:
                one.process.wait(120)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
        one.reader.join(PATIENCE)


def test_server_ready_line_comes_after_a_real_answer_and_sigterm_leaves_nothing(
    launch: Callable[..., Launched], repository: Path
) -> None:
    (repository / "provenance" / "1").mkdir(parents=True)
    provenance = {"untrained": True, "precision": "fp32", "created": "2026-01-01T00:00:00Z", "streams": {}}
    (repository / "provenance" / "1" / "provenance.json").write_text(json.dumps(provenance))
    (repository / "provenance" / "1" / "model.py").write_text("class TritonPythonModel: pass")
    (repository / "provenance" / "config.pbtxt").write_text("""
        backend: "python" output [ { name: "PROVENANCE" data_type: TYPE_STRING dims: [ 1 ] } ]
        instance_group [ { count: 1 kind: KIND_CPU } ]""")
    server = launch(repository)
    line = server.wait_for_line("server: ready in")
    assert server.probe() is Kind.ANSWERED
    assert f"gRPC 127.0.0.1:{server.ports['grpc']}" in line
    assert f"HTTP 127.0.0.1:{server.ports['http']}" in line
    assert f"metrics 127.0.0.1:{server.ports['metrics']}/metrics" in line
    assert "models deepfake_detector, net, pixels, provenance" in line
    assert "UNTRAINED" in line
    processes = server.descendants().values()
    assert len(own_regions(server.process.pid)) == 3  # one per stub: the prefix is ours
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(120) == 0
    server.wait_for_line("server: stopped in")  # it had nothing to finish, and ended by itself
    assert not [process for process in processes if process.is_running()]
    assert own_regions(server.process.pid) == []


def test_server_killed_stub_is_replaced_under_load(launch: Callable[..., Launched], repository: Path) -> None:
    server = launch(repository)
    server.wait_for_line("server: ready in")
    over = threading.Event()
    kinds: list[Kind] = []

    def load() -> None:
        prober = Prober(f"127.0.0.1:{server.ports['grpc']}")
        while not over.is_set():
            kinds.append(wait_for(prober.start(5).outcome).kind)
        prober.close()

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    before = server.stubs()
    before["net"].send_signal(signal.SIGKILL)
    server.wait_for_line("RESTARTING because a model's stub")
    server.wait_for_line("server: ready in", occurrence=2)
    # The clients above have their connection in common with this probe, and gRPC lets them wait before the next try.
    wait_for(lambda: server.probe() is Kind.ANSWERED)
    over.set()
    for client in clients:
        client.join()
    assert Kind.ANSWERED in kinds
    assert not [process for process in before.values() if process.is_running()]
    assert len(own_regions(server.process.pid)) == 2  # those of the killed server are gone


def test_server_killed_tritonserver_is_restarted(launch: Callable[..., Launched], repository: Path) -> None:
    server = launch(repository)
    server.wait_for_line("server: ready in")
    stubs = server.stubs().values()
    server.tritonserver().send_signal(signal.SIGKILL)
    server.wait_for_line(r"RESTARTING because tritonserver ended \(killed by SIGKILL\)")
    server.wait_for_line("server: ready in", occurrence=2)
    assert not [process for process in stubs if process.is_running()]
    assert server.probe() is Kind.ANSWERED


def test_server_ends_with_its_killed_launcher(launch: Callable[..., Launched], repository: Path) -> None:
    server = launch(repository)
    server.wait_for_line("server: ready in")
    processes = server.descendants().values()
    server.process.kill()
    wait_for(lambda: not any(process.is_running() for process in processes))
    assert own_regions(server.process.pid) == []


def test_server_with_restricted_grpc_and_without_http_starts_and_is_watched(
    launch: Callable[..., Launched], repository: Path
) -> None:
    restricted = "--grpc-restricted-protocol=inference:token=SECRET"
    server = launch(repository, "--", "--allow-http=false", restricted)
    server.wait_for_line("ready in")
    assert server.probe() is Kind.FAILED  # restricted, as asked for
    server.stubs()["pixels"].kill()
    server.wait_for_line("RESTARTING because a model's stub")
    server.wait_for_line("ready in", occurrence=2)


def test_server_with_a_full_disk_under_its_output_goes_on(repository: Path) -> None:
    ports = free_ports()
    options = [f"--{name}-port={port}" for name, port in ports.items()]
    command = [sys.executable, "-m", "server", "--model-repository", str(repository), "--log-level=verbose", *options]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(command, cwd=CHECKOUT, stdout=full, stderr=full)
    prober = Prober(f"127.0.0.1:{ports['grpc']}")
    try:
        for _ in range(3):

            def answered() -> bool:
                probe = prober.start(10)
                return bool(wait_for(probe.outcome).kind is Kind.ANSWERED)

            wait_for(answered)
        assert process.poll() is None
    finally:
        prober.close()
        process.terminate()
        assert process.wait(120) == 0


def test_server_first_start_failure_shows_the_model_s_error_and_ends(
    launch: Callable[..., Launched], repository: Path
) -> None:
    steer(repository, "broken", "the weights are upside down")
    server = launch(repository, "--log-level", "error")
    assert server.process.wait(120) == 1
    server.reader.join(PATIENCE)
    tail = server.log[server.log.index("server: the server did not start") :]
    assert "failed to load 'pixels'" in tail
    assert "the weights are upside down" in tail
    assert own_regions(server.process.pid) == []


def test_server_gives_up_after_repeated_failures(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.supervision.restarts.GIVE_UP_AFTER", 2)
    events: list[str] = []

    def break_it(_: float) -> None:
        steer(repository, "broken", "the disk is on fire")
        victim = psutil.Process().children(recursive=True)
        next(p for p in victim if p.name().startswith("tritonserver")).kill()

    options = Options(repository, "127.0.0.1", free_ports())
    supervisor = Supervisor(default_layout(), options, say=events.append, show_log=lambda _: None, on_ready=break_it)
    with pytest.raises(GaveUpError, match="gave up after 2 failed starts") as caught:
        supervisor.run()
    assert "the disk is on fire" in str(caught.value)
    assert sum("RESTARTING" in event for event in events) == 2
    assert own_regions(os.getpid()) == []


def supervise(repository: Path, policy: Policy, until: Callable[[list[str]], bool]) -> list[str]:
    """Run a supervisor in a thread until something was said; returns all that was said."""
    events: list[str] = []
    options = Options(repository, "127.0.0.1", free_ports(), drain_seconds=0)
    supervisor = Supervisor(
        default_layout(),
        options,
        say=events.append,
        show_log=lambda _: None,
        on_ready=lambda _: events.append("ready"),
        policy=policy,
    )
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        wait_for(lambda: until(events), hint=lambda: events)
    finally:
        supervisor.force.set()
        supervisor.stop.set()
        thread.join(PATIENCE)
    return events


def test_server_busy_beyond_the_probe_s_patience_is_not_restarted(repository: Path) -> None:
    ready = threading.Event()

    def two_slow_answers_later(events: list[str]) -> bool:
        if "ready" in events and not ready.is_set():
            steer(repository, "seconds", "0.5")
            ready.set()
            two_slow_answers_later.since = time.monotonic()  # type: ignore[attr-defined]
        return ready.is_set() and time.monotonic() - two_slow_answers_later.since > 7  # type: ignore[attr-defined]

    policy = Policy(probe_interval=0.2, probe_timeout=0.1, stall=4)  # no probe is ever answered in time
    events = supervise(repository, policy, two_slow_answers_later)
    assert not [event for event in events if "RESTARTING" in event]


def test_server_that_hangs_is_restarted(repository: Path) -> None:
    def hang_once(events: list[str]) -> bool:
        if events == ["ready"]:
            steer(repository, "seconds", "1000")
        if len(events) == 2:
            steer(repository, "seconds", "0")
        return events.count("ready") == 2

    events = supervise(repository, Policy(probe_interval=0.2, probe_timeout=0.5, stall=2), hang_once)
    assert "a real inference waits" in events[1]


def test_server_whose_admission_hears_of_nothing_while_it_refuses_is_restarted(repository: Path) -> None:
    def refuse_once(events: list[str]) -> bool:
        if events == ["ready"]:
            steer(repository, "refuses", f"{STUCK}: nothing has left for 99 s, and the queue is full")
        if len(events) == 2:
            (repository / "pixels" / "1" / "refuses").unlink(missing_ok=True)
        return events.count("ready") == 2

    events = supervise(repository, Policy(probe_interval=0.2, probe_timeout=5, stall=2), refuse_once)
    assert re.search("RESTARTING because .*(nothing has left|no model has answered anything) for", events[1])


def test_server_that_refuses_because_it_has_enough_to_do_is_not_restarted(repository: Path) -> None:
    began: list[float] = []

    def refuse(events: list[str]) -> bool:
        if events == ["ready"] and not began:
            steer(repository, "refuses", f"{OVERLOADED}: the queue is full")
            began.append(time.monotonic())
        return bool(began) and time.monotonic() - began[0] > 5

    events = supervise(repository, Policy(probe_interval=0.2, probe_timeout=5, stall=60), refuse)
    assert not [event for event in events if "RESTARTING" in event]
