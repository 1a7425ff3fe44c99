"""deploy/nginx with the real nginx and the real server: what callers need gets through, and nothing else."""

import contextlib
import http.client
import json
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import Server, free_ports, start_server
from tests.golden import GOLDEN, ROOT, ROWS
from tests.waiting import PATIENCE, wait_for

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin")
EXAMPLE = ROOT / "deploy" / "nginx" / "deepfake-detector.conf"
MAIN = """
daemon off;
pid {folder}/pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/example.conf;
}}
"""

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx)"),
]


@pytest.fixture(scope="module")
def opened(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes inference over HTTP."""
    server = start_server(tiny_repository, tmp_path_factory.mktemp("opened") / "log", launcher=["--http-inference"])
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def port(opened: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where nginx listens, with the example as it is but for its two ports."""
    folder = tmp_path_factory.mktemp("nginx")
    (listening,) = free_ports(1)
    text = EXAMPLE.read_text()
    for old, new in (("server 127.0.0.1:8000;", opened.http_port), ("listen 127.0.0.1:8080;", listening)):
        assert text.count(old) == 1
        text = text.replace(old, f"{old.rpartition(':')[0]}:{new};")
    (folder / "example.conf").write_text(text)
    (folder / "main.conf").write_text(MAIN.format(folder=folder))
    command = [str(NGINX), "-p", str(folder), "-c", str(folder / "main.conf"), "-g", "user root;"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def listens() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", listening)) == 0

    try:
        wait_for(listens)
        yield listening
    finally:
        process.terminate()
        process.communicate(timeout=120)


def infer(port: int, image: bytes) -> tuple[int, bytes]:
    """Scores an image as a binary request; status and body. The body may be refused before it is all sent."""
    data = struct.pack("<I", len(image)) + image
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.putrequest("POST", "/v2/models/deepfake_detector/infer")
        connection.putheader("Content-Length", str(len(head) + len(data)))
        connection.putheader("Inference-Header-Content-Length", str(len(head)))
        connection.endheaders()
        with contextlib.suppress(ConnectionError):
            connection.send(head + data)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ask(port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers or {})
        return connection.getresponse().status
    finally:
        connection.close()


def tritonserver(server: Server) -> list[int]:
    children = psutil.Process(server.process.pid).children()
    return [child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE]


def test_the_server_warns_that_inference_over_http_is_open(opened: Server) -> None:
    assert "WARNING: inference over HTTP is open" in opened.log.read_text()


def test_images_are_scored_through_it(port: int) -> None:
    row = ROWS[0]
    status, answer = infer(port, (GOLDEN / "images" / row["image"]).read_bytes())
    assert status == 200
    outputs = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
    assert outputs["STATUS"] == ["ok"]
    assert 0 <= outputs["SCORE"][0] <= 1


@pytest.mark.parametrize(
    "path", ["", "/health/live", "/health/ready", "/models/provenance", "/models/provenance/ready"]
)
def test_health_and_metadata_get_through(port: int, path: str) -> None:
    assert ask(port, "GET", f"/v2{path}") == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/voter/infer", 404),
        ("POST", "/v2/models/preprocess/infer", 404),
        ("POST", "/v2/models/face_crop/versions/1/infer", 404),
        ("POST", "/v2/models/deepfake_detector/../voter/infer", 404),
        ("POST", "/v2/models/deepfake_detector%2f..%2fvoter/infer", 404),
        ("POST", "/v2/models/deepfake_detector/generate", 404),
        ("GET", "/v2/models/voter", 404),
        ("GET", "/v2/models/stats", 404),
        ("POST", "/v2/repository/index", 404),
        ("POST", "/v2/systemsharedmemory/region/a/register", 404),
        ("GET", "/v2/logging", 404),
        ("GET", "/metrics", 404),
        ("POST", "/v2", 403),
        ("POST", "/v2/models/deepfake_detector", 403),
        ("GET", "/v2/models/deepfake_detector/infer", 403),
        ("POST", "/v2/models/deepfake_detector/infer", 415),
    ],
)
def test_nothing_else_gets_through(port: int, method: str, path: str, status: int) -> None:
    assert ask(port, method, path) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"Inference-Header-Content-Length": "400000"}, 415),
        ({"Inference-Header-Content-Length": "0"}, 415),
        ({"Inference-Header-Content-Length": "-1"}, 415),
        ({"Inference-Header-Content-Length": "9999", "Content-Encoding": "gzip"}, 415),
        ({"Inference-Header-Content-Length": "9999"}, 500),
    ],
)
def test_nested_json_does_not_end_the_server_behind_it(
    port: int, opened: Server, headers: dict[str, str], status: int
) -> None:
    before = tritonserver(opened)
    assert ask(port, "POST", "/v2/models/deepfake_detector/infer", b"[" * 400_000, headers) == status
    assert infer(port, (GOLDEN / "images" / ROWS[0]["image"]).read_bytes())[0] == 200  # before a dead one is replaced
    assert tritonserver(opened) == before


def test_a_large_body_is_refused(port: int) -> None:
    assert infer(port, bytes(66 * 2**20))[0] == 413
