"""What `doctor` makes of a running server and of its findings, and the credentials that it takes."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from server import cli
from server.diagnosis import doctor, engines
from server.diagnosis.credentials import Credentials, parse_header
from server.findings import Finding, Level
from server.nvidia_smi import DriverError
from server.standin.layout import Layout
from server.supervision.probe import Kind, Outcome


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the probe was asked, and the outcome that it is to have."""
    seen: dict[str, Any] = {"closed": 0}

    class FakeProber:
        def __init__(self, *arguments: Any) -> None:
            seen["arguments"] = arguments

        def start(self, timeout: float) -> Any:
            seen["timeout"] = timeout
            left = [None, None, seen["outcome"]]
            return type("Pending", (), {"outcome": lambda _: left.pop(0)})()

        def close(self) -> None:
            seen["closed"] += 1

    monkeypatch.setattr(doctor, "Prober", FakeProber)
    return seen


@pytest.mark.parametrize(
    ("kind", "level", "detail", "fix"),
    [
        (Kind.ANSWERED, Level.OK, "h:1 answered a real inference in 250 ms", ""),
        (Kind.BUSY, Level.WARNING, "h:1 is busy or stuck: why", "wait until it has less to do, or restart it"),
        (Kind.UNREACHABLE, Level.WRONG, "h:1: why", "start one with `python -m server`"),
        (Kind.FAILED, Level.WRONG, "h:1: why", "restart it and read its log"),
    ],
)
def test_a_running_server_is_judged_by_a_real_inference(
    asked: dict[str, Any], kind: Kind, level: Level, detail: str, fix: str
) -> None:
    asked["outcome"] = Outcome(kind, "why", 0.25)
    finding = doctor.check_server("h:1", Credentials(False, headers={"token": "a"}))
    assert (finding.subject, finding.level, finding.detail, finding.fix) == ("server", level, detail, fix)
    assert asked["arguments"] == ("h:1", {"token": "a"}, None)
    assert asked["timeout"] == doctor.PROBE_SECONDS == 60
    assert asked["closed"] == 1


def test_where_a_server_is_tried_its_ports_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: dict[str, tuple[Any, ...]] = {}
    taken = [Finding("port", Level.WRONG, "taken", "choose"), Finding("port", Level.OK, "free")]

    def look(where: Any, name: str, found: Any) -> None:
        monkeypatch.setattr(where, name, lambda *given: looked.update({name: given}) or found(name))

    for name in ("platform", "python", "libpython", "numpy", "onnxruntime", "openvino", "opencv", "layout", "gpu"):
        look(doctor.standin, f"check_{name}", lambda name: Finding(name, Level.OK, ""))
    look(doctor.checks, "check_shared_memory", lambda name: Finding(name, Level.OK, ""))
    for where, name in ((doctor.checks, "check_repository"), (doctor, "check_engines")):
        look(where, name, lambda name: iter([Finding(name, Level.OK, "")]))
    look(doctor, "check_server", lambda name: Finding(name, Level.OK, ""))
    look(doctor.checks, "check_ports", lambda _: taken)
    layout, credentials, ports = Layout(Path("there")), Credentials(True), {"grpc": 1}

    def examine(url: str | None) -> list[Finding]:
        looked.clear()
        return list(doctor.examine(layout, Path("models"), "openvino", "::1", ports, url, credentials))

    assert [each.subject for each in examine("h:1")][10:] == ["check_repository", "check_engines", "check_server"]
    assert looked["check_server"] == ("h:1", credentials)
    assert "check_ports" not in looked
    # A taken port may be that of the server that runs.
    assert examine(None)[12:] == [Finding("port", Level.WARNING, "taken", "choose"), taken[1]]
    assert looked["check_ports"] == ("::1", ports)
    assert looked["check_repository"] == (Path("models"), "openvino", doctor.standin.SERVED_BACKENDS)
    assert looked["check_engines"] == (Path("models"),)
    assert looked["check_layout"] == looked["check_libpython"] == (layout,)
    assert "check_server" not in looked


def told(*levels: Level) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    doctor.show([Finding(f"s{n}", level, "found [x]", "mend" if n else "") for n, level in enumerate(levels)], console)
    return console.export_text()


def test_findings_are_shown_with_their_fix_and_summed_up() -> None:
    text = told(Level.OK, Level.WRONG, Level.WARNING, Level.WRONG)
    assert text.count("found [x]") == 4
    assert text.count("→ mend") == 3
    assert text.strip().splitlines()[-1].startswith("2 wrong, 1 to look at")
    assert told(Level.OK, Level.WARNING).strip().splitlines()[-1] == "ready to serve; 1 to look at"
    assert told(Level.OK, Level.OK).strip().splitlines()[-1] == "all is well"


def test_a_header_has_a_name_in_lower_case_and_a_value(tmp_path: Path) -> None:
    assert parse_header(" Token=a=b ") == ("token", "a=b")
    secret = tmp_path / "secret"
    secret.write_text(" s3cret\n")
    assert parse_header(f"Authorization=@{secret}") == ("authorization", "s3cret")


@pytest.mark.parametrize("text", ["token", "token=@/nowhere/at/all"])
def test_a_header_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(
        click.BadParameter, match=r"a header is NAME=VALUE|header token: /nowhere/at/all cannot be read"
    ):
        parse_header(text)


def test_a_header_s_file_is_text(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"\xff\xfe")
    with pytest.raises(click.BadParameter, match=r"header token: .*odd cannot be read"):
        parse_header(f"token=@{tmp_path / 'odd'}")


def test_the_connection_is_encrypted_where_anything_asks_for_it(tmp_path: Path) -> None:
    file = tmp_path / "any.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\n")
    assert Credentials(False).channel_credentials() is None
    assert Credentials(True).channel_credentials() is not None
    assert Credentials(False, ca=file).channel_credentials() is not None
    assert Credentials(False, client_cert=file, client_key=file).channel_credentials() is not None
    assert "secret" not in repr(Credentials(False, headers={"token": "secret"}))


def test_each_file_stands_for_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "client_cert", "client_key")}
    for name, file in files.items():
        file.write_text(name)
    given: list[tuple[bytes | None, ...]] = []
    monkeypatch.setattr("grpc.ssl_channel_credentials", lambda *pem: given.append(pem))
    Credentials(**files).channel_credentials()
    Credentials(ca=files["ca"]).channel_credentials()
    assert given == [(b"ca", b"client_key", b"client_cert"), (b"ca", None, None)]  # gRPC takes the key first


# the commands


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command looks at, and what it is to find."""
    seen: dict[str, Any] = {"findings": [], "engines": []}
    monkeypatch.setattr(cli, "examine", lambda *given: seen.update(given=given) or iter(seen["findings"]))
    monkeypatch.setattr(cli, "check_engines", lambda repository: seen.update(given=repository) or iter(seen["engines"]))
    monkeypatch.setattr(cli, "default_layout", lambda: "the layout")
    for name in ("URL", "HEADER", "TLS", "CA", "CLIENT_CERT", "CLIENT_KEY"):
        monkeypatch.delenv(f"DEEPFAKE_CLIENT_{name}", raising=False)
    return seen


def examined(*words: str) -> Result:
    return CliRunner().invoke(cli.main, ["doctor", *words])


@pytest.mark.parametrize(
    ("levels", "code"),
    [([], 0), ([Level.OK, Level.WARNING], 0), ([Level.OK, Level.WRONG], 1), ([Level.WRONG, Level.OK], 1)],
)
def test_the_doctors_exit_code_says_whether_something_is_wrong(
    found: dict[str, Any], levels: list[Level], code: int
) -> None:
    found["findings"] = [Finding("it", level, "what was found") for level in levels]
    answer = examined()
    assert answer.exit_code == code
    assert answer.output.count("what was found") == len(levels)


def test_the_doctor_looks_at_what_it_is_told(found: dict[str, Any], tmp_path: Path) -> None:
    (pem := tmp_path / "any.pem").write_text("pem")
    files = [f"--{name}={pem}" for name in ("ca", "client-cert", "client-key")]
    ports = ["--grpc-port=1", "--http-port=2", "--metrics-port=3"]
    there = ["--model-repository=models", "--model-config-name=openvino", "--host=::1", "--url=h:9"]
    assert examined(*there, *ports, *files, "--tls", "--header=A=1", "--header=B=2").exit_code == 0
    credentials = Credentials(True, pem, pem, pem, {"a": "1", "b": "2"})
    known = {"grpc": 1, "http": 2, "metrics": 3}
    assert found["given"] == ("the layout", Path("models"), "openvino", "::1", known, "h:9", credentials)
    examined()
    own = {"grpc": 8001, "http": 8000, "metrics": 8002}
    expected = ("the layout", Path("model_repository"), "", "127.0.0.1", own, None, Credentials())
    assert found["given"] == expected


def test_the_doctor_takes_the_environment_of_the_client_which_its_options_replace(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPFAKE_CLIENT_URL", "h:7")
    monkeypatch.setenv("DEEPFAKE_CLIENT_TLS", "1")
    monkeypatch.setenv("DEEPFAKE_CLIENT_HEADER", "One=1\n\nTwo=2\n")
    examined()
    assert found["given"][5:] == ("h:7", Credentials(True, headers={"one": "1", "two": "2"}))
    examined("--header=Three=3", "--url=h:8")
    assert found["given"][5:] == ("h:8", Credentials(True, headers={"three": "3"}))


def test_the_doctor_looks_at_engines_alone_where_it_is_told_to(found: dict[str, Any]) -> None:
    found["engines"] = [Finding("engines", Level.WRONG, "old", "build")]
    assert examined("--engines", "--model-repository=models").exit_code == 1
    assert found["given"] == Path("models")
    found["engines"] = []
    answer = examined("--engines", "--model-repository=models")
    assert "models has no engines (model.plan): run `make engines`" in str(answer.exception)
    assert examined().exit_code == 0  # to have none is wrong only where one asks for them


@pytest.mark.parametrize(("fetched", "said"), [(True, "is in .triton; perf_analyzer is p"), (False, "nothing to do: ")])
def test_an_install_says_what_is_where(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, fetched: bool, said: str
) -> None:
    layout = type("Layout", (), {"root": Path(".triton"), "perf_analyzer": "p"})()
    monkeypatch.setattr(cli, "default_layout", lambda: layout)
    monkeypatch.setattr(cli, "install", lambda given, say: given is layout and (say("fetching"), fetched)[1])
    cli.main.main(["install"], standalone_mode=False)
    first, last = capfd.readouterr().out.splitlines()
    assert first == "server: fetching"
    assert said in last
    assert cli.TRITON_VERSION in last


@pytest.mark.parametrize(("number", "version"), [(101203, "10.12.3"), (80601, "8.6.1"), (110000, "11.0.0")])
def test_the_version_of_tensorrt_is_its_library_s_where_there_is_no_package(
    tmp_path: Path, number: int, version: str
) -> None:
    (tmp_path / "ctypes").mkdir()
    (tmp_path / "ctypes" / "__init__.py").write_text(
        "class CDLL:\n    def __init__(self, name):\n        assert name == 'libnvinfer.so'\n"
        f"    def getInferLibVersion(self):\n        return {number}\n"
    )
    (tmp_path / "ctypes" / "util.py").write_text("def find_library(name):\n    return f'lib{name}.so'\n")
    command = [sys.executable, "-S", "-c", engines._VERSION_PROGRAM]
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.stdout == f"{version}\n", done.stderr


@pytest.mark.parametrize("found", [None, [], DriverError("it hangs"), ["NVIDIA H200, 9.0", "NVIDIA L4, 8.9"]], ids=str)
def test_engines_run_on_the_first_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    def query(*fields: str) -> Any:
        assert fields == ("name", "compute_cap")
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(engines, "query_gpus", query)
    monkeypatch.setattr(engines, "_output", lambda *command: "10.12.0" if command[0] == sys.executable else "")
    gpu = ("NVIDIA H200", "9.0") if isinstance(found, list) and found else ("", "")
    assert engines.find_runtime() == engines.Runtime("10.12.0", *gpu)


def test_good_engines_are_told_beside_bad_ones_and_what_is_here_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looked: list[None] = []
    here = engines.Runtime("10.12.0", "H200", "9.0")
    monkeypatch.setattr(engines, "find_runtime", lambda: looked.append(None) or here)
    assert list(engines.check_engines(tmp_path)) == []
    assert looked == []
    for name, version in (("a", "10.12.0.36"), ("b", "10.11.0.1"), ("c", "10.12.0.40")):
        (folder := tmp_path / name / "1").mkdir(parents=True)
        (folder / "model.plan").write_bytes(b"")
        manifest = {"tensorrt": version, "gpu": "H200", "compute_capability": "9.0", "onnx_sha256": ""}
        (folder / "model.plan.json").write_text(json.dumps(manifest))
    wrong, fine = engines.check_engines(tmp_path)
    assert (wrong.level, wrong.detail.partition(":")[0]) == (Level.WRONG, "b")
    assert (fine.level, fine.fix) == (Level.OK, "")
    assert fine.detail == "a, c: built with TensorRT 10.12.0.36, H200; here: TensorRT 10.12.0, H200"
    assert looked == [None]


def test_a_program_that_fails_tells_nothing(tmp_path: Path) -> None:
    assert engines._output(sys.executable, "-S", "-c", "print(' 1.2 ')") == "1.2"
    assert engines._output(sys.executable, "-S", "-c", "print(1); raise SystemExit(3)") == ""
    assert engines._output(str(tmp_path / "gone")) == ""
