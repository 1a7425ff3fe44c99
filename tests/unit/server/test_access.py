"""What is closed by default, what a user's own restrictions change, and what the launcher's own requests bear."""

import os
from pathlib import Path

import pytest

from server import access, container
from server.errors import RefusedError
from server.refusals import refuse_exposure, refuse_unwatchable
from server.supervision import supervisor
from server.supervision.process import Options
from server.supervision.supervisor import make_prober

PORTS = {"grpc": 8001, "http": 8000, "metrics": 8002}
GRPC = "--grpc-restricted-protocol"
HTTP = "--http-restricted-api"


def options(*extra: str, host: str = "0.0.0.0", http_inference: bool = False) -> Options:
    return Options(Path(), host, PORTS, extra=extra, http_inference=http_inference, key="K")


def test_by_default_only_inference_over_grpc_and_what_only_reads_is_open() -> None:
    assert options().words == [
        f"{GRPC}=shared-memory,model-repository,trace,logging:deepfake-detector-key=K",
        f"{HTTP}=shared-memory,model-repository,trace,logging,inference:deepfake-detector-key=K",
    ]


def test_inference_over_http_is_opened_by_its_option_alone() -> None:
    assert options(http_inference=True).words[1] == (
        f"{HTTP}=shared-memory,model-repository,trace,logging:deepfake-detector-key=K"
    )


@pytest.mark.parametrize(
    "words", [[f"{GRPC}=shared-memory,inference:mine=a"], [GRPC, "shared-memory,inference:mine=a"]]
)
def test_what_the_user_restricts_is_not_restricted_twice(words: list[str]) -> None:
    found = options(*words).words
    assert found[0] == f"{GRPC}=model-repository,trace,logging:deepfake-detector-key=K"
    assert found[-len(words) :] == words


def test_nothing_is_added_where_the_user_restricts_everything() -> None:
    everything = "shared-memory,model-repository,trace,logging,inference:mine=a"
    words = (f"{GRPC}={everything}", f"{HTTP}={everything}")
    assert options(*words).words == list(words)


def test_each_key_is_new_and_long() -> None:
    keys = {access.new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) >= 32 and key.isalnum() for key in keys)
    assert len({Options(Path(), "", {}).key for _ in range(5)}) == 5
    assert "key=" not in repr(options())  # so that no log shows it


@pytest.mark.parametrize(
    ("extra", "secured"),
    [
        ([], False),
        (["--grpc-use-ssl=true"], True),
        (["--grpc-use-ssl", "true"], True),
        (["--grpc-use-ssl=false"], False),
        (["--grpc-use-ssl-mutual=1"], True),
        ([f"{GRPC}=inference:token=a"], True),
        ([f"{GRPC}=shared-memory:token=a"], False),
        (["--log-verbose=1"], False),
    ],
)
def test_http_of_a_secured_server_is_for_this_machine_alone(extra: list[str], secured: bool) -> None:
    http = "127.0.0.1" if secured else "0.0.0.0"
    assert options(*extra).hosts == {"grpc": "0.0.0.0", "http": http, "metrics": "0.0.0.0"}


def test_the_probe_goes_over_grpc_with_the_token_of_restricted_inference() -> None:
    found = options(f"{GRPC}=inference,health:Token=a:b=c", "--allow-http=false")
    assert not found.probes_http
    assert access.headers("grpc", found.words) == {"triton-grpc-protocol-token": "a:b=c"}


def test_statistics_may_have_a_token_of_their_own() -> None:
    words = [f"{GRPC}=inference:one=1", f"{GRPC}=statistics:two=2"]
    assert access.headers("grpc", words) == {"triton-grpc-protocol-one": "1", "triton-grpc-protocol-two": "2"}


@pytest.mark.parametrize("extra", [["--grpc-use-ssl=true"], ["--allow-grpc=false"], ["--allow-grpc", "false"]])
def test_the_probe_goes_over_http_with_the_launcher_s_key_where_grpc_is_closed_to_it(extra: list[str]) -> None:
    found = options(*extra)
    assert found.probes_http
    assert access.headers("http", found.words) == {"deepfake-detector-key": "K"}


@pytest.mark.parametrize("words", [[f"{HTTP}=inference,health:token=a:b=c"], [HTTP, "inference:token=a:b=c"]])
def test_the_probe_bears_the_user_s_token_of_restricted_http(words: list[str]) -> None:
    assert access.headers("http", options(*words).words) == {"token": "a:b=c"}


def test_an_open_server_is_probed_without_any_header() -> None:
    assert access.headers("grpc", options().words) == {}
    prober = make_prober(options())
    assert type(prober).__name__ == "Prober"
    prober.close()
    other = make_prober(options("--grpc-use-ssl=true"))
    assert type(other).__name__ == "HttpProber"
    other.close()


def test_each_prober_asks_the_port_of_its_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "Prober", lambda address, headers: ("grpc", address, dict(headers)))
    monkeypatch.setattr(supervisor, "HttpProber", lambda address, headers: ("http", address, dict(headers)))
    assert make_prober(options()) == ("grpc", "127.0.0.1:8001", {})
    http = ("http", "127.0.0.1:8000", {"deepfake-detector-key": "K"})
    assert make_prober(options("--grpc-use-ssl=true")) == http
    elsewhere = options("--grpc-use-ssl=true", host="192.0.2.1")
    assert make_prober(elsewhere) == http  # HTTP of a secured server is here


@pytest.mark.parametrize(
    ("words", "on"),
    [
        ([], True),
        (["--allow-http=false"], False),
        (["--allow-http=0"], False),
        (["--allow-http=off"], False),
        (["--allow-http", "FALSE"], False),
        (["--allow-http=true"], True),
        (["--allow-http"], True),
        (["--allow-http=false", "--allow-http"], True),
        (["--allow-http=false", "--allow-http=true"], True),
        (["--other=false"], True),
    ],
)
def test_switches_are_read_as_tritonserver_reads_them(words: list[str], on: bool) -> None:
    assert access.is_on("--allow-http", words, default=True) is on


def test_the_container_refuses_end_points_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["container", "--allow-vertex", "true"])
    monkeypatch.setattr("os.execvp", lambda *_: pytest.fail("it was started"))
    with pytest.raises(SystemExit, match="without a key"):
        container.main()


def test_the_container_s_environment_opens_no_other_end_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """By this variable tritonserver opens the one for Vertex AI by itself."""
    monkeypatch.setattr("sys.argv", ["container", "--log-verbose=1"])
    monkeypatch.setenv("AIP_MODE", "PREDICTION")
    monkeypatch.setenv("MODELS", "/somewhere")
    started: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("os.execvp", lambda program, line: started.append((program, line)))
    container.main()
    ((program, line),) = started
    assert (program, line[0], line[-1]) == ("tritonserver", "tritonserver", "--log-verbose=1")
    assert "--model-repository=/somewhere" in line
    assert "AIP_MODE" not in os.environ


def test_the_container_keeps_answers_in_front_of_the_models_that_it_was_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    started: list[tuple[str, list[str]]] = []
    laid: list[tuple[Path, Path, int]] = []
    monkeypatch.setattr("sys.argv", ["container"])
    for name, value in {"MODELS": "/somewhere", "RESPONSE_CACHE": "256", "HTTP_INFERENCE": "open"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.execvp", lambda program, line: started.append((program, line)))
    monkeypatch.setattr(container, "lay_over", lambda *given: laid.append(given))
    monkeypatch.setattr(container.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    container.main()
    assert laid == [(Path("/somewhere"), tmp_path, 256)]
    ((_, line),) = started
    assert f"--model-repository={tmp_path}" in line
    assert "inference" not in line[-1]
    assert capsys.readouterr().err.startswith("warning: inference over HTTP is open")
    monkeypatch.setattr(container, "lay_over", lambda *_: Path("/nowhere/at/all").read_text())
    with pytest.raises(SystemExit, match=r"error: .*No such file"):
        container.main()
    monkeypatch.setenv("RESPONSE_CACHE", "many")
    with pytest.raises(SystemExit, match="error: RESPONSE_CACHE is 'many'"):
        container.main()
    assert len(started) == 1


def test_the_containers_models_are_where_they_are_mounted_unless_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("sys.argv", ["container"])
    for name in ("MODELS", "RESPONSE_CACHE", "HTTP_INFERENCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.execvp", lambda _, line: started.append(line))
    container.main()
    assert "--model-repository=/models" in started[0]
    assert capsys.readouterr().err == ""


def test_beginnings_of_options_are_read_as_tritonserver_reads_them() -> None:
    assert access.is_secured(("--grpc-restricted=inference:a=b",))
    assert access.restrictions("http", ("--http-r", "trace:a=b")) == {"trace": ("a", "b")}
    assert access.uses_tls(("--grpc-use-ssl-m=true",))
    assert not access.is_on("--grpc-use-ssl-mutual", ("--grpc-use-ssl=true",), default=False)
    assert not access.is_on("--allow-http", ("--allow-ht=false",), default=True)
    assert access.values_of("--model-control-mode", ("--model-c=explicit",)) == ["explicit"]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("example.org", False),
    ],
)
def test_other_addresses_than_loopback_are_refused_unless_the_risk_is_confirmed(host: str, loopback: bool) -> None:
    assert access.is_loopback(host) is loopback
    refuse_exposure(host, exposed=True)
    if loopback:
        refuse_exposure(host, exposed=False)
    else:
        with pytest.raises(RefusedError, match=r"known security faults(.|\n)*--expose-known-vulnerabilities"):
            refuse_exposure(host, exposed=False)


def test_a_launcher_with_certificates_needs_no_http() -> None:
    refuse_unwatchable(("--allow-http=false", "--grpc-use-ssl=true"), certified=True)
    with pytest.raises(RefusedError, match="--client-cert"):
        refuse_unwatchable(("--allow-http=false", "--grpc-use-ssl=true"))
    with pytest.raises(RefusedError, match="leave HTTP on"):
        refuse_unwatchable(("--allow-http=false", "--allow-grpc=false"), certified=True)


@pytest.mark.parametrize(
    ("words", "fine"),
    [
        (["--allow-http=false"], True),
        (["--allow-http=false", f"{GRPC}=inference:a=b"], True),
        (["--grpc-use-ssl=true"], True),
        (["--allow-grpc=false"], True),
        (["--allow-http=false", "--grpc-use-ssl=true"], False),
        (["--allow-http=false", "--allow-grpc=false"], False),
    ],
)
def test_options_that_leave_no_way_to_watch_the_server_are_refused(words: list[str], fine: bool) -> None:
    if fine:
        refuse_unwatchable(tuple(words))
    else:
        with pytest.raises(RefusedError, match="leave HTTP on"):
            refuse_unwatchable(tuple(words))
