"""One file over HTTP: whom its headers go to, where a body ends, and that versions are not mixed."""

import http.client
import http.server
import io
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPMessage
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.errors import DownloadError, NoNetworkError
from export.weights import transfer
from export.weights.transfer import Location, fetch_file, unfinished

CONTENT = bytes(range(256)) * 64
SECRET = {"Authorization": "Bearer hf_secret"}


class Server:
    """A server on loopback whose answers a test decides.

    Attributes:
        answer: Called with the handler of each request.
        asked: Path and headers of each request, names in lower case.
    """

    def __init__(self) -> None:
        self.answer: Callable[[http.server.BaseHTTPRequestHandler], None] = lambda handler: send(handler, CONTENT)
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __enter__(self) -> "Server":
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                server.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/file"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()


def send(
    handler: http.server.BaseHTTPRequestHandler,
    body: bytes,
    status: int = 200,
    length: int | None = -1,
    **headers: str,
) -> None:
    """Answer; `length` is what is announced, the body's own by default, nothing where None."""
    handler.send_response(status)
    if length is not None:
        handler.send_header("Content-Length", str(len(body) if length == -1 else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each, which nobody waits for."""
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


def fetch(location: Location, folder: Path) -> Path:
    fetch_file(lambda: location, folder / "file", lambda path: None, lambda there, total: None)
    return folder / "file"


def redirect_to(url: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        if handler.path == "/file":
            send(handler, b"", 302, Location=url)
        else:
            send(handler, CONTENT)

    return answer


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["another host", "another port"])
def test_a_redirect_to_elsewhere_takes_no_token_along(host: str, server: Server, tmp_path: Path) -> None:
    with Server() as other:
        port = server.port if host == "localhost" else other.port
        server.answer = redirect_to(f"http://{host}:{port}/elsewhere")
        assert fetch(Location(server.url, SECRET), tmp_path).read_bytes() == CONTENT
        first, second = [*server.asked, *other.asked]
        assert first[1]["authorization"] == "Bearer hf_secret"
        assert second[0] == "/elsewhere"
        assert "authorization" not in second[1]


@pytest.mark.parametrize("name", ["X-Api-Key", "x-api-key"])
def test_no_header_of_ours_goes_elsewhere_however_it_is_written(name: str, server: Server, tmp_path: Path) -> None:
    server.answer = redirect_to(f"http://localhost:{server.port}/elsewhere")
    fetch(Location(server.url, {name: "secret"}), tmp_path)
    assert [headers.get("x-api-key") for _, headers in server.asked] == ["secret", None]


@pytest.mark.parametrize(
    ("url", "keeps"),
    [
        ("https://hub.example/moved", True),
        ("http://hub.example/file", False),
        ("https://hub.example:444/file", False),
        ("https://cdn.hub.example/file", False),
    ],
)
def test_a_token_is_of_one_scheme_host_and_port(url: str, keeps: bool) -> None:
    request = urllib.request.Request("https://hub.example/file", headers=SECRET)
    following = transfer._KeepToTheOrigin(SECRET).redirect_request(request, io.BytesIO(), 302, "", HTTPMessage(), url)
    assert following is not None
    assert following.has_header("Authorization") is keeps


def test_a_redirect_within_the_server_keeps_the_token(server: Server, tmp_path: Path) -> None:
    server.answer = redirect_to("/moved")
    fetch(Location(server.url, SECRET), tmp_path)
    assert [headers.get("authorization") for _, headers in server.asked] == ["Bearer hf_secret"] * 2


def test_a_token_once_dropped_does_not_come_back(server: Server, tmp_path: Path) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        hops = {"/file": f"http://localhost:{server.port}/away", "/away": f"http://127.0.0.1:{server.port}/back"}
        if handler.path in hops:
            send(handler, b"", 302, Location=hops[handler.path])
        else:
            send(handler, CONTENT)

    server.answer = answer
    fetch(Location(server.url, SECRET), tmp_path)
    assert [headers.get("authorization") for _, headers in server.asked] == ["Bearer hf_secret", None, None]


def test_a_body_ends_at_the_size_announced_by_the_hub(server: Server, tmp_path: Path) -> None:
    """A server that says no length could send for ever."""
    server.answer = lambda handler: send(handler, CONTENT * 20, length=None)
    assert fetch(Location(server.url, size=len(CONTENT)), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("length", "size", "problem"),
    [
        (-1, len(CONTENT) + 1, f"sends a file of {len(CONTENT)} bytes, announced are {len(CONTENT) + 1}"),
        (-1, len(CONTENT) - 1, f"announced are {len(CONTENT) - 1}"),
        (None, None, "does not say how large"),
    ],
)
def test_sizes_that_disagree_or_are_unknown_are_refused(
    length: int | None, size: int | None, problem: str, server: Server, tmp_path: Path
) -> None:
    server.answer = lambda handler: send(handler, CONTENT, length=length)
    with pytest.raises(DownloadError, match=problem):
        fetch(Location(server.url, size=size), tmp_path)
    assert unfinished(tmp_path / "file") == 0


def test_a_signature_in_the_address_is_not_shown(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler: send(handler, b"", 403)
    with pytest.raises(DownloadError, match="/file answers HTTP 403") as caught:
        fetch(Location(f"{server.url}?signature=s3cret"), tmp_path)
    assert server.asked[0][0] == "/file?signature=s3cret"
    assert "s3cret" not in str(caught.value)


def test_a_body_that_ends_early_is_no_file(server: Server, tmp_path: Path, pauses: list[float]) -> None:
    server.answer = lambda handler: send(handler, CONTENT[:100], length=None)
    with pytest.raises(NoNetworkError, match="ended after 100 of"):
        fetch(Location(server.url, size=len(CONTENT), content="one"), tmp_path)
    assert not (tmp_path / "file").exists()
    assert len(server.asked) == 5
    assert pauses == sorted(pauses)
    assert 1 <= pauses[0] < pauses[-1] <= 10  # a server in trouble is left alone for ever longer


@pytest.mark.parametrize("error", [TimeoutError("timed out"), ConnectionResetError(104, "reset"), BrokenPipeError()])
def test_a_connection_that_breaks_within_the_body_is_opened_again(
    error: OSError, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, broken = http.client.HTTPResponse.read, [error]

    def breaking(self: http.client.HTTPResponse, amount: int | None = None) -> bytes:
        if broken:
            raise broken.pop()
        return read(self, amount)

    monkeypatch.setattr(http.client.HTTPResponse, "read", breaking)
    assert fetch(Location(server.url), tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_server_that_says_nothing_is_not_waited_for_ever(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float | None] = []
    connect = http.client.HTTPConnection.connect

    def watched(self: http.client.HTTPConnection) -> None:
        given.append(self.timeout)
        connect(self)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", watched)
    fetch(Location(server.url), tmp_path)
    assert given == [30]


def break_off(server: Server, location: Location, folder: Path) -> None:
    server.answer = lambda handler: send(handler, b"o" * 1000, length=5000, ETag="old" if location.content else "")
    with pytest.raises(NoNetworkError):
        fetch(location, folder)
    assert unfinished(folder / "file") == 1000


def go_on(handler: http.server.BaseHTTPRequestHandler) -> None:
    body = b"n" * 5000
    start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
    if start:
        send(handler, body[start:], 206, Content_Range=f"bytes {start}-4999/5000")
    else:
        send(handler, body)


def test_without_a_name_for_the_content_nothing_is_continued(server: Server, tmp_path: Path) -> None:
    """No hash and no ETag: the bytes that are there may be of another version."""
    break_off(server, Location(server.url), tmp_path)
    server.answer = go_on
    assert fetch(Location(server.url), tmp_path).read_bytes() == b"n" * 5000


def test_a_server_that_sends_all_of_another_version_is_asked_once(server: Server, tmp_path: Path) -> None:
    break_off(server, Location(server.url, content="old"), tmp_path)
    server.asked.clear()
    server.answer = lambda handler: send(handler, CONTENT)
    assert fetch(Location(server.url, content="new"), tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "parts of the old version are left"


def test_the_same_content_is_continued(server: Server, tmp_path: Path) -> None:
    location = Location(server.url, content="hash")
    break_off(server, location, tmp_path)
    server.answer = go_on
    assert fetch(location, tmp_path).read_bytes() == b"o" * 1000 + b"n" * 4000


def test_an_answer_that_continues_elsewhere_is_refused(server: Server, tmp_path: Path) -> None:
    location = Location(server.url, content="hash")
    break_off(server, location, tmp_path)
    server.answer = lambda handler: send(handler, b"n" * 4000, 206, Content_Range="bytes 500-4499/5000")
    with pytest.raises(DownloadError, match="asked to go on at byte 1000 and sends bytes 500-4499/5000"):
        fetch(location, tmp_path)


def test_a_range_that_the_server_does_not_have_starts_anew(server: Server, tmp_path: Path) -> None:
    """All of it was there already, or more than all: the parts are not this file's."""
    location = Location(server.url, content="hash")
    break_off(server, location, tmp_path)
    server.asked.clear()
    server.answer = lambda handler: send(handler, b"", 416) if handler.headers.get("Range") else send(handler, CONTENT)
    assert fetch(location, tmp_path).read_bytes() == CONTENT
    assert [headers.get("range") for _, headers in server.asked] == ["bytes=1000-", None]


def test_a_server_that_never_has_the_range_is_asked_once_more(server: Server, tmp_path: Path) -> None:
    location = Location(server.url, content="hash")
    server.answer = lambda handler: send(handler, b"", 416)
    with pytest.raises(DownloadError, match="answers HTTP 416"):
        fetch(location, tmp_path)
    assert len(server.asked) == 1
    break_off(server, location, tmp_path)
    server.asked.clear()
    server.answer = lambda handler: send(handler, b"", 416)
    with pytest.raises(DownloadError, match="answers HTTP 416"):
        fetch(location, tmp_path)
    assert [headers.get("range") for _, headers in server.asked] == ["bytes=1000-", None]


def test_a_length_of_thousands_of_digits_is_none(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler: send(handler, b"x", length=None, Content_Length="9" * 5000)
    with pytest.raises(DownloadError, match="does not say how large"):
        fetch(Location(server.url), tmp_path)


@pytest.mark.parametrize(("free", "fits"), [(4000, True), (3999, False)])
def test_the_disk_has_to_hold_what_is_missing(
    free: int, fits: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = Location(server.url, content="hash")
    break_off(server, location, tmp_path)
    server.answer = go_on
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free if path == tmp_path else 10**9))
    if fits:
        fetch(location, tmp_path)
    else:
        with pytest.raises(DownloadError, match="make room"):
            fetch(location, tmp_path)


def test_a_file_that_fails_its_check_is_removed(server: Server, tmp_path: Path) -> None:
    def check(path: Path) -> None:
        assert path.read_bytes() == CONTENT
        raise ValueError("not it")

    with pytest.raises(ValueError, match="not it"):
        fetch_file(lambda: Location(server.url), tmp_path / "file", check, lambda there, total: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_only_http_is_spoken(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="not a URL that begins with"):
        fetch(Location(url), tmp_path)


def test_progress_is_told_in_bytes_of_the_whole(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    fetch_file(
        lambda: Location(server.url), tmp_path / "file", lambda path: None, lambda *progress: told.append(progress)
    )
    assert told[-1] == (len(CONTENT), len(CONTENT))
