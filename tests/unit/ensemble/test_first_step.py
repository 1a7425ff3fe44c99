"""The first step outside the server: a single image is waited for where the step is idle, and nowhere else."""

import gc
import importlib.util
import json
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ensemble.preparation import BLANKS, Prepared
from tests.golden import ROOT

STEP = ROOT / "model_repository" / "preprocess"
LONG = 60.0


class Request:
    """A request for the status of one image; `answered` is set when a response is sent, not returned."""

    def __init__(self, image: bytes) -> None:
        self.images = np.array([[image]], np.object_)
        self.answered = threading.Event()

    def requested_output_names(self) -> list[str]:
        return ["IMAGE_STATUS"]

    def get_response_sender(self) -> Any:
        return SimpleNamespace(send=lambda _, flags: self.answered.set())


def _backend() -> ModuleType:
    module: Any = ModuleType("triton_python_backend_utils")
    module.Logger = SimpleNamespace(log_info=print, log_verbose=print)
    module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    module.Tensor = lambda name, values: (name, values)
    module.InferenceResponse = lambda outputs: dict(outputs)
    module.get_input_tensor_by_name = lambda request, name: (
        SimpleNamespace(as_numpy=lambda: request.images) if name == "IMAGE" else None
    )
    return module


@pytest.fixture
def step() -> Iterator[Any]:
    """The adapter, for which an image is prepared when the gate of its name opens."""
    with mock.patch.dict(sys.modules, {"triton_python_backend_utils": _backend()}):
        spec = importlib.util.spec_from_file_location("first_step", STEP / "1" / "model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    config = text_format.Parse((STEP / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    parameters = {name: {"string_value": value.string_value} for name, value in config.parameters.items()}
    gates = {name: threading.Event() for name in (b"first", b"second", b"third")}
    prepared: list[weakref.ref[Prepared]] = []

    def prepare(image: bytes, *_: object) -> Prepared:
        assert gates[image].wait(LONG)
        result = Prepared("ok", "", BLANKS, None, b"")
        prepared.append(weakref.ref(result))
        return result

    with mock.patch.object(module, "prepare", prepare), mock.patch.object(module.os, "cpu_count", return_value=4):
        model = module.TritonPythonModel()
        model.initialize({"model_config": json.dumps({"parameters": parameters}), "model_repository": str(STEP)})
        yield SimpleNamespace(module=module, model=model, gates=gates, prepared=prepared)
        for gate in gates.values():
            gate.set()
        model.finalize()


def test_a_single_image_is_answered_by_the_step_itself_where_it_is_idle(step: Any) -> None:
    step.gates[b"first"].set()
    with mock.patch.object(step.module, "QUICK", LONG):
        (response,) = step.model.execute([Request(b"first")])
    assert response["IMAGE_STATUS"].tolist() == [["ok"]]


def test_while_an_image_is_in_work_the_next_one_is_waited_for_by_nobody(step: Any) -> None:
    first, second = Request(b"first"), Request(b"second")
    with mock.patch.object(step.module, "QUICK", 0.001):
        assert step.model.execute([first]) == [None]
    with mock.patch.object(step.module, "QUICK", LONG):  # who waits now never gets to open the gate
        assert step.model.execute([second]) == [None]
    step.gates[b"second"].set()
    assert second.answered.wait(LONG)
    assert not first.answered.is_set()
    step.gates[b"first"].set()
    assert first.answered.wait(LONG)


def test_pixels_are_given_back_when_they_are_answered_not_when_python_collects_circles(step: Any) -> None:
    request = Request(b"first")
    gc.disable()
    try:
        with mock.patch.object(step.module, "QUICK", 0.001):
            assert step.model.execute([request]) == [None]
        step.gates[b"first"].set()
        assert request.answered.wait(LONG)
        deadline = time.monotonic() + LONG
        while step.prepared[0]() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert step.prepared[0]() is None
    finally:
        gc.enable()
