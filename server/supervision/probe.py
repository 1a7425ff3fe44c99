"""One real inference on a running server, and its statistics: the only honest signs of life.

tritonserver's ready end-points keep answering 200 after a model's stub has died.
"""

import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2, service_pb2_grpc

from server.repository import ENSEMBLE

# A photograph with one face (NASA, public domain), so that a probe takes the way that ordinary images take.
IMAGE = Path(__file__).with_name("probe.png")
_STUCK = "STUCK: "
"""With this, the first step's refusals say so."""

_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Kind(Enum):
    """What a probe's outcome says about the server."""

    ANSWERED = "answered"
    BUSY = "busy"  # no answer in time, or turned away from a full queue: says nothing about health
    STUCK = "stuck"  # turned away by an admission that has heard of nothing leaving for unusually long
    UNREACHABLE = "unreachable"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """How a probe ended.

    Attributes:
        kind: What it says about the server.
        detail: The error in words; empty after an answer.
        seconds: How long it took.
    """

    kind: Kind
    detail: str
    seconds: float


class PendingProbe:
    """A probe under way."""

    def __init__(self, call: Any, judge: Callable[[Any], tuple[Kind, str]]) -> None:
        """Wrap a call just started: a future, and what tells of one that is done how it ended."""
        self.started = time.monotonic()
        self._call = call
        self._judge = judge
        self._ended: float | None = None
        call.add_done_callback(self._note_end)

    def outcome(self) -> Outcome | None:
        """How it ended; None while it has not."""
        if not self._call.done():
            return None
        return Outcome(*self._judge(self._call), (self._ended or time.monotonic()) - self.started)

    def _note_end(self, _: Any) -> None:
        self._ended = time.monotonic()


class Prober:
    """A gRPC connection to one server, for probes and statistics."""

    def __init__(
        self,
        address: str,
        headers: Mapping[str, str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        made_out_to: str | None = None,
    ) -> None:
        """Connect lazily.

        Args:
            address: HOST:PORT of the server's gRPC end-point.
            headers: Sent with each call.
            credentials: For an encrypted connection; None for one that is not.
            made_out_to: The name in the server's certificate; the address's unless given.
        """
        self._metadata = tuple((headers or {}).items())
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        else:
            names = (("grpc.ssl_target_name_override", made_out_to),) if made_out_to else ()
            self._channel = grpc.secure_channel(address, credentials, options=(*_CHANNEL_OPTIONS, *names))
        self._service = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._request = probe_request(IMAGE.read_bytes())

    def start(self, timeout: float) -> PendingProbe:
        """Start an inference that is given up after `timeout` seconds."""
        call = self._service.ModelInfer.future(self._request, timeout=timeout, metadata=self._metadata)
        return PendingProbe(call, _judge_call)

    def counts(self, timeout: float = 2.0) -> dict[str, int] | None:
        """Requests answered well so far by each model; None where the server does not say in time."""
        try:
            request = service_pb2.ModelStatisticsRequest()
            reply = self._service.ModelStatistics(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError:
            return None
        return {model.name: model.inference_stats.success.count for model in reply.model_stats}

    def close(self) -> None:
        """Give up whatever is under way."""
        self._channel.close()


def probe_request(image: bytes) -> service_pb2.ModelInferRequest:
    """A request that scores one encoded image."""
    request = service_pb2.ModelInferRequest(model_name=ENSEMBLE)
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1, 1])
    request.parameters["fresh"].bool_param = True  # not from the response cache: every step must answer
    request.raw_input_contents.append(struct.pack("<I", len(image)) + image)
    return request


def answer_fault(reply: service_pb2.ModelInferResponse) -> str:
    """What is wrong with an answer; empty when nothing is."""
    for output, content in zip(reply.outputs, reply.raw_output_contents, strict=False):
        if not content:
            return f"output {output.name} came back empty, as it does when the stub runs with NumPy 2"
        if output.name == "STATUS" and content[4:] != b"ok":
            return f"the probe image got STATUS {content[4:].decode(errors='replace')!r}"
    return "" if reply.outputs else "the answer has no outputs"


def refusal_kind(message: str) -> Kind | None:
    """What an error's message says of a server that turns requests away; None where it is another error."""
    if _STUCK in message:
        return Kind.STUCK
    return Kind.BUSY if "queue" in message.lower() else None


def _judge_call(call: grpc.Future) -> tuple[Kind, str]:
    error = call.exception()
    if error is None:
        fault = answer_fault(call.result())
        return (Kind.FAILED, fault) if fault else (Kind.ANSWERED, "")
    return _judge(error.code(), error.details()), f"{error.code().name}: {error.details()}"


def _judge(code: grpc.StatusCode, details: str) -> Kind:
    if (refused := refusal_kind(details)) is not None:
        return refused
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Kind.BUSY
    told = ("restricted", "handshake", "CERTIFICATE", "Certificate", "Hostname")
    unreachable = code is grpc.StatusCode.UNAVAILABLE and not any(word in details for word in told)
    return Kind.UNREACHABLE if unreachable else Kind.FAILED
