"""A Hugging Face hub and a release server on loopback: the routes that a download uses, and failures on demand."""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server holds and how it behaves; a test changes it between requests.

    Attributes:
        files: Content by name, as the repository holds them.
        released: Content of the one release file.
        commit: Of the repository.
        damaged: Whether it sends other bytes than it announces.
        cuts: Bytes after which to break each coming transfer off; the transfers after those are whole.
        status: Error to answer with, with the hub's code for it.
        hold_after: Bytes of a transfer after which to go on by a byte a second until `go_on` is set.
        elsewhere: Whether files are redirected to another host, as the hub does.
        requests: What was asked for: method, path, headers.
    """

    files: dict[str, bytes]
    released: bytes = b""
    commit: str = COMMIT
    damaged: bool = False
    cuts: list[int] = field(default_factory=list)
    status: tuple[int, str] | None = None
    hold_after: int | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    elsewhere: bool = False
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def transfers(self) -> list[tuple[str, str]]:
        """Name and Range of every transfer of a file."""
        return [
            (path.rsplit("/", 1)[-1], headers.get("range", ""))
            for method, path, headers in self.requests
            if method == "GET" and "/api/" not in path
        ]


@contextmanager
def hub_on_loopback(hub: Hub) -> Iterator[Hub]:
    """Serves until the end of the block; sets `hub.url`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            hub.requests.append((self.command, self.path, headers))
            if hub.status is not None:
                return self._send(hub.status[0], {"X-Error-Code": hub.status[1]}, b"")
            if self.path.startswith("/api/models/"):
                return self._send(200, {"Content-Type": "application/json"}, json.dumps(self._listing()).encode())
            name = self.path.rsplit("/", 1)[-1]
            content = hub.released if self.path.startswith("/releases/") else hub.files.get(name)
            if content is None:
                return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            described = {
                "ETag": tag,
                "X-Repo-Commit": hub.commit,
                "X-Linked-Size": str(len(content)),
                "X-Linked-Etag": tag,
                "Accept-Ranges": "bytes",
            }
            span = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
            if hub.elsewhere and "/resolve/" in self.path:
                there = hub.url.replace("127.0.0.1", "localhost")
                return self._send(302, described | {"Location": f"{there}/{name}"}, b"")
            if span:
                start = int(span[1])
                if start >= len(content):
                    return self._send(416, {}, b"")
                described["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                return self._send(206, described, content[start:])
            return self._send(200, described, content)

        def _listing(self) -> dict[str, object]:
            siblings = [
                {
                    "rfilename": name,
                    "size": len(content),
                    "blobId": "0" * 40,
                    "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134},
                }
                for name, content in hub.files.items()
            ]
            return {"id": "lpmkhoa/hcmusaqua-ntire26-weights", "sha": hub.commit, "siblings": siblings}

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            is_file = "ETag" in headers
            if is_file and hub.damaged:
                body = bytes(len(body))
            cut = hub.cuts.pop(0) if is_file and hub.cuts else len(body)
            for start in range(0, min(cut, len(body)), 65536):
                piece = body[start : min(start + 65536, cut)]
                if is_file and hub.hold_after is not None and start >= hub.hold_after:
                    # A byte a second: whoever waits must not take the silence for a dead connection.
                    while piece and not hub.go_on.wait(1):
                        self.wfile.write(piece[:1])
                        self.wfile.flush()
                        piece = piece[1:]
                self.wfile.write(piece)
            if cut < len(body):
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *arguments: object) -> None:
            """A client that went away is what some tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
