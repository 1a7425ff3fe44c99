"""What requests that mean harm do to the real server: nothing to itself, its memory and its neighbours."""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from deepfake_client import DetectorClient
from tritonclient.utils import InferenceServerException

from ensemble.admission import Ledger
from tests.conftest import Server
from tests.golden import GOLDEN

pytestmark = pytest.mark.server

IMAGE = (GOLDEN / "images" / "00_face.png").read_bytes()
MIB = 2**20
STREAMS = ("GLOBAL_TEXTURE", "LOCAL_FACIAL", "SEMANTIC_FUSION")


@pytest.fixture(autouse=True)
def _it_lives_on(server: Server) -> Iterator[None]:
    """The same processes answer as before each attack."""
    before = processes(server)
    yield
    assert processes(server) == before
    with DetectorClient(server.url, timeout=120) as client:
        assert client.score(IMAGE).ok


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url) as connected:
        yield connected


def processes(server: Server) -> set[int]:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return {child.pid for child in children if child.name() == "tritonserver" or "stub" in child.name()}


def shared_memory(server: Server) -> int:
    regions = Path("/dev/shm").glob(f"deepfake_detector_{server.process.pid}_*")
    return sum(region.stat().st_blocks * 512 for region in regions)


def over_http(server: Server, method: str, path: str, body: bytes = b"") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def tensor(name: str, values: Any) -> triton.InferInput:
    datatype = {"float32": "FP32", "int64": "INT64", "object": "BYTES", "uint8": "UINT8"}[str(values.dtype)]
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def ask(client: triton.InferenceServerClient, images: list[bytes]) -> triton.InferResult:
    values = np.array([[image] for image in images], np.object_)
    return client.infer("deepfake_detector", [tensor("IMAGE", values)], client_timeout=120)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.register_system_shared_memory("stolen", "/other", 16),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.unregister_system_shared_memory(),
        lambda client: client.register_cuda_shared_memory("stolen", b"aGFuZGxl", 0, 16),
        lambda client: client.get_model_repository_index(),
        lambda client: client.unload_model("preprocess"),
        lambda client: client.load_model("preprocess"),
        lambda client: client.get_trace_settings(),
        lambda client: client.update_trace_settings(settings={"trace_file": "/tmp/written-by-a-stranger"}),
        lambda client: client.get_log_settings(),
        lambda client: client.update_log_settings({"log_file": "/tmp/written-by-a-stranger"}),
    ],
)
def test_what_nobody_needs_is_closed_over_grpc(client: triton.InferenceServerClient, call: Any) -> None:
    with pytest.raises(InferenceServerException, match="protocol is restricted"):
        call(client)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/systemsharedmemory/region/stolen/register"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/preprocess/unload"),
        ("POST", "/v2/logging"),
        ("POST", "/v2/trace/setting"),
        ("POST", "/v2/models/deepfake_detector/infer"),
        ("POST", "/v2/models/voter/infer"),
        ("POST", "/v2/models/deepfake_detector/generate"),
        ("POST", "/v2/models/deepfake_detector/generate_stream"),
    ],
)
def test_what_nobody_needs_is_closed_over_http_before_its_body_is_read(server: Server, method: str, path: str) -> None:
    assert over_http(server, method, path, b"[" * 400_000) == 403
    assert over_http(server, method, path, json.dumps({"key": "/x", "offset": 0, "byte_size": 1}).encode()) == 403


@pytest.mark.parametrize("path", ["/v2/health/ready", "/v2", "/v2/models/deepfake_detector", "/v2/models/stats"])
def test_what_only_reads_is_open_over_http(server: Server, path: str) -> None:
    assert over_http(server, "GET", path) == 200


def test_a_large_message_is_refused_before_it_takes_shared_memory(
    server: Server, client: triton.InferenceServerClient
) -> None:
    before = shared_memory(server)
    with pytest.raises(InferenceServerException, match="larger than max") as caught:
        ask(client, [IMAGE + bytes(10 * MIB)] * 12)
    assert str(caught.value.status()) == "StatusCode.RESOURCE_EXHAUSTED"
    assert shared_memory(server) == before


def test_a_request_over_its_limit_of_bytes_is_told_so(client: triton.InferenceServerClient) -> None:
    size = (64 * MIB) // 4 + 1
    with pytest.raises(InferenceServerException, match="over the limit of 67108864 bytes a request") as caught:
        ask(client, [IMAGE + bytes(size - len(IMAGE))] * 4)
    assert str(caught.value.status()) == "StatusCode.INVALID_ARGUMENT"


def votes(status: bytes = b"ok", ticket: int | None = None, logit: float = 0.0, rows: int = 1) -> list[Any]:
    inputs = [tensor(f"{name}_LOGITS", np.full((rows, 2), logit, np.float32)) for name in STREAMS]
    inputs.append(tensor("IMAGE_STATUS", np.array([[status]] * rows, np.object_)))
    if ticket is not None:
        inputs.append(tensor("TICKET", np.full((rows, 1), ticket, np.int64)))
    return inputs


@pytest.mark.parametrize("ticket", [None, 0, 1, -1, 2**62, 2**63 - 1, -(2**63)])
def test_the_last_step_called_with_any_ticket_answers(client: triton.InferenceServerClient, ticket: int | None) -> None:
    answer = client.infer("voter", votes(ticket=ticket, rows=32))
    np.testing.assert_array_equal(answer.as_numpy("SCORE"), np.full((32, 1), 0.5, np.float32))


def test_the_last_step_judges_each_row_and_each_request_by_itself(client: triton.InferenceServerClient) -> None:
    good = [votes() for _ in range(8)]
    infinite, forged = votes(logit=float("inf")), votes(status=b"\xff\xfe of my own \x1b[31m" + bytes(100_000))
    with ThreadPoolExecutor(16) as pool:
        bad = pool.submit(client.infer, "voter", forged)
        odd = pool.submit(client.infer, "voter", infinite)
        answers = list(pool.map(lambda inputs: client.infer("voter", inputs), good))
    assert all(answer.as_numpy("SCORE").item() == 0.5 for answer in answers)
    assert odd.result().as_numpy("STATUS").item() == b"non_finite_logits"
    with pytest.raises(InferenceServerException, match="no status of an image") as caught:
        bad.result()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [0, 255])
def test_a_network_called_directly_answers(client: triton.InferenceServerClient, value: int) -> None:
    pixels = np.full((32, 252, 252, 3), value, np.uint8)
    answer = client.infer("global_texture", [tensor("PIXELS", pixels)], client_timeout=120)
    assert np.isfinite(answer.as_numpy("LOGITS")).all()


def test_a_network_takes_no_other_shape(client: triton.InferenceServerClient) -> None:
    for shape in ((1, 100_000, 1, 3), (33, 252, 252, 3), (1, 252, 252, 4)):
        with pytest.raises(InferenceServerException):
            client.infer("global_texture", [tensor("PIXELS", np.zeros(shape, np.uint8))])


def test_tickets_of_a_first_step_that_is_called_directly_do_not_stay(
    server: Server, client: triton.InferenceServerClient
) -> None:
    images = np.array([[IMAGE]] * 32, np.object_)
    wanted = [triton.InferRequestedOutput("IMAGE_STATUS")]
    for _ in range(10):  # more than the limit of 256 in all
        answer = client.infer("preprocess", [tensor("IMAGE", images)], outputs=wanted, client_timeout=120)
        assert answer.as_numpy("IMAGE_STATUS").tolist() == [[b"ok"]] * 32


def test_the_steps_share_no_socket_that_others_could_write_to(server: Server) -> None:
    inodes = set()
    for pid in processes(server):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    named = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:] if len(line.split()) > 7]
    assert not [line for line in named if line[6] in inodes]
    assert Ledger.find(processes(server)) is not None  # what they share instead


def test_restarts_are_among_the_metrics(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    assert 'deepfake_detector_restarts_total{last_request=""} 0' in text
