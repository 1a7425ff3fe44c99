"""The launcher's parts that need no running server: refusals, install, doctor, judgement of health."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.diagnosis import checks
from server.errors import InstallError, RefusedError, RepositoryError
from server.findings import Level
from server.repository import describe_weights, missing_parts, read_models
from server.standin import checks as standin
from server.standin import install, layout
from server.standin.layout import CHECKOUT, Layout, default_layout
from server.standin.patches import CANCELLATION, MESSAGE_SIZE, Patch, apply
from server.supervision import process
from server.supervision.health import Health, Policy
from server.supervision.probe import Kind, Outcome
from tests.backends import free_ports, save_net
from tests.waiting import PATIENCE

ENSEMBLE = """
platform: "ensemble" max_batch_size: 32
input [ { name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "SCORE" data_type: TYPE_FP32 dims: [ 1 ] } ]
ensemble_scheduling { step [ { model_name: "net" model_version: -1 input_map { key: "IMAGE" value: "IMAGE" }
  output_map { key: "SCORE" value: "SCORE" } } ] }
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    repository = tmp_path / "repository"
    save_net(repository / "net")
    (repository / "deepfake_detector" / "1").mkdir(parents=True)
    (repository / "deepfake_detector" / "config.pbtxt").write_text(ENSEMBLE)
    return repository


def run(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "400"} | (environment or {})
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE, env=environment)


def port_options() -> list[str]:
    return [f"--{name}-port={port}" for name, port in free_ports().items()]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_server_refuses_a_taken_port_and_names_its_holder(repository: Path, taken_port: int) -> None:
    refused = run("--model-repository", repository, *port_options()[1:], "--grpc-port", taken_port)
    assert refused.returncode == 2
    assert f"grpc port {taken_port} on 127.0.0.1 is taken by" in refused.stderr
    assert f"process {os.getpid()}" in refused.stderr
    assert "--grpc-port" in refused.stderr


def test_server_refuses_equal_ports(repository: Path) -> None:
    port = free_ports()["grpc"]
    refused = run("--model-repository", repository, "--grpc-port", port, "--http-port", port)
    assert refused.returncode == 2
    assert f"grpc and http have the same port {port}" in refused.stderr


def test_server_refuses_a_missing_repository(tmp_path: Path) -> None:
    refused = run("--model-repository", tmp_path / "nowhere", *port_options())
    assert refused.returncode == 2
    assert f"{tmp_path / 'nowhere'}: no such model repository" in refused.stderr
    assert "make export" in refused.stderr


def test_server_refuses_a_missing_model_file(repository: Path) -> None:
    (repository / "net" / "1" / "model.onnx").unlink()
    refused = run("--model-repository", repository, *port_options())
    assert refused.returncode == 2
    assert f"net needs {repository / 'net' / '1' / 'model.onnx'}" in refused.stderr
    assert "run `make export WEIGHTS=dir`" in refused.stderr


@pytest.mark.parametrize("extra", ["--grpc-port=1", "--model-control-mode=poll", "--model-repository"])
def test_server_refuses_tritonserver_options_that_it_sets_itself(repository: Path, extra: str) -> None:
    refused = run("--model-repository", repository, *port_options(), "--", extra)
    assert refused.returncode == 2
    assert f"{extra}: this launcher sets" in refused.stderr


@pytest.mark.parametrize(("version", "level"), [("1.26.4", Level.OK), ("2.0.0", Level.WRONG), ("2.4.1", Level.WRONG)])
def test_server_check_refuses_numpy_2(monkeypatch: pytest.MonkeyPatch, version: str, level: Level) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    finding = standin.check_numpy()
    assert finding.level is level
    assert version in finding.detail
    assert ('"numpy>=1.26,<2"' in finding.fix) == (level is Level.WRONG)


def test_server_check_names_the_package_with_libpython(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Layout(tmp_path)
    here.stub.parent.mkdir(parents=True)
    here.stub.touch()
    monkeypatch.setattr(standin, "missing_libraries", lambda *_: ["libpython3.11.so.1.0"])
    finding = standin.check_libpython(here)
    assert finding.level is Level.WRONG
    assert f"apt install libpython{layout.PYTHON_VERSION}" in finding.fix


def test_server_missing_libraries_are_those_the_loader_lacks() -> None:
    assert layout.missing_libraries(Path("/bin/sh"), "") == []


def test_server_check_refuses_a_python_without_stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin, "PYTHON_VERSION", "3.99")
    assert standin.check_python().level is Level.WRONG


def test_server_check_says_how_to_install_what_is_not_there(tmp_path: Path) -> None:
    finding = standin.check_layout(Layout(tmp_path / ".triton"))
    assert finding.level is Level.WRONG
    assert "python -m server install" in finding.fix


def test_server_repository_names_what_does_not_parse(repository: Path) -> None:
    (repository / "net" / "config.pbtxt").write_text("max_batch_size: many")
    with pytest.raises(RepositoryError, match=r"net/config\.pbtxt: not a Triton model configuration: 1:17"):
        read_models(repository)


def test_server_repository_with_a_stray_folder_is_refused(repository: Path) -> None:
    # tritonserver ends when it finds one, hidden or not.
    (repository / ".staging-1").mkdir()
    with pytest.raises(RepositoryError, match=r"\.staging-1 has no config\.pbtxt"):
        read_models(repository)


def test_server_repository_lacks_a_step_or_the_ensemble(repository: Path) -> None:
    assert missing_parts(read_models(repository), repository) == []
    shutil.rmtree(repository / "net")
    assert missing_parts(read_models(repository), repository) == [
        "deepfake_detector needs the model net, which is not there"
    ]
    shutil.rmtree(repository / "deepfake_detector")
    save_net(repository / "net")
    assert "has no model deepfake_detector" in missing_parts(read_models(repository), repository)[0]


def test_server_repository_reads_the_named_configuration(repository: Path) -> None:
    (repository / "net" / "configs").mkdir()
    text = (repository / "net" / "config.pbtxt").read_text().replace("onnxruntime", "tensorrt")
    text = text.replace('default_model_filename: "model.onnx"', "")
    (repository / "net" / "configs" / "tensorrt.pbtxt").write_text(text)
    models = {model.name: model for model in read_models(repository, "tensorrt")}
    assert models["net"].file == repository / "net" / "1" / "model.plan"
    with pytest.raises(RepositoryError, match="no model has a configuration 'tensort'"):
        read_models(repository, "tensort")
    (repository / "net" / "1" / "model.plan").touch()
    finding = next(iter(checks.check_repository(repository, "tensorrt", standin.SERVED_BACKENDS)))
    assert finding.level is Level.WRONG
    assert "no backend tensorrt (net)" in finding.detail


@pytest.mark.parametrize("text", [None, "not json", "{}", "[]", '{"untrained": false}'])
def test_server_weights_of_unknown_origin_are_called_so(repository: Path, text: str | None) -> None:
    if text is not None:
        (repository / "provenance" / "1").mkdir(parents=True)
        (repository / "provenance" / "1" / "provenance.json").write_text(text)
    line, trained = describe_weights(repository)
    assert line.startswith("weights of unknown origin")
    assert not trained


@pytest.mark.server
def test_server_install_repairs_what_is_missing_and_then_does_nothing(tmp_path: Path) -> None:
    install.install(default_layout(), print)
    here = Layout(tmp_path / ".triton")
    here.root.mkdir()
    shutil.copytree(default_layout().root / "wheels", here.root / "wheels", symlinks=True, copy_function=os.link)
    done: list[str] = []
    assert install.install(here, done.append)
    assert done == [f"laying out {here.server}"]  # the wheels were there: nothing was fetched
    assert here.problems() == []
    assert not install.install(here, done.append)
    here.stub.unlink()
    (here.root / ".server-killed" / "half").mkdir(parents=True)
    assert here.problems() == [f"{here.stub} is missing"]
    assert install.install(here, done.append)
    assert here.problems() == []
    assert sorted(path.name for path in here.root.iterdir()) == [".lock", "bin", "server", "wheels"]


@pytest.mark.server
def test_server_install_patches_the_library_that_the_program_loads(tmp_path: Path) -> None:
    here = default_layout()
    install.install(here, print)
    call = f"import ctypes; print(ctypes.CDLL({str(here.core)!r}).{CANCELLATION.subject}(None))"
    environment = os.environ | {"LD_LIBRARY_PATH": here.library_path()}
    outcome = subprocess.run([sys.executable, "-c", call], env=environment, capture_output=True, text=True)
    assert outcome.stdout == "0\n", outcome.stderr  # the function as it came would read from null
    listing = subprocess.run(["ldd", here.program], env=environment, capture_output=True, text=True).stdout
    loaded = next(line.split()[2] for line in listing.splitlines() if here.core.name in line)
    assert here.core.samefile(loaded)


@pytest.mark.parametrize("patch", [CANCELLATION, MESSAGE_SIZE], ids=lambda patch: patch.subject)
def test_server_install_refuses_to_patch_another_file(tmp_path: Path, patch: Patch) -> None:
    (tmp_path / "library.so").write_bytes(bytes(4_000_000))
    with pytest.raises(InstallError, match=r"is not of the release .* remove the folder of the wheel"):
        apply(patch, tmp_path / "library.so", tmp_path / "lib" / "library.so")
    assert not (tmp_path / "lib").exists()


@pytest.mark.server
def test_server_perf_analyzer_runs_wherever_it_is_called_from(tmp_path: Path) -> None:
    install.install(default_layout(), print)
    link = tmp_path / "perf"
    link.symlink_to(default_layout().perf_analyzer)
    outcome = subprocess.run([link, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert outcome.returncode == 0
    assert "Perf Analyzer Version" in outcome.stdout + outcome.stderr


def test_server_install_failure_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    here = Layout(tmp_path / ".triton")
    with pytest.raises(InstallError, match=r"pip could not fetch nvidia-pytriton==0\.7\.0"):
        install.install(here, print)
    assert list((here.root / "wheels").iterdir()) == []


def test_server_doctor_reports_every_check_and_fails_on_what_is_wrong(tmp_path: Path) -> None:
    outcome = run("doctor", "--model-repository", tmp_path / "nowhere", *port_options())
    assert outcome.returncode == 1
    subjects = (
        "platform",
        "python",
        "libpython",
        "numpy",
        "onnxruntime",
        "opencv",
        "tritonserver",
        "shared memory",
        "gpu",
    )
    for subject in subjects:
        assert subject in outcome.stdout
    assert "no such model repository" in outcome.stdout
    assert "1 wrong" in outcome.stdout


def test_server_doctor_finds_no_server_where_there_is_none(repository: Path) -> None:
    port = free_ports()["grpc"]
    outcome = run("doctor", "--model-repository", repository, "--url", f"127.0.0.1:{port}")
    assert outcome.returncode == 1
    assert f"127.0.0.1:{port}: UNAVAILABLE" in outcome.stdout


def test_server_doctor_says_when_onnxruntime_cannot_use_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA H100, 81559 MiB, 570.1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    finding = standin.check_gpu()
    assert finding.level is Level.WARNING
    assert "NVIDIA H100" in finding.detail
    assert "the models run on the CPU" in finding.detail
    assert "onnxruntime-gpu" in finding.fix


def test_server_help_shows_the_options_without_a_command() -> None:
    text = run("--help").stdout
    for word in ("--model-repository", "--grpc-port", "doctor", "install", "Exit codes"):
        assert word in text


def test_server_refused_error_has_exit_code_2() -> None:
    assert RefusedError("").exit_code == RepositoryError("").exit_code == 2


def test_server_error_lines_keep_messages_whole_and_once() -> None:
    log = [
        'E0102 03:04:05.000001 7 server.cc:241] "CudaDriverHelper has not been initialized."',
        'I0102 03:04:05.000001 7 a.cc:1] "loading: net:1"',
        "E0102 03:04:05.000002 7 b.cc:2] \"failed to load 'net' version 1: Internal: no such file",
        "",
        "At:",
        '  model.py(9): initialize"',
        'I0102 03:04:05.000003 7 a.cc:1] "unloading"',
        "E0102 03:04:05.000004 7 c.cc:2] \"failed to load 'net' version 1: Internal: no such file",
        "| net | 1 | UNAVAILABLE |",
        "error: creating server: Internal - failed to load all models",
    ]
    assert process.error_lines(log) == [log[2], log[4], log[5], log[9]]


ANSWER = Outcome(Kind.ANSWERED, "", 0.1)
BUSY = Outcome(Kind.BUSY, "DEADLINE_EXCEEDED", 30.0)
FAILURE = Outcome(Kind.FAILED, "INTERNAL: Stub process is not healthy", 0.1)


def test_server_health_two_failures_in_a_row_are_a_verdict_one_is_not() -> None:
    health = Health(Policy(), progressed=0)
    for outcome in (FAILURE, ANSWER, FAILURE):
        health.started_probe(1)
        health.saw_outcome(outcome, 2)
    assert health.verdict(3) is None
    health.saw_outcome(FAILURE, 3)
    assert "not healthy" in str(health.verdict(3))


def test_server_health_waiting_probe_is_a_verdict_only_when_nothing_moves() -> None:
    health = Health(Policy(stall=60), progressed=0)
    health.started_probe(10)
    for now in range(10, 1000, 30):
        health.saw_counts({"net": now}, now)  # busy: batches are answered, the probe is not
        health.saw_outcome(BUSY, now)
        health.started_probe(now)
        assert health.verdict(now) is None
    health.saw_counts({"net": 970}, 1000)
    assert health.verdict(1000) is None
    assert "no model has answered anything for 90 s" in str(health.verdict(1060))


def test_server_health_slow_answers_are_probed_less_often() -> None:
    health = Health(Policy(probe_interval=5, share=0.1), progressed=0)
    health.saw_outcome(Outcome(Kind.ANSWERED, "", 12.0), now=100)
    assert health.next_probe == 220
    health.saw_outcome(ANSWER, now=300)
    assert health.next_probe == 305


def test_server_health_probes_that_wait_under_load_take_no_more_than_their_share() -> None:
    health = Health(Policy(probe_interval=5, share=0.1), progressed=0)
    health.saw_outcome(Outcome(Kind.BUSY, "DEADLINE_EXCEEDED", 30.0), now=100)
    assert health.next_probe == 400
    health.saw_outcome(Outcome(Kind.BUSY, "the queue is full", 0.001), now=400)
    assert health.next_probe == 405
