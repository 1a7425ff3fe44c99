"""Links to files: followed where the operator said so, and nowhere else, whatever a visitor or a host tries."""

import io
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
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
    threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
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


@pytest.mark.parametrize(
    ("address", "scheme", "host", "port", "text"),
    [
        ("https://a.example/x", "https", "a.example", 443, "https://a.example"),
        ("http://A.example.:80", "http", "a.example", 80, "http://a.example"),
        ("https://a.example:80", "https", "a.example", 80, "https://a.example:80"),
        ("http://[::1]:8080/", "http", "::1", 8080, "http://[::1]:8080"),
    ],
)
def test_an_origin_is_scheme_host_and_port(address: str, scheme: str, host: str, port: int, text: str) -> None:
    origin = Origin.of(address)
    assert (origin, str(origin)) == (Origin(scheme, host, port), text)


class Host:
    """What a host of files answers."""

    def __init__(self, pieces: list[bytes], status: int = 200, length: int | None = None) -> None:
        self.pieces, self.status, self.length, self.reason = pieces, status, length, "because " + "x" * 200
        self.asked: list[Any] = []
        self.closed = 0

    def request(self, *given: Any, **more: Any) -> None:
        self.asked.append((*given, more["headers"]))

    def getresponse(self) -> "Host":
        return self

    def read1(self, _: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.closed += 1


def fetch(monkeypatch: pytest.MonkeyPatch, host: Host, link: str = "http://a.example/x/y.jpg", most: int = 10) -> Any:
    monkeypatch.setattr(links, "_connection", lambda _: host)
    try:
        return links.fetch(link, [Origin.of("http://a.example")], most)
    finally:
        assert host.closed == (1 if host.asked else 0)


@pytest.mark.parametrize(("sizes", "fits"), [((10,), True), ((5, 5), True), ((11,), False), ((9, 2), False)])
def test_a_file_may_have_as_many_bytes_as_the_limit(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], fits: bool
) -> None:
    host = Host([bytes(size) for size in sizes])
    if fits:
        assert fetch(monkeypatch, host)[1].getvalue() == bytes(10)
    else:
        with pytest.raises(ProblemError, match="over the limit") as caught:
            fetch(monkeypatch, host)
        assert caught.value.status == 502


@pytest.mark.parametrize(
    ("link", "target", "name"),
    [
        ("http://a.example/x/y%20z.jpg?a=1#b", "/x/y%20z.jpg?a=1", "y z.jpg"),
        ("http://a.example", "/", "link"),
        ("http://a.example?a=1", "/?a=1", "link"),
        ("http://a.example/x/", "/x/", "link"),
    ],
)
def test_a_link_is_asked_for_as_it_is_and_names_its_file(
    monkeypatch: pytest.MonkeyPatch, link: str, target: str, name: str
) -> None:
    host = Host([b"file"])
    assert fetch(monkeypatch, host, link)[0] == name
    assert host.asked == [("GET", target, {"Accept-Encoding": "identity"})]  # bytes are counted as they come


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (204, "it answers 204 because"),
        (206, "it answers 206"),
        (301, "not followed"),
        (399, "not followed"),
        (500, "500"),
    ],
)
def test_only_a_whole_file_is_taken(monkeypatch: pytest.MonkeyPatch, status: int, said: str) -> None:
    with pytest.raises(ProblemError, match=said) as caught:
        fetch(monkeypatch, Host([b"file"], status))
    assert len(caught.value.detail) < 200
    with pytest.raises(ProblemError, match="it ended 3 bytes too early"):
        fetch(monkeypatch, Host([b"file"], length=3))
    assert fetch(monkeypatch, Host([b"file"], length=0))[1].read() == b"file"


@pytest.mark.parametrize(("length", "fits"), [(2048, True), (2049, False)])
def test_a_link_has_at_most_2048_characters_of_ascii(monkeypatch: pytest.MonkeyPatch, length: int, fits: bool) -> None:
    link = "http://a.example/".ljust(length, "!")
    if fits:
        assert fetch(monkeypatch, Host([b"file"]), link)
        assert fetch(monkeypatch, Host([b"file"]), "http://a.example/~")
    for wrong in ["http://a.example/é", "http://a.example/\x7f", "http://a.example/ "] if fits else [link]:
        with pytest.raises(ProblemError, match="2048 characters"):
            fetch(monkeypatch, Host([]), wrong)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_is_made_to_the_address_that_was_looked_at_and_is_given_up_soon(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    plain = SimpleNamespace(close=lambda: closed.append(plain))
    closed: list[Any] = []
    made: list[Any] = []
    monkeypatch.setattr(links, "_address", lambda _: "192.0.2.1")
    monkeypatch.setattr(links.socket, "create_connection", lambda *given: made.append(given) or plain)
    secured = SimpleNamespace(wrap_socket=lambda *_, **__: "secured")
    monkeypatch.setattr(links.ssl, "create_default_context", lambda: secured)
    connection = links._connection(Origin(scheme, "a.example", 443))
    assert made == [(("192.0.2.1", 443), 10.0)]
    assert connection.sock == ("secured" if scheme == "https" else plain)
    assert (connection.host, connection.default_port) == ("a.example", 443 if scheme == "https" else 80)

    def refuse(*_: Any, **__: Any) -> None:
        raise ssl.SSLCertVerificationError("another's certificate")

    secured.wrap_socket = refuse
    if scheme == "https":
        with pytest.raises(OSError, match="another's"):
            links._connection(Origin(scheme, "a.example", 443))
        assert closed == [plain]


@pytest.mark.parametrize(
    ("host", "found", "address"),
    [
        ("a.example", ["8.8.8.8"], "8.8.8.8"),
        ("a.example", ["10.0.0.1", "8.8.8.8"], "8.8.8.8"),
        ("10.0.0.1", ["10.0.0.1"], "10.0.0.1"),
        ("::1", ["::1"], "::1"),
        ("a.example", ["2001:4860:4860::8888"], "2001:4860:4860::8888"),
    ],
)
def test_a_public_address_is_connected_to_or_the_one_that_the_operator_wrote(
    monkeypatch: pytest.MonkeyPatch, host: str, found: list[str], address: str
) -> None:
    asked: list[Any] = []
    known = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, 81)) for number in found]
    monkeypatch.setattr(links.socket, "getaddrinfo", lambda *given, **more: asked.append((*given, more)) or known)
    assert links._address(Origin("http", host, 81)) == address
    assert asked == [(host, 81, {"type": socket.SOCK_STREAM})]
