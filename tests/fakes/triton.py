"""A stand-in for Triton that can misbehave on demand, for the client's tests: gRPC on loopback, the real protocol.

An image's content says what the server answers: b"0.3" is scored 0.3, b"status:empty_image" gets that status, anything
else 0.5.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

Fault = Callable[[pb.ModelInferRequest, grpc.ServicerContext], None]
Garble = Callable[[dict[str, np.ndarray]], None]

FACE = (1.5, 2.0, 100.1, 200.25)


class FakeTriton(GRPCInferenceServiceServicer):
    """One server: start it, stop it, start it again on the same port.

    Attributes:
        fault: Called at the start of every inference of the detector; it may sleep or abort the call.
        garble: Called with the outputs of every inference, which it may change.
        max_bytes: Limit on an image that the first step states; None where there is no such step.
        provenance: Text of the provenance model; None where there is no such model.
        batches: Batch size of every inference that was answered.
        boxes: FACE_BOX of every inference, None where it was not sent.
        peak: Most inferences that were under way at once.
    """

    def __init__(self, max_batch_size: int = 32) -> None:
        self.max_batch_size = max_batch_size
        self.fault: Fault = lambda request, context: None
        self.garble: Garble = lambda outputs: None
        self.max_bytes: str | None = None
        self.provenance: str | None = None
        self.batches: list[int] = []
        self.boxes: list[np.ndarray | None] = []
        self.calls = 0
        self.peak = 0
        self._in_flight = 0
        self._lock = threading.Lock()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(32), options=unlimited)
        add_GRPCInferenceServiceServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(self.url) == self.port
        self._server.start()

    def stop(self) -> None:
        """Drops all connections at once, as a killed server does."""
        self._server.stop(None).wait()

    def ServerMetadata(self, request, context):  # noqa: N802 - the protocol's name
        return pb.ServerMetadataResponse(name="triton", version="2.51.0")

    def ServerReady(self, request, context):  # noqa: N802
        return pb.ServerReadyResponse(ready=True)

    def ModelConfig(self, request, context):  # noqa: N802
        response = pb.ModelConfigResponse()
        response.config.name = request.name
        if request.name == "preprocess" and self.max_bytes is not None:
            response.config.parameters["max_bytes"].string_value = self.max_bytes
            return response
        if request.name != "deepfake_detector":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        response.config.max_batch_size = self.max_batch_size
        return response

    def ModelInfer(self, request, context):  # noqa: N802
        if request.model_name == "provenance":
            if self.provenance is None:
                context.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'provenance' is not found")
            return _response(request.model_name, {"PROVENANCE": np.array([self.provenance.encode()], dtype=object)})
        with self._lock:
            self.calls += 1
            self._in_flight += 1
            self.peak = max(self.peak, self._in_flight)
        try:
            return self._detect(request, context)
        finally:
            with self._lock:
                self._in_flight -= 1

    def _detect(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        if request.model_name != "deepfake_detector":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.model_name}' is not found")
        self.fault(request, context)
        tensors = dict(zip((i.name for i in request.inputs), request.raw_input_contents, strict=True))
        images = list(deserialize_bytes_tensor(tensors["IMAGE"]))
        assert list(request.inputs[0].shape) == [len(images), 1]
        if len(images) > self.max_batch_size:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"batch-size must be <= {self.max_batch_size}")
        boxes = tensors.get("FACE_BOX")
        outputs = _outputs(images)
        self.garble(outputs)
        with self._lock:
            self.batches.append(len(images))
            self.boxes.append(None if boxes is None else np.frombuffer(boxes, np.float32).reshape(len(images), 4))
        return _response(request.model_name, outputs)


def fail_times(count: int, code: grpc.StatusCode, message: str = "Stub process is not healthy.") -> Fault:
    """A fault that fails the first `count` inferences."""
    left = iter(range(count))

    def fault(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        if next(left, None) is not None:
            context.abort(code, message)

    return fault


def hang(seconds: float) -> Fault:
    """A fault that answers only after some time, or when the call is over."""

    def fault(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        end = time.monotonic() + seconds
        while context.is_active() and time.monotonic() < end:
            time.sleep(0.01)

    return fault


@contextmanager
def serving(max_batch_size: int = 32) -> Iterator[FakeTriton]:
    """A server that runs within the block."""
    server = FakeTriton(max_batch_size)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def untrained() -> str:
    """What the provenance model says of seeded weights."""
    stream = {"checkpoint": "dinov2_252.pth", "sha256": "ab12", "untrained": True}
    return json.dumps({"untrained": True, "precision": "fp32", "streams": {"global_texture": stream}})


def _outputs(images: list[bytes]) -> dict[str, np.ndarray]:
    count = len(images)
    outputs = {
        "SCORE": np.full((count, 1), np.nan, np.float32),
        "PROBABILITY": np.full((count, 1), np.nan, np.float32),
        "STREAM_PROBABILITIES": np.full((count, 3), np.nan, np.float32),
        "STREAM_VOTES": np.full((count, 3), np.nan, np.float32),
        "FACE": np.full((count, 4), np.nan, np.float32),
        "FACE_CONFIDENCE": np.full((count, 1), np.nan, np.float32),
        "FACE_SOURCE": np.full((count, 1), b"none", object),
        "STATUS": np.full((count, 1), b"ok", object),
    }
    for row, image in enumerate(images):
        if image.startswith(b"status:"):
            outputs["STATUS"][row] = image.removeprefix(b"status:")
            continue
        try:
            score = float(image)
        except ValueError:
            score = 0.5
        vote = round(score, 2)  # as fine as those of any calibration
        outputs["SCORE"][row] = vote
        outputs["PROBABILITY"][row] = score
        outputs["STREAM_PROBABILITIES"][row] = (score, 0.123, 0.9)
        outputs["STREAM_VOTES"][row] = (vote, 0.1, 0.9)
        if score > 0.5:
            outputs["FACE"][row] = FACE
            outputs["FACE_CONFIDENCE"][row] = 0.97
            outputs["FACE_SOURCE"][row] = b"raw"
    return outputs


def _response(model: str, outputs: dict[str, np.ndarray]) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=model, model_version="1")
    for name, values in outputs.items():
        is_text = values.dtype == object
        datatype = "BYTES" if is_text else {"float32": "FP32", "float64": "FP64"}[str(values.dtype)]
        response.outputs.add(name=name, datatype=datatype, shape=values.shape)
        serialized = serialize_byte_tensor(values) if is_text else values
        response.raw_output_contents.append(serialized.item() if is_text else serialized.tobytes())
    return response
