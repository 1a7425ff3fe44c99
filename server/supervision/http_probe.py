"""The probe over HTTP, for a server whose gRPC port wants certificates or tokens that only its clients have."""

import http.client
import json
import struct
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from server.repository import ENSEMBLE
from server.supervision.probe import IMAGE, Kind, PendingProbe, refusal_kind


class HttpProber:
    """Probes one server and asks for its statistics over HTTP; the same face as `server.supervision.probe.Prober`."""

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        """Connect lazily.

        Args:
            address: HOST:PORT of the server's HTTP end-point.
            headers: Sent with each request.
        """
        self._address = address
        self._headers = headers
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="probe")

    def start(self, timeout: float) -> PendingProbe:
        """Start an inference that is given up after `timeout` seconds."""
        return PendingProbe(self._pool.submit(self._infer, timeout), _judge)

    def counts(self, timeout: float = 2.0) -> dict[str, int] | None:
        """Requests answered well so far by each model; None where the server does not say in time."""
        try:
            status, body = self._ask("GET", "/v2/models/stats", timeout)
        except (OSError, http.client.HTTPException):
            return None
        if status != 200:
            return None
        models = json.loads(body)["model_stats"]
        return {model["name"]: model["inference_stats"]["success"]["count"] for model in models}

    def close(self) -> None:
        """Start no further probe; one under way ends with the server."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _infer(self, timeout: float) -> tuple[int, bytes]:
        image = IMAGE.read_bytes()
        data = struct.pack("<I", len(image)) + image
        parameters = {"binary_data_size": len(data)}
        document = {
            "parameters": {"fresh": True},  # not from the response cache: every step must answer
            "inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "parameters": parameters}],
        }
        head = json.dumps(document).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        return self._ask("POST", f"/v2/models/{ENSEMBLE}/infer", timeout, head + data, headers)

    def _ask(
        self, method: str, path: str, timeout: float, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._address, timeout=timeout)
        try:
            connection.request(method, path, body, {**self._headers, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def answer_fault(answer: dict[str, Any]) -> str:
    """What is wrong with an answer; empty when nothing is."""
    outputs = {output["name"]: output.get("data") for output in answer.get("outputs", ())}
    for name, data in outputs.items():
        if not data:
            return f"output {name} came back empty, as it does when the stub runs with NumPy 2"
        if name == "STATUS" and data != ["ok"]:
            return f"the probe image got STATUS {data[0]!r}"
    return "" if outputs else "the answer has no outputs"


def _judge(call: Future[tuple[int, bytes]]) -> tuple[Kind, str]:
    error = call.exception()
    if isinstance(error, TimeoutError):
        return Kind.BUSY, "no answer in time"
    if error is not None:
        return Kind.UNREACHABLE, f"{type(error).__name__}: {error}"
    status, body = call.result()
    if status == 200:
        fault = answer_fault(json.loads(body))
        return (Kind.FAILED, fault) if fault else (Kind.ANSWERED, "")
    text = body.decode(errors="replace")
    kind = refusal_kind(text) or (Kind.UNREACHABLE if status == 503 else Kind.FAILED)
    return kind, f"HTTP {status}: {text}"
