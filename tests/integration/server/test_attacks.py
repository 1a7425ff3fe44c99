"""What requests that mean harm do to the real server: nothing to itself, its memory and its neighbours."""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from deepfake_client import DetectorClient
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from ensemble.admission import Ledger
from tests.conftest import Server
from tests.golden import GOLDEN
from tests.processes import living, opened

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
    lines = living(server.process.pid)
    return {process.pid for process, line in lines.items() if line[0].endswith(("tritonserver", "backend_stub"))}


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
    assert shared_memory(server) - before < 10 * MIB  # the launcher's own request may have come between


def test_a_request_over_its_limit_of_bytes_is_told_so(client: triton.InferenceServerClient) -> None:
    size = (64 * MIB) // 4 + 1
    with pytest.raises(InferenceServerException, match="over the limit of 67108864 bytes a request") as caught:
        ask(client, [IMAGE + bytes(size - len(IMAGE))] * 4)
    assert str(caught.value.status()) == "StatusCode.INVALID_ARGUMENT"


def votes(status: bytes = b"ok", permit: int | None = None, logit: float = 0.0, rows: int = 1) -> list[Any]:
    inputs = [tensor(f"{name}_LOGITS", np.full((rows, 2), logit, np.float32)) for name in STREAMS]
    inputs.append(tensor("IMAGE_STATUS", np.array([[status]] * rows, np.object_)))
    if permit is not None:
        inputs.append(tensor("PERMIT", np.full((rows, 1), permit, np.int64)))
    return inputs


@pytest.mark.parametrize("permit", [None, 0, 1, -1, 2**62, 2**63 - 1, -(2**63)])
def test_the_last_step_called_with_any_permit_answers(client: triton.InferenceServerClient, permit: int | None) -> None:
    answer = client.infer("voter", votes(permit=permit, rows=32))
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


@pytest.mark.parametrize("wanted", [None, ["IMAGE_STATUS"], ["PERMIT"]])
def test_a_first_step_that_is_called_directly_keeps_no_place(
    client: triton.InferenceServerClient, wanted: list[str] | None
) -> None:
    """More images than the limit of 256 in all; and at the end an image of the ensemble is served."""
    outputs = None if wanted is None else [triton.InferRequestedOutput(name) for name in wanted]
    for _ in range(9):
        answer = client.infer("preprocess", [tensor("IMAGE", column(IMAGE, 32))], outputs=outputs, client_timeout=120)
        if wanted is None:
            assert answer.as_numpy("IMAGE_STATUS").tolist() == [[b"ok"]] * 32
        if wanted != ["IMAGE_STATUS"]:
            assert not answer.as_numpy("PERMIT").any()


def test_a_first_step_that_is_called_directly_says_what_is_wrong_with_an_image(
    client: triton.InferenceServerClient,
) -> None:
    answer = client.infer("preprocess", [tensor("IMAGE", column(b"no image", 1))])
    assert b"no header of a JPEG" in answer.as_numpy("MESSAGE").item()


def column(value: bytes, rows: int) -> Any:
    made = np.empty((rows, 1), np.object_)
    made[:, 0] = [value] * rows
    return made


def crops(images: list[bytes], permit: int | None = None) -> list[triton.InferInput]:
    rows = len(images)
    data = np.empty((rows, 1), np.object_)
    data[:, 0] = images
    inputs = [
        tensor("IMAGE", data),
        tensor("DECODED", column(b"", rows)),
        tensor("BOX", np.full((rows, 4), np.nan, np.float32)),
        tensor("IMAGE_STATUS", column(b"ok", rows)),
    ]
    return inputs if permit is None else [*inputs, tensor("PERMIT", np.full((rows, 1), permit, np.int64))]


def decisions(images: list[bytes], permit: int | None = None) -> list[triton.InferInput]:
    logits = [
        tensor(f"{name}_LOGITS", np.zeros((len(images), 2), np.float32)) for name in STREAMS if "LOCAL" not in name
    ]
    return [*crops(images, permit), *logits]


def searches(images: list[bytes]) -> list[triton.InferInput]:
    return crops(images)[:1]


@pytest.mark.parametrize(
    ("model", "inputs"), [("face_crop", crops), ("decision", decisions), ("face_finder", searches)]
)
def test_a_step_that_is_called_directly_judges_each_image_by_itself(
    client: triton.InferenceServerClient, model: str, inputs: Any
) -> None:
    images = [IMAGE, b"no image", IMAGE[:-100], IMAGE]
    found = client.infer(model, inputs(images), client_timeout=120).as_numpy("STATUS").ravel().tolist()
    assert found == [b"ok", b"unsupported_format", b"unreadable_image", b"ok"]


@pytest.mark.parametrize(
    ("model", "inputs"), [("face_crop", crops), ("decision", decisions), ("face_finder", searches)]
)
def test_a_flood_of_direct_calls_is_refused_and_leaves_room_for_the_ensemble(
    client: triton.InferenceServerClient, model: str, inputs: Any
) -> None:
    """Of 16 × 32 images half of the limit of 256 fits; requests of the ensemble are served meanwhile."""
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(client.infer, model, inputs([IMAGE] * 32), client_timeout=300) for _ in range(16)]
        served = ask(client, [IMAGE] * 4).as_numpy("STATUS").tolist()
        errors = [call.exception() for call in calls]
    assert served == [[b"ok"]] * 4
    refused = [error for error in errors if error is not None]
    assert {error.status() for error in refused if isinstance(error, InferenceServerException)} == {
        "StatusCode.UNAVAILABLE"
    }
    assert all("OVERLOADED: " in str(error) and "limits of 128 images" in str(error) for error in refused)
    assert len(refused) >= 1
    assert len(calls) - len(refused) >= 4


def test_no_permit_of_a_stranger_opens_the_face_crop_to_more_than_it_was_given_for(
    client: triton.InferenceServerClient,
) -> None:
    """Whatever number comes with a request, its images are counted; and it is answered."""
    asked = ["GLOBAL_TEXTURE_PIXELS", "SEMANTIC_FUSION_PIXELS", "DECODED", "BOX", "IMAGE_STATUS", "PERMIT"]
    outputs = [triton.InferRequestedOutput(name) for name in asked]  # as the ensemble asks
    answer = client.infer("preprocess", [tensor("IMAGE", column(IMAGE, 2))], outputs=outputs, client_timeout=120)
    permit = int(answer.as_numpy("PERMIT")[0, 0])
    assert permit
    for number in (permit, permit + 1, 0, -1, 2**62, 2**63 - 1):
        found = client.infer("face_crop", crops([IMAGE] * 3, number), client_timeout=120)
        assert found.as_numpy("STATUS").ravel().tolist() == [b"ok"] * 3
    client.infer("voter", votes(permit=permit))  # the place is given back


@pytest.mark.parametrize("ensemble", ["deepfake_detector", "deepfake_verdict"])
def test_a_box_from_nowhere_costs_its_own_image_alone(client: triton.InferenceServerClient, ensemble: str) -> None:
    nan, inf = np.nan, np.inf
    bad = [(inf,) * 4, (-inf, 0, inf, 9), (0, 0, 3e9, 3e9), (50, 50, 10, 10), (0,) * 4, (nan, 0, 9, 9), (-3e38,) * 4]
    boxes = np.array([box for each in bad for box in (each, (60, 60, 200, 200))], np.float32)
    inputs = [tensor("IMAGE", column(IMAGE, len(boxes))), tensor("FACE_BOX", boxes)]
    found = client.infer(ensemble, inputs, client_timeout=120).as_numpy("STATUS").ravel().tolist()
    assert found == [b"invalid_face_box", b"ok"] * len(bad)


@pytest.mark.parametrize("threshold", [np.nan, np.inf, -np.inf, -1.0, 2.0, 1e38])
def test_any_threshold_is_answered(client: triton.InferenceServerClient, threshold: float) -> None:
    inputs = [tensor("IMAGE", column(IMAGE, 1)), tensor("THRESHOLD", np.array([[threshold]], np.float32))]
    answer = client.infer("deepfake_verdict", inputs, client_timeout=120)
    assert answer.as_numpy("STATUS").item() == b"ok"
    if threshold >= 1 or threshold < 0:
        assert answer.as_numpy("VERDICT").item() == (b"real" if threshold >= 1 else b"fake")


@pytest.mark.parametrize("model", ["deepfake_detector", "preprocess", "face_finder"])
@pytest.mark.parametrize(
    ("shape", "content"),
    [
        ([0, 1], b""),
        ([1, 1], b""),
        ([1, 1], b"\x01"),
        ([1, 1], b"\xff\xff\xff\xff" + IMAGE),
        ([1, 1], b"\x00\x00\x00\x80" + IMAGE),
        ([2, 1], b"\x01\x00\x00\x00x"),
        ([1, 2], b"\x01\x00\x00\x00x" * 2),
        ([33, 1], b"\x01\x00\x00\x00x" * 33),
        ([-1, 1], b"\x01\x00\x00\x00x"),
        ([2**31, 1], b"\x01\x00\x00\x00x"),
    ],
)
def test_a_request_of_another_shape_than_its_content_is_refused(
    server: Server, model: str, shape: list[int], content: bytes
) -> None:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=shape)
    request.raw_input_contents.append(content)
    with grpc.insecure_channel(server.url) as channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_steps_share_no_socket_that_others_could_write_to(server: Server) -> None:
    inodes = set()
    for pid in processes(server):
        inodes |= {link.removeprefix("socket:[").removesuffix("]") for link in opened(pid)}
    named = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:] if len(line.split()) > 7]
    assert not [line for line in named if line[6] in inodes]
    assert Ledger.find(processes(server)) is not None  # what they share instead


def test_restarts_are_among_the_metrics(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    assert 'deepfake_detector_restarts_total{last_request=""} 0' in text
