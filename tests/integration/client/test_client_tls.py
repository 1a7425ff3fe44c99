"""TLS and tokens, against the real server: what fits passes, and what does not is told at once, with the fix."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from deepfake_client import AccessDeniedError, AsyncDetectorClient, DetectorClient, ServerUnavailableError

from tests.conftest import Server, free_ports, start_server
from tests.fakes.certificates import Authority, Pair
from tests.fakes.triton import FakeTriton
from tests.golden import BOXES, GOLDEN, ROWS
from tests.processes import stubs
from tests.waiting import PATIENCE, wait_for

NAME = "triton-grpc-protocol-token"
ITEMS = [(GOLDEN / "images" / row["image"], BOXES[row["image"]]) for row in ROWS]
SCORES = [row["vote"] for row in ROWS]
IMAGE, SCORE = ITEMS[0], SCORES[0]
SECRET = "open sesame"


@dataclass(frozen=True)
class Secured:
    """A server that asks for a client certificate and, for inference, a token; and what fits it."""

    server: Server
    authority: Authority
    client: Pair

    @property
    def options(self) -> dict[str, Any]:
        files = {
            "ca": self.authority.certificate,
            "client_cert": self.client.certificate,
            "client_key": self.client.key,
        }
        return {**files, "headers": {NAME: SECRET}}


@pytest.fixture(scope="module")
def secured(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder, "authority")
    pair, client = authority.sign("localhost"), authority.sign("client")
    files = {"ca": authority.certificate, "client_cert": client.certificate, "client_key": client.key}
    server = start_server(
        tiny_repository,
        folder / "log",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={pair.certificate}",
        f"--grpc-server-key={pair.key}",
        f"--grpc-root-cert={authority.certificate}",
        f"--grpc-restricted-protocol=inference:token={SECRET}",
        **files,
        headers={NAME: SECRET},
    )
    yield Secured(server, authority, client)
    assert server.stop() == 0, server.log.read_text()[-4000:]


def access_denied(url: str, **options: Any) -> str:
    """What a client is told that may not in; without a second try, and without the wait that it was granted."""
    started = time.monotonic()
    with (
        DetectorClient(url, **options) as client,
        patch("deepfake_client.balancing.retries.RetryPolicy.pause", side_effect=AssertionError("a second try")),
        pytest.raises(AccessDeniedError) as caught,
    ):
        list(client.score_many([IMAGE]))

    async def run() -> None:
        async with AsyncDetectorClient(url, **options) as client:
            with pytest.raises(AccessDeniedError) as again:
                await client.wait_ready(2 * PATIENCE)
            assert str(again.value) == str(caught.value)

    asyncio.run(run())
    assert time.monotonic() - started < PATIENCE
    return str(caught.value)


@pytest.mark.server
def test_what_fits_passes(secured: Secured) -> None:
    with DetectorClient(secured.server.url, **secured.options) as client:
        assert [verdict.score for verdict in client.score_many(ITEMS)] == SCORES
        assert client.provenance() is not None

    async def run() -> None:
        async with AsyncDetectorClient(secured.server.url, **secured.options) as client:
            assert [verdict.score async for verdict in client.score_many(ITEMS)] == SCORES

    asyncio.run(run())


@pytest.mark.server
def test_a_name_with_several_addresses_is_the_one_in_the_certificate(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.integration.client.test_client_servers import answers

    monkeypatch.setattr("socket.getaddrinfo", answers("127.0.0.9", "127.0.0.1", name="localhost"))
    with DetectorClient(secured.server.url, **secured.options) as client:
        assert [verdict.score for verdict in client.score_many(ITEMS)] == SCORES
        assert [status.available for status in client.servers] == [False, True]


@pytest.mark.server
def test_a_wrong_authority_is_told(secured: Secured, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    message = access_denied(secured.server.url, **{**secured.options, "ca": stranger.certificate})
    assert "its certificate is not accepted: " in message
    assert "--ca FILE" in message
    message = access_denied(secured.server.url, **{**secured.options, "ca": None})
    assert "--ca FILE" in message


@pytest.mark.server
def test_a_wrong_host_name_is_told(secured: Secured) -> None:
    message = access_denied(f"127.0.0.1:{secured.server.grpc_port}", **secured.options)
    assert "'127.0.0.1'" in message
    assert "connect by a name that is in its certificate" in message


@pytest.mark.server
def test_a_missing_client_certificate_is_told(secured: Secured) -> None:
    message = access_denied(secured.server.url, ca=secured.authority.certificate)
    assert "client certificate" in message
    assert "--client-cert" in message


@pytest.mark.server
def test_a_strangers_client_certificate_is_told(secured: Secured, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger").sign("client")
    files = {"client_cert": stranger.certificate, "client_key": stranger.key}
    message = access_denied(secured.server.url, **{**secured.options, **files})
    assert "client certificate" in message
    assert "its authority signed" in message


@pytest.mark.server
@pytest.mark.parametrize("headers", [{}, {NAME: "open barley"}, {"token": SECRET}])
def test_a_wrong_token_is_told_and_not_shown(secured: Secured, headers: dict[str, str]) -> None:
    message = access_denied(secured.server.url, **{**secured.options, "headers": headers})
    assert f"--header {NAME}=VALUE" in message
    assert "open" not in message


@pytest.mark.server
def test_a_client_without_tls_is_told_of_it(secured: Secured) -> None:
    assert "it speaks TLS and this client does not; add --tls" in access_denied(secured.server.url)


@pytest.mark.server
def test_tls_where_the_server_speaks_none_is_told(server: Server) -> None:
    assert "it does not speak TLS" in access_denied(server.url, tls=True)


def test_an_absent_server_is_absent_over_tls_too() -> None:
    with (
        DetectorClient(FakeTriton().url, tls=True, retries=0) as client,
        pytest.raises(ServerUnavailableError, match="no server answers"),
    ):
        client.score(b"0.1")


@pytest.mark.server
def test_a_server_without_the_token_is_left_out(secured: Secured, tiny_repository: Path) -> None:
    """Of two addresses of one server, the certificate fits one."""
    urls = [f"127.0.0.1:{secured.server.grpc_port}", secured.server.url]
    with DetectorClient(urls, **secured.options) as client:
        assert [verdict.score for verdict in client.score_many(ITEMS)] == SCORES
        assert [status.available for status in client.servers] == [False, True]


@pytest.mark.server
def test_a_secured_server_is_supervised_too(secured: Secured) -> None:
    assert "RESTARTING" not in secured.server.log.read_text()
    stubs(secured.server.process.pid)[0].kill()
    wait_for(lambda: "RESTARTING because a model's stub" in secured.server.log.read_text())
    with DetectorClient(secured.server.url, **secured.options) as client:
        client.wait_ready(PATIENCE)


@pytest.mark.server
@pytest.mark.slow
def test_a_launcher_with_certificates_looks_after_the_server_over_grpc(
    secured: Secured, tiny_repository: Path, tmp_path: Path
) -> None:
    """No HTTP is there to fall back on; with a stranger's certificate the start fails, and says why."""
    pair = secured.authority.sign("localhost")
    options = [
        "--allow-http=false",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={pair.certificate}",
        f"--grpc-server-key={pair.key}",
        f"--grpc-root-cert={secured.authority.certificate}",
    ]
    own = launcher_options(secured.authority, secured.client)
    files = {name: value for name, value in secured.options.items() if name != "headers"}
    server = start_server(tiny_repository, tmp_path / "log", *options, launcher=own, **files)
    assert server.stop() == 0
    (tmp_path / "other").mkdir()
    stranger = launcher_options(secured.authority, Authority(tmp_path / "other", "stranger").sign("client"))
    ports = [f"--{name}-port={port}" for name, port in zip(("grpc", "http", "metrics"), free_ports(3), strict=True)]
    command = [sys.executable, "-m", "server", "--model-repository", str(tiny_repository), "--startup-timeout=20"]
    done = subprocess.run([*command, *ports, *stranger, "--", *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "if it only is slow; the last error: UNAVAILABLE: " in done.stderr


def launcher_options(authority: Authority, client: Pair) -> list[str]:
    files = {"--ca": authority.certificate, "--client-cert": client.certificate, "--client-key": client.key}
    return [word for name, file in files.items() for word in (name, str(file))]


# the command line


def command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deepfake_client", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment or None,
    )


@pytest.mark.server
def test_command_line_takes_files_and_the_secret_from_a_file(secured: Secured, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET + "\n")
    options = ["--url", secured.server.url, "--ca", secured.authority.certificate]
    options += ["--client-cert", secured.client.certificate, "--client-key", secured.client.key]
    done = command("score", IMAGE[0], *options, "--header", f"{NAME}=@{tmp_path / 'token'}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"
    done = command("score", IMAGE[0], *options, "--header", f"{NAME}=wrong")
    assert done.returncode == 3
    assert "wants a token" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.server
def test_command_line_takes_everything_from_the_environment(secured: Secured) -> None:
    done = command(
        "info",
        DEEPFAKE_CLIENT_URL=secured.server.url,
        DEEPFAKE_CLIENT_CA=str(secured.authority.certificate),
        DEEPFAKE_CLIENT_CLIENT_CERT=str(secured.client.certificate),
        DEEPFAKE_CLIENT_CLIENT_KEY=str(secured.client.key),
        DEEPFAKE_CLIENT_HEADER=f"x-other=1\n{NAME}={SECRET}",
    )
    assert done.returncode == 0, done.stderr
    assert "ready" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--header", "sesame"], "NAME=VALUE"),
        (["--header", "a b=1"], "no name of a header"),
        (["--header", "a=@/no/such/file"], "cannot be read"),
        (["--header", "a=\x07sesame"], "beyond printable ASCII"),
        (["--ca", "pyproject.toml"], "no PEM file"),
        (["--client-key", "pyproject.toml"], "give both"),
        (["--client-key", "pyproject.toml", "--client-cert", "pyproject.toml"], "no PEM files"),
        (["--url", "http://a:1"], "is not HOST:PORT"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(options: list[str], message: str) -> None:
    done = command("info", *options)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "sesame" not in done.stderr


@pytest.mark.server
def test_the_server_s_doctor_gets_in_with_the_client_s_options_and_environment(secured: Secured) -> None:
    doctor = [sys.executable, "-m", "server", "doctor", "--model-repository", str(secured.server.repository)]
    files = {f"--{name.replace('_', '-')}": str(value) for name, value in secured.options.items() if name != "headers"}
    options = [word for pair in files.items() for word in pair]
    entered = "answered a real inference"
    with_options = [*doctor, "--url", secured.server.url, *options, "--header", f"{NAME}={SECRET}"]
    assert entered in subprocess.run(with_options, capture_output=True, text=True).stdout
    variables = {f"DEEPFAKE_CLIENT_{name.upper()}": str(value) for name, value in secured.options.items()}
    variables |= {"DEEPFAKE_CLIENT_URL": secured.server.url, "DEEPFAKE_CLIENT_HEADER": f"{NAME}={SECRET}"}
    variables.pop("DEEPFAKE_CLIENT_HEADERS")
    by_environment = subprocess.run(doctor, capture_output=True, text=True, env={**os.environ, **variables})
    assert entered in by_environment.stdout
    refused = subprocess.run([*doctor, "--url", secured.server.url, *options], capture_output=True, text=True)
    assert entered not in refused.stdout
    assert refused.returncode == 1


def command_line(secured: Secured) -> list[str]:
    files = {name: value for name, value in secured.options.items() if name != "headers"}
    words = [word for name, path in files.items() for word in (f"--{name.replace('_', '-')}", str(path))]
    return ["--url", secured.server.url, *words, "--header", f"{NAME}={SECRET}"]


def environment(secured: Secured) -> dict[str, str]:
    files = {name: value for name, value in secured.options.items() if name != "headers"}
    variables = {f"DEEPFAKE_CLIENT_{name.upper()}": str(path) for name, path in files.items()}
    own = {"DEEPFAKE_CLIENT_URL": secured.server.url, "DEEPFAKE_CLIENT_HEADER": f"{NAME}={SECRET}"}
    return {**os.environ, **variables, **own}


@pytest.mark.server
@pytest.mark.parametrize("by", ["options", "environment"])
def test_a_secured_server_is_reachable_from_every_tool(secured: Secured, tmp_path: Path, by: str) -> None:
    from tests.golden import ROOT

    labels = tmp_path / "labels.csv"
    images = [GOLDEN / "images" / row["image"] for row in ROWS]
    rows = [f"{image},{'fake' if n % 2 else 'real'}\n" for n, image in enumerate(images)]
    labels.write_text("path,label\n" + "".join(rows))
    words, variables = (command_line(secured), dict(os.environ)) if by == "options" else ([], environment(secured))
    for tool in (
        ["forensics", "evaluate", str(labels), "--output", str(tmp_path / "evaluation"), "--resamples", "100"],
        ["forensics", "explain", str(images[0]), "--output", str(tmp_path / "explanation")],
        ["server", "doctor"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *tool, *words], capture_output=True, text=True, timeout=250, env=variables, cwd=ROOT
        )
        told = done.stdout + done.stderr
        assert "Traceback" not in told
        assert ("answered a real inference" in told) if tool[0] == "server" else done.returncode == 0, told
