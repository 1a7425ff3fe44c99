"""Links to files: followed where the operator said so, and nowhere else, whatever a visitor or a host tries."""

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner
from deepfake_client.cli import main

from tests.fakes.triton import FakeTriton, serving, untrained

pytest.importorskip("fastapi", reason="needs pip install './client[web]'")
from deepfake_client.web import links
from deepfake_client.web.links import Origin
from deepfake_client.web.problems import ProblemError

from tests.unit.client.web.test_web import check_problem, csrf_of, visit


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with serving() as fake:
        fake.provenance = untrained()
        yield fake


@contextmanager
def files() -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A host of files: its origin, and what it was asked, with headers."""
    asked: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, dict(self.headers)))
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "/photo.jpg")
                self.end_headers()
                return
            self.send_response(404 if self.path == "/gone" else 200)
            self.send_header("Content-Type", "text/html")
            if self.path == "/short":
                self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(bytes(3 << 20) if self.path == "/large" else b"0.8")

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # who asked has seen enough
                super().handle()

    host = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{host.server_address[1]}", asked
    finally:
        host.shutdown()
        host.server_close()


def link_to(link: str) -> list[tuple[str, tuple[None, str]]]:
    return [("link", (None, link))]


def test_a_link_is_scored_as_its_file(server: FakeTriton) -> None:
    with files() as (origin, asked), visit(server, links_from=(Origin.of(origin),)) as web:
        row = web.post("/v1/score", files=link_to(f"{origin}/a/photo%20%C3%A9.jpg?size=2#x")).json()["rows"][0]
        assert (row["path"], row["score"]) == ("photo é.jpg", 0.8)
        ((path, headers),) = asked
        assert path == "/a/photo%20%C3%A9.jpg?size=2"
        assert not {"Authorization", "Cookie", "Referer"} & set(headers)
        page = web.get("/").text
        assert 'name="link"' in page
        assert origin in page
        given = {"csrf": csrf_of(web)["X-CSRF"], "link": f"{origin}/photo.jpg"}
        shown = web.post("/ui/score", files=[("file", ("", b""))], data=given).text  # as a browser without scripts
        assert "Probably fake" in shown
        fetched = web.post("/ui/fetch", files=link_to(f"{origin}/photo.jpg"), headers=csrf_of(web))
        assert fetched.content == b"0.8"
        assert fetched.headers["content-type"] == "application/octet-stream"
        assert fetched.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("link", "status", "said"),
    [
        ("{origin}/away", 502, "not followed"),
        ("{origin}/gone", 502, "404"),
        ("{origin}/large", 502, "1 MiB"),
        ("{origin}/short", 502, "too early"),
        ("http://127.0.0.1:9/x.jpg", 403, "not followed here"),
        ("http://user:secret@{host}/x.jpg", 422, "user name"),
        ("http://user@{host}/x.jpg", 422, "user name"),
        ("http://{host}.evil.example/x.jpg", 422, "link"),
        ("https://{host}/x.jpg", 403, "not followed here"),
        ("http://169.254.169.254/latest/meta-data", 403, "not followed here"),
        ("file:///etc/passwd", 422, "https://"),
        ("//{host}/x.jpg", 422, "https://"),
        ("{origin}/x.jpg\r\nHost: other", 422, "%XX"),
        ("{origin}/" + "x" * 3000, 422, "2048"),
        ("http://[::1", 422, "link"),
    ],
)
def test_links_that_are_not_followed(server: FakeTriton, link: str, status: int, said: str) -> None:
    with files() as (origin, asked), visit(server, links_from=(Origin.of(origin),), max_upload=1 << 20) as web:
        link = link.format(origin=origin, host=origin.removeprefix("http://"))
        assert said in check_problem(web.post("/v1/score", files=link_to(link)), status)
        assert len(asked) == (status == 502)
        foreign = web.post("/ui/fetch", files=link_to(f"{origin}/photo.jpg"))  # from a form that is not the page's
        assert foreign.status_code == 403


def test_without_the_option_nobody_is_asked(server: FakeTriton) -> None:
    with files() as (origin, asked), visit(server) as web:
        assert "of nobody" in check_problem(web.post("/v1/score", files=link_to(f"{origin}/photo.jpg")), 403)
        assert 'name="link"' not in web.get("/").text
        assert asked == []


@pytest.mark.parametrize(
    "private", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1%lo", "0.0.0.0"]
)
def test_a_name_that_stands_for_a_private_address_is_not_asked(monkeypatch: pytest.MonkeyPatch, private: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (private, 80))]
    monkeypatch.setattr(links.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(OSError, match="private address"):
        links._address(Origin("http", "uploads.example", 80))


def test_the_option_wants_an_origin() -> None:
    for wrong in ("uploads.example", "ftp://uploads.example", "https://a:b@uploads.example"):
        result = CliRunner().invoke(main, ["web", "--links-from", wrong])
        assert result.exit_code == 2
        assert "--links-from" in result.output
    assert str(Origin.of("HTTPS://Uploads.Example:443/x")) == "https://uploads.example"
    assert Origin.of("https://uploads.example.:443") == Origin.of("https://uploads.example")


def test_the_files_of_a_request_share_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []

    def fetch(link: str, allowed: tuple[Origin, ...], max_bytes: int) -> tuple[str, io.BytesIO]:
        left.append(max_bytes)
        return link, io.BytesIO(bytes(300))

    monkeypatch.setattr(links, "fetch", fetch)
    assert [name for name, _ in links.Links((), 1000).fetch(["a", "b", "c"])] == ["a", "b", "c"]
    assert left == [1000, 700, 400]


def test_a_file_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Slow:
        status, length = 200, None

        def read1(self, size: int) -> bytes:
            now[0] += 7
            return b"x"

    connection = Mock(getresponse=Slow)
    monkeypatch.setattr(links, "_connection", lambda origin: connection)
    monkeypatch.setattr(links.time, "monotonic", lambda: now[0])
    origin = Origin("http", "uploads.example", 80)
    with pytest.raises(ProblemError, match="it took over 30 s"):
        links.fetch("http://uploads.example/a.jpg", [origin], 1 << 20)
    assert now[0] == 35
    connection.close.assert_called_once_with()


def test_the_certificate_is_asked_for_the_name_and_not_for_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    wrap, connect = Mock(), Mock()
    monkeypatch.setattr(links, "_address", lambda origin: "192.0.2.1")
    monkeypatch.setattr(links.socket, "create_connection", connect)
    monkeypatch.setattr(links.ssl, "create_default_context", lambda: Mock(wrap_socket=wrap))
    links._connection(Origin("https", "uploads.example", 443))
    assert connect.call_args.args[0] == ("192.0.2.1", 443)
    assert wrap.call_args.kwargs == {"server_hostname": "uploads.example"}
