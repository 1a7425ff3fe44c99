"""The command `serve` without a server: what it refuses, what it hands to the supervisor, what it says when ready."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from server import cli
from server.errors import RefusedError, StartError
from server.findings import Finding, Level
from server.supervision.process import Options

CHAIN = 'platform: "ensemble" max_batch_size: 16 ensemble_scheduling { step [ { model_name: "net" } ] }'
PORTS = ("--grpc-port=9001", "--http-port=9000", "--metrics-port=9002")


class FakeSupervisor:
    """Takes what the command gives, is ready at once, and ends."""

    made: list["FakeSupervisor"]

    def __init__(self, layout: Any, options: Options, **settings: Any) -> None:
        self.options = options
        self.settings = settings
        self.stop, self.force = (type("Event", (), {"on": False})() for _ in range(2))
        for event in (self.stop, self.force):
            event.set = lambda event=event: setattr(event, "on", True)
            event.is_set = lambda event=event: event.on
        self.made.append(self)

    def run(self) -> None:
        self.settings["on_ready"](1.25)
        self.settings["show_log"]("a line of the log")


@pytest.fixture
def refused() -> list[Finding]:
    """What the checks before a start find."""
    return []


@pytest.fixture(autouse=True)
def _faked(monkeypatch: pytest.MonkeyPatch, refused: list[Finding]) -> Iterator[None]:
    FakeSupervisor.made = []
    monkeypatch.setattr(cli, "Supervisor", FakeSupervisor)
    monkeypatch.setattr(cli, "needs", lambda *_: refused)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, config in {cli.ENSEMBLE: CHAIN, "net": 'backend: "python" max_batch_size: 3'}.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(config)
    return tmp_path


def serve(repository: Path, *words: str) -> FakeSupervisor:
    cli.main.main(["--model-repository", str(repository), *PORTS, *words], standalone_mode=False)
    (supervisor,) = FakeSupervisor.made
    return supervisor


def test_what_is_asked_for_reaches_the_supervisor(repository: Path) -> None:
    words = ["--log-level=error", "--drain=7", "--startup-timeout=33", "--http-inference", "--", "--log-verbose=1"]
    supervisor = serve(repository, *words)
    options = supervisor.options
    assert options.repository == repository
    assert (options.host, options.ports) == ("127.0.0.1", {"grpc": 9001, "http": 9000, "metrics": 9002})
    assert (options.log_level, options.drain_seconds, options.http_inference) == ("error", 7, True)
    assert options.extra == ("--log-verbose=1",)
    assert options.config_name == ""
    assert supervisor.settings["startup_seconds"] == 33
    assert supervisor.settings["max_batch_size"] == 16  # the ensemble's, which a busy model may stay silent for


def test_by_default_everything_is_on_loopback_and_http_inference_is_closed(repository: Path) -> None:
    cli.main.main(["--model-repository", str(repository)], standalone_mode=False)
    (supervisor,) = FakeSupervisor.made
    options = supervisor.options
    assert (options.host, options.ports) == ("127.0.0.1", {"grpc": 8001, "http": 8000, "metrics": 8002})
    assert (options.log_level, options.drain_seconds, options.http_inference) == ("info", 10, False)
    assert supervisor.settings["startup_seconds"] == 900


def test_a_named_configuration_is_looked_at_served_and_told(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    looked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(cli, "needs", lambda *given: looked.append(given) or [])
    (repository / cli.ENSEMBLE / "configs").mkdir()
    (repository / cli.ENSEMBLE / "configs" / "openvino.pbtxt").write_text(CHAIN.replace("16", "4"))
    supervisor = serve(repository, "--model-config-name=openvino", "--host=::1")
    assert supervisor.options.config_name == "openvino"
    assert supervisor.settings["max_batch_size"] == 4
    assert " · configuration openvino · " in capfd.readouterr().out
    assert looked == [(cli.default_layout(), repository, "openvino", "::1", supervisor.options.ports)]


@pytest.mark.parametrize("by_environment", [False, True])
def test_the_launchers_own_certificates_go_with_its_requests(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    monkeypatch.setattr("grpc.ssl_channel_credentials", lambda *pem: pem)
    words = []
    for name in ("ca", "client-cert", "client-key"):
        (file := tmp_path / f"{name}.pem").write_text(name)
        if by_environment:
            monkeypatch.setenv(f"DEEPFAKE_CLIENT_{name.replace('-', '_').upper()}", str(file))
        else:
            words += [f"--{name}", str(file)]
    tls = ("--", "--grpc-use-ssl-mutual=true", "--allow-http=false")
    supervisor = serve(repository, *words, *tls)
    assert supervisor.options.credentials == (b"ca", b"client-key", b"client-cert")
    assert not supervisor.options.probes_http
    if not by_environment:
        with pytest.raises(RefusedError, match="no way in"):
            serve(repository, *tls)


@pytest.mark.parametrize("name", ["ca", "client-cert", "client-key"])
def test_a_certificate_that_is_no_file_is_refused(repository: Path, name: str) -> None:
    for path in (repository, repository / "gone.pem"):
        with pytest.raises(click.BadParameter, match=str(path)):
            serve(repository, f"--{name}={path}")
    assert FakeSupervisor.made == []


def test_answers_are_kept_by_a_repository_of_its_own_which_goes_with_the_launcher(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    at_exit: list[Any] = []
    monkeypatch.setattr(cli.atexit, "register", at_exit.append)
    served = serve(repository, "--response-cache=7").options.repository
    assert served != repository
    size = f'string_value: "{7 << 20}"'
    assert size in (served / cli.ENSEMBLE / "config.pbtxt").read_text()
    assert (served / "net").resolve() == (repository / "net").resolve()
    said = capfd.readouterr().out
    assert " · answers kept in 7 MiB · weights" in said
    assert "models deepfake_detector, net ·" in said  # those of the repository that was given
    (cleanup,) = at_exit
    cleanup()
    assert not served.exists()
    assert (repository / "net" / "config.pbtxt").exists()


@pytest.mark.parametrize(
    "words", [[], ["--"], ["--", "--log-verbose=2"], ["serve"], ["serve", "--", "--log-verbose=2"]]
)
def test_what_names_no_command_serves_the_folder_model_repository(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    here = tmp_path_factory.mktemp("here")
    (here / "model_repository").symlink_to(repository)
    monkeypatch.chdir(here)
    cli.main.main(words, standalone_mode=False)
    (supervisor,) = FakeSupervisor.made
    assert supervisor.options.repository == Path("model_repository")
    assert supervisor.options.extra == (("--log-verbose=2",) if "--log-verbose=2" in words else ())


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["doctor", "--help"], ["install", "--help"]])
def test_help_is_of_the_command_and_starts_nothing(words: list[str]) -> None:
    answer = CliRunner().invoke(cli.main, words)
    assert (answer.exit_code, FakeSupervisor.made) == (0, [])
    serves = words[0] != "doctor" and words[0] != "install"
    assert ("--startup-timeout" in answer.output) is serves
    assert ("--metrics-port" in answer.output) is (words[0] != "install")
    assert ("Exit codes: 0 stopped as asked" in answer.output) is (words == ["--help"])
    for name in ("doctor", "install"):
        assert (f"\n  {name} " in answer.output) is (words == ["--help"])


def test_ready_is_one_line_with_addresses_models_and_weights(repository: Path, capfd: pytest.CaptureFixture) -> None:
    serve(repository)
    said = capfd.readouterr()
    assert said.out.startswith(
        "server: ready in 1.2 s · gRPC 127.0.0.1:9001 · HTTP 127.0.0.1:9000 (no inference) · metrics "
        "127.0.0.1:9002/metrics · models deepfake_detector, net · configuration default · framing unknown · "
        "face detector none · weights of unknown origin"
    )
    assert said.out.count("\n") == 1
    assert said.err == "a line of the log\n"


def test_open_http_inference_is_warned_of_where_http_is_on(repository: Path, capfd: pytest.CaptureFixture) -> None:
    serve(repository, "--http-inference")
    said = capfd.readouterr().out
    assert said.startswith("server: WARNING: inference over HTTP is open: whoever reaches 127.0.0.1:9000 can end this")
    assert "HTTP 127.0.0.1:9000 · metrics" in said
    FakeSupervisor.made.clear()
    serve(repository, "--http-inference", "--", "--allow-http=false")
    assert "WARNING" not in capfd.readouterr().out


def test_what_is_wrong_refuses_the_start_with_its_fix_and_a_warning_does_not(
    repository: Path, refused: list[Finding]
) -> None:
    refused.append(Finding("a", Level.WARNING, "odd", "look"))
    serve(repository)
    FakeSupervisor.made.clear()
    refused += [Finding("b", Level.WRONG, "broken", "mend it"), Finding("c", Level.WRONG, "gone", "get it")]
    with pytest.raises(RefusedError) as caught:
        serve(repository)
    assert str(caught.value) == "broken\n  → mend it\ngone\n  → get it"
    assert FakeSupervisor.made == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--host=0.0.0.0"], "lets other machines reach"),
        (["--", "--grpc-port=3"], "this launcher sets"),
        (["--", "--allow-http=false", "--allow-grpc=false"], "no way in"),
    ],
)
def test_unsafe_starts_are_refused(repository: Path, words: list[str], why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        serve(repository, *words)
    assert FakeSupervisor.made == []


def test_an_exposed_host_is_served_where_the_user_confirms_it(repository: Path, capfd: pytest.CaptureFixture) -> None:
    supervisor = serve(repository, "--host=0.0.0.0", "--expose-known-vulnerabilities")
    assert supervisor.options.hosts["grpc"] == "0.0.0.0"
    assert "gRPC 127.0.0.1:9001" in capfd.readouterr().out  # where this machine reaches it


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_ends_the_server_in_good_order_and_a_second_one_at_once(repository: Path, number: int) -> None:
    supervisor = serve(repository)
    os.kill(os.getpid(), number)
    assert (supervisor.stop.is_set(), supervisor.force.is_set()) == (True, False)
    os.kill(os.getpid(), number)
    assert supervisor.force.is_set()


@pytest.mark.parametrize(("error", "code"), [(RefusedError("no"), 2), (StartError("it broke"), 1)])
def test_an_error_is_one_message_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: Exception, code: int
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit) as caught:
        cli.run()
    assert caught.value.code == code
    assert capsys.readouterr().err == f"server: {error}\n"


@pytest.mark.parametrize(
    "word",
    [
        *(f"--{name}-port={port}" for name in ("grpc", "http", "metrics") for port in (0, 65536)),
        "--startup-timeout=0.9",
        "--drain=-1",
        "--drain=3601",
        "--log-level=loud",
    ],
)
def test_options_out_of_range_are_refused(repository: Path, word: str) -> None:
    with pytest.raises(click.BadParameter):
        serve(repository, word)


@pytest.mark.parametrize(
    "word", ["--grpc-port=1", "--http-port=65535", "--startup-timeout=1", "--drain=0", "--drain=3600"]
)
def test_options_at_the_ends_of_their_ranges_are_taken(repository: Path, word: str) -> None:
    serve(repository, word)


def test_who_reads_no_more_is_told_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise BrokenPipeError

    ended: list[int] = []
    monkeypatch.setattr(cli, "main", fail)
    monkeypatch.setattr(cli.os, "_exit", ended.append)
    cli.run()
    assert ended == [1]
