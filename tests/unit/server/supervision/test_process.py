"""tritonserver's command line and environment, its log's errors, and processes that ended."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ensemble.calibration import PAPER_VOTE
from ensemble.voting import score_logits
from server.findings import Finding, Level
from server.repository import Model
from server.standin.environment import server_environment
from server.supervision.health import Policy
from server.supervision.probe import Kind, Outcome
from server.supervision.process import (
    LIFELINE,
    LOG_LEVELS,
    Options,
    TritonProcess,
    arguments,
    error_lines,
    has_ended,
    has_lost_stub,
)
from server.supervision.stop import Stop
from tests.waiting import wait_for

PORTS = {"grpc": 1, "http": 2, "metrics": 3}


class Installation:
    """A tritonserver of a few lines of Python."""

    def __init__(self, folder: Path, program: str = "import time; print('hello', flush=True); time.sleep(60)") -> None:
        self.tritonserver = folder / "tritonserver"
        self.tritonserver.write_text(f"#!{sys.executable}\n{program}\n")
        self.tritonserver.chmod(0o755)
        self.backends, self.caches = folder / "backends", folder / "caches"
        self.environment = {"PATH": os.environ["PATH"], "MINE": "1"}


def options(**more: object) -> Options:
    return Options(Path("models"), "127.0.0.1", PORTS, key="K", **more)  # type: ignore[arg-type]


def wait_for_log(log: list[str], count: int = 1) -> None:
    wait_for(lambda: len(log) >= count, hint=lambda: log)


def test_the_command_line_is_whole(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    command = arguments(installation, options(config_name="fused", drain_seconds=4, extra=("--x=1",)), "prefix_")
    assert command[0] == str(tmp_path / "tritonserver")
    assert command[1:5] == [
        "--model-repository=models",
        f"--backend-directory={tmp_path / 'backends'}",
        f"--cache-directory={tmp_path / 'caches'}",
        "--rate-limit=execution_count",
    ]
    assert {"--disable-auto-complete-config", "--exit-timeout-secs=4"} <= set(command)
    assert "--backend-config=python,shm-region-prefix-name=prefix_" in command
    for name, port in PORTS.items():
        assert {f"--{name}-address=127.0.0.1", f"--{name}-port={port}"} <= set(command)
    assert "--model-config-name=fused" in command
    assert command[-1] == "--x=1"
    assert not [word for word in arguments(installation, options(), "") if word.startswith("--model-config-name")]


@pytest.mark.parametrize("level", LOG_LEVELS)
def test_each_log_level_is_tritonserver_s(tmp_path: Path, level: str) -> None:
    command = arguments(Installation(tmp_path), options(log_level=level), "")
    assert {word for word in command if word.startswith("--log-")} == set(LOG_LEVELS[level])
    own = arguments(Installation(tmp_path), options(log_level=level, extra=("--log-verbose=3",)), "")
    assert own[-1] == "--log-verbose=3"  # tritonserver goes by the last one given: the user's


def test_http_of_a_secured_server_listens_on_this_machine_alone(tmp_path: Path) -> None:
    secured = Options(Path(), "0.0.0.0", PORTS, extra=("--grpc-use-ssl=true",))
    command = arguments(Installation(tmp_path), secured, "")
    assert {"--http-address=127.0.0.1", "--grpc-address=0.0.0.0", "--metrics-address=0.0.0.0"} <= set(command)


def test_the_stub_gets_this_environment_s_python_and_no_other_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/somewhere/else")
    monkeypatch.setenv("AIP_MODE", "PREDICTION")
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr("server.standin.environment.has_cuda_provider", lambda: False)
    found = server_environment()
    assert not {"PYTHONHOME", "AIP_MODE"} & set(found)
    assert found["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert found["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setattr("server.standin.environment.has_cuda_provider", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in server_environment()


def test_a_process_runs_logs_and_stops_in_good_order(tmp_path: Path) -> None:
    log: list[str] = []
    program = "import os, time; print(os.environ['MINE'], os.environ['MORE'], flush=True); time.sleep(60)"
    process = TritonProcess(Installation(tmp_path, program), options(), log.append, {"MORE": "2"})
    wait_for_log(log)
    assert log == ["1 2"]
    assert process.exit_status() is None
    assert not process.has_crashed()
    assert os.getpgid(process.pid) == process.pid  # a group of its own: Ctrl-C does not reach it
    assert process.stop(Stop())
    assert process.exit_status() == "killed by SIGTERM"


def test_all_that_it_writes_is_logged_and_its_environment_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log line that is no text must not end the reader: a full pipe would stop the server."""
    monkeypatch.setenv("OF_THE_LAUNCHER", "1")
    installation = Installation(tmp_path)
    (tmp_path / "tritonserver").write_text(
        "#!/bin/sh\nread line && echo it was given input\nprintf 'E0102 03:04:05.0 7 a] \\377\\n' >&2\n"
        'echo "set: $MINE $MORE ${OF_THE_LAUNCHER-not of the launcher}"\n'
    )
    log: list[str] = []
    process = TritonProcess(installation, options(), log.append, {"MORE": "2"})
    wait_for_log(log, 2)
    assert sorted(log) == ["E0102 03:04:05.0 7 a] \N{REPLACEMENT CHARACTER}", "set: 1 2 not of the launcher"]
    wait_for(process.exit_status)
    process.kill()
    process.kill()  # what has ended is ended
    assert process.exit_status() == "exit code 0"


def test_all_of_a_log_is_there_once_the_server_has_been_ended(tmp_path: Path) -> None:
    installation, shown = Installation(tmp_path), list[str]()
    errors = [f"E0102 03:04:05.{n} 7 a] it broke {n}" for n in range(3)]
    (tmp_path / "tritonserver").write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in errors))

    def show(line: str) -> None:
        time.sleep(0.1)
        shown.append(line)

    process = TritonProcess(installation, options(), show)
    wait_for(process.exit_status)
    process.kill()
    assert shown == process.error_lines() == errors


def test_an_exit_code_is_told(tmp_path: Path) -> None:
    process = TritonProcess(Installation(tmp_path, "raise SystemExit(3)"), options(), lambda _: None)
    assert wait_for(process.exit_status) == "exit code 3"
    assert not process.has_crashed()
    process.kill()


def test_a_stub_that_triton_takes_for_dead_is_told_from_other_errors() -> None:
    other = "E0102 03:04:05.0 7 a] failed to load 'voter': the checkpoint is not healthy"
    assert not has_lost_stub([other])
    lost = "E0102 03:04:05.0 7 a] failed to run warmup sample 'black': Stub process 'voter_0_0' is not healthy.; "
    assert has_lost_stub([other, lost])


def test_a_kill_removes_the_shared_memory_of_this_server_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.supervision.process.SHARED_MEMORY", tmp_path)
    process = TritonProcess(Installation(tmp_path), options(), lambda _: None)
    own, other = tmp_path / f"{process._memory_prefix}a", tmp_path / f"deepfake_detector_{os.getpid()}_other_a"
    for region in (own, other):
        region.touch()
    process.kill()
    assert not own.exists()
    assert other.exists()


def test_a_forced_stop_kills_at_once_all_of_its_group_and_its_shared_memory(tmp_path: Path) -> None:
    program = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
prefix = next(word.rpartition("=")[2] for word in sys.argv if "shm-region-prefix-name" in word)
open(f"/dev/shm/{prefix}region", "w").close()
print(child.pid, prefix, flush=True)
time.sleep(60)
"""
    log: list[str] = []
    process = TritonProcess(Installation(tmp_path, program), options(drain_seconds=3000), log.append)
    wait_for_log(log)
    pid, prefix = log[0].split()
    child = psutil.Process(int(pid))
    assert prefix.startswith(f"deepfake_detector_{os.getpid()}_")
    assert Path(f"/dev/shm/{prefix}region").exists()
    force = Stop()
    force.set()
    assert not process.stop(force)
    assert process.exit_status() == "killed by SIGKILL"
    assert process.has_crashed()
    assert not Path(f"/dev/shm/{prefix}region").exists()
    assert has_ended(child)


def test_a_server_that_does_not_stop_is_killed_after_its_drain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.supervision.process.KILL_AFTER", 0.1)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    log: list[str] = []
    process = TritonProcess(Installation(tmp_path, program), options(drain_seconds=0), log.append)
    wait_for_log(log)
    assert not process.stop(Stop())
    assert process.exit_status() == "killed by SIGKILL"


def test_it_does_not_start_where_its_launcher_has_ended_already(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    begun = [sys.executable, "-c", f"open({str(tmp_path / 'begun')!r}, 'w').close()"]
    assert subprocess.run([sys.executable, str(LIFELINE), str(gone.pid), *begun]).returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "begun").exists()
    assert subprocess.run([sys.executable, str(LIFELINE), str(os.getpid()), *begun]).returncode == 0
    assert (tmp_path / "begun").exists()


def test_it_is_asked_to_end_when_its_launcher_is_killed(tmp_path: Path) -> None:
    program = f"""
import signal, sys, time
def end(*_):
    open({str(tmp_path / "asked")!r}, "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)  # and nothing else: who writes to a launcher that is gone ends by that
time.sleep(600)
"""
    code = f"""
import sys, time; sys.path.insert(0, {str(Path(__file__).parents[4])!r})
from pathlib import Path
from tests.unit.server.supervision.test_process import Installation, options
from server.supervision.process import TritonProcess
log = []
process = TritonProcess(Installation(Path({str(tmp_path)!r}), {program!r}), options(), log.append)
while not log:
    time.sleep(0.01)
print(process.pid, flush=True)
time.sleep(600)
"""
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    server = psutil.Process(int(launcher.stdout.readline()))
    launcher.send_signal(signal.SIGKILL)
    launcher.communicate()
    try:
        server.wait(60)
    finally:
        if server.is_running():
            server.kill()
    assert (tmp_path / "asked").exists()


def test_stubs_are_the_python_backend_s_processes_alone(tmp_path: Path) -> None:
    (tmp_path / "triton_python_backend_stub").write_text(f"#!{sys.executable}\nimport time; time.sleep(60)\n")
    program = f"""
import subprocess, sys, time
start = 'import subprocess, sys; stub = subprocess.Popen(["{tmp_path}/triton_python_backend_stub"], '
start += 'executable=sys.executable, stdin=subprocess.PIPE); print(stub.pid, flush=True); '
other = subprocess.Popen([sys.executable, "-c", start + "stub.wait()"], stdout=subprocess.PIPE)
print(int(other.stdout.readline()), flush=True)  # a child's child
exec(start)
time.sleep(60)
"""
    log: list[str] = []
    process = TritonProcess(Installation(tmp_path, program), options(), log.append)
    wait_for_log(log, 2)
    found = wait_for(lambda: len(stubs := process.stubs()) >= 2 and stubs)
    assert {str(each.pid) for each in found} == set(log)
    process.kill()
    assert all(map(has_ended, found))
    assert process.stubs() == []


def test_a_zombie_has_ended_and_a_running_process_has_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = psutil.Process(child.pid)
    assert not has_ended(process)
    child.kill()
    wait_for(lambda: has_ended(process))
    child.communicate()
    assert has_ended(process)


def test_errors_of_a_log_are_whole_and_told_once() -> None:
    log = [
        'I0102 03:04:05.000001 7 a.cc:1] "loading"',
        "I know nothing",
        'E0102 03:04:05.000002 7 a.cc:1] "it broke"',
        "because of this",
        "",
        'W0102 03:04:05.000003 7 a.cc:1] "careful"',
        "not this",
        'E0102 03:04:05.000004 7 a.cc:1] "it broke"',
        'E0102 03:04:05.000005 7 a.cc:1] "CudaDriverHelper has not been initialized"',
        'F0102 03:04:05.000006 7 a.cc:1] "the end"',
        "error: creating server: Internal",
        "| table |",
    ]
    assert error_lines(log) == [log[2], log[3], log[9], log[10]]
    alike = ['E0102 03:04:05.000001 7 a.cc:1] "a[0] is odd"', 'E0102 03:04:05.000002 7 a.cc:1] "b[0] is odd"']
    assert error_lines(alike) == alike  # two messages, of which the ends are the same


ORPHANS = """
import sys, time
from pathlib import Path
import psutil
from server.supervision.process import TritonProcess, adopt_orphans
from tests.unit.server.supervision.test_process import Installation, options

adopt_orphans()
program = '''
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
time.sleep(60)
'''
log = []
process = TritonProcess(Installation(Path(sys.argv[1]), program), options(), log.append)
while not log:
    time.sleep(0.01)
process.kill()
print(psutil.pid_exists(int(log[0])), psutil.pid_exists(process.pid))
"""


def test_what_a_killed_server_leaves_is_reaped(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ORPHANS, str(tmp_path)]
    root = Path(__file__).parents[4]
    environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{root}"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr


@pytest.mark.parametrize(
    "kept",
    [
        options(),
        Policy(),
        Outcome(Kind.BUSY, "", 0.0),
        Finding("", Level.OK, ""),
        Model("", "", None, 0, ()),
        PAPER_VOTE,
        score_logits(np.zeros((1, 3, 2), np.float32)),
    ],
    ids=lambda kept: type(kept).__name__,
)
def test_what_is_handed_on_cannot_be_changed(kept: object) -> None:
    for each in dataclasses.fields(kept):  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(kept, each.name, None)


def test_a_server_gets_some_seconds_beyond_those_that_its_requests_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(0)))
print("ready", flush=True)
time.sleep(600)
"""
    monkeypatch.setattr("server.supervision.process.KILL_AFTER", 120.0)
    log: list[str] = []
    process = TritonProcess(Installation(tmp_path, program), options(drain_seconds=0), log.append)
    wait_for_log(log)
    assert process.stop(Stop())
    assert process.exit_status() == "exit code 0"
