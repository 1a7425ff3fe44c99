"""Triton step before an ensemble: answers images that were answered before, and asks it about the others."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ensemble.admission import AdmissionController
from ensemble.response_cache import ResponseCache, Row, is_kept, key_of, missing


class TritonPythonModel:
    """One instance of the step. What must be computed waits in a thread of its own, so no hit waits for it."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {name: each["string_value"] for name, each in config["parameters"].items()}
        self._uncached = parameters["uncached"]
        self._face_networks = parameters["face_networks"] == "true"
        self._inputs = [each["name"] for each in config["input"]]
        self._outputs = {each["name"]: each["data_type"] == "TYPE_STRING" for each in config["output"]}
        self._cache = ResponseCache(int(parameters["bytes"]))
        limits = _limits(Path(args["model_repository"]).parent / "preprocess" / "config.pbtxt")
        # The first step counts too, but what comes here is in memory before it gets there.
        self._admission = AdmissionController(*limits)
        self._permits = itertools.count(1)
        self._threads = ThreadPoolExecutor(limits[0])
        self._lookups, self._hits, self._bytes = _metrics(args["model_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._begin(request) for request in requests]

    def finalize(self) -> None:
        self._threads.shutdown()

    def _begin(self, request: Any) -> Any:
        """The answer where all of it was kept, or the refusal; None where it comes later."""
        given = {name: _values(request, name) for name in self._inputs}
        count = len(given["IMAGE"])
        keys = [key_of({name: _bytes_of(values, index) for name, values in given.items()}) for index in range(count)]
        fresh = json.loads(request.parameters() or "{}").get("fresh") is True
        rows = [None if fresh else self._cache.get(key) for key in keys]
        if not fresh:
            self._lookups.increment(count)
            self._hits.increment(count - len(missing(rows)))
        if not (asked := missing(rows)):
            return self._response(rows)
        permit, size = next(self._permits), sum(len(given["IMAGE"][index, 0]) for index in asked)
        if (refusal := self._admission.admit(permit, len(asked), size, monotonic())) is not None:
            return _error(refusal, pb_utils.TritonError.UNAVAILABLE)
        inputs = [
            pb_utils.Tensor(name, np.ascontiguousarray(values[asked]))
            for name, values in given.items()
            if values is not None
        ]
        sender = request.get_response_sender()

        def ask() -> None:
            try:
                response = self._ask(inputs, rows, asked, [] if fresh else keys)
            except Exception as error:  # noqa: BLE001 - the process boundary: without an answer the request would hang
                response = _error(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)
            self._admission.release(permit, monotonic())
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        self._threads.submit(ask)
        return None

    def _ask(self, inputs: list[Any], rows: list[Row | None], asked: list[int], keys: list[bytes]) -> Any:
        request = pb_utils.InferenceRequest(
            model_name=self._uncached,
            requested_output_names=list(self._outputs),
            inputs=inputs,
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        )
        response = request.exec()
        if response.has_error():
            return pb_utils.InferenceResponse(error=response.error())
        found = {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in self._outputs}
        for place, index in enumerate(asked):
            row = rows[index] = tuple(_bytes_of(found[name], place) or b"" for name in self._outputs)
            status, source = (found[name][place, 0].decode(errors="replace") for name in ("STATUS", "FACE_SOURCE"))
            if keys and is_kept(status, source, face_networks=self._face_networks):
                self._cache.put(keys[index], row)
        self._bytes.set(self._cache.bytes)
        return self._response(rows)

    def _response(self, rows: list[Row | None]) -> Any:
        columns = zip(*(row for row in rows if row is not None), strict=True)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, _column(values, is_text))
                for (name, is_text), values in zip(self._outputs.items(), columns, strict=True)
            ]
        )


def _values(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _bytes_of(values: Any, index: int) -> bytes | None:
    """An image's value of a tensor, as bytes; None where there is no tensor."""
    if values is None:
        return None
    return bytes(values[index, 0]) if values.dtype == np.object_ else values[index].tobytes()


def _column(values: tuple[bytes, ...], is_text: bool) -> Any:
    if is_text:
        return np.array([[value] for value in values], np.object_)
    return np.stack([np.frombuffer(value, np.float32) for value in values])


def _limits(preprocess: Path) -> tuple[int, int]:
    """Images, and bytes of them, that may be inside at once."""
    parameters = text_format.Parse(preprocess.read_text(encoding="utf-8"), model_config_pb2.ModelConfig()).parameters
    return int(parameters["max_pending"].string_value), int(parameters["max_pending_bytes"].string_value)


def _metrics(model: str) -> list[Any]:
    counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
    metrics = []
    for name, description, kind in (
        ("lookups_total", "Images that were looked for among the answers that are kept", counter),
        ("hits_total", "Images that were answered from there", counter),
        ("bytes", "Memory of the answers that are kept", gauge),
    ):
        family = pb_utils.MetricFamily(name=f"deepfake_detector_cache_{name}", description=description, kind=kind)
        metrics.append(family.Metric(labels={"model": model}))
        _KEPT.append(family)
    return metrics


_KEPT: list[Any] = []
"""Families go out of the metrics when they are collected."""


def _error(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
