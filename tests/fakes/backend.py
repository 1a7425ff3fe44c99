"""What a step finds inside the server, `triton_python_backend_utils`, for steps that are tested outside of it."""

import importlib.util
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.golden import ROOT

LONG = 60.0


class TritonError:
    UNAVAILABLE, INVALID_ARG, INTERNAL = "UNAVAILABLE", "INVALID_ARG", "INTERNAL"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> str:
        return self._code


class Tensor:
    def __init__(self, name: str, values: np.ndarray) -> None:
        self._name, self._values = name, values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        self._error = error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class Request:
    """A request to a step, that notes what is sent to it later.

    Args:
        parameters: As JSON.
        wanted: Names of the outputs that are asked for.
        tensors: Its inputs by their names.
    """

    def __init__(self, *, parameters: str = "", wanted: Sequence[str] = (), **tensors: Any) -> None:
        self.tensors = {name: np.asarray(values) for name, values in tensors.items()}
        self._parameters, self._wanted = parameters, list(wanted)
        self._sent: list[tuple[InferenceResponse, int]] = []
        self.answered = threading.Event()

    def parameters(self) -> str:
        return self._parameters

    def requested_output_names(self) -> list[str]:
        return self._wanted

    def get_response_sender(self) -> "Request":
        return self

    def send(self, response: InferenceResponse, flags: int) -> None:
        self._sent.append((response, flags))
        self.answered.set()

    def answer(self) -> InferenceResponse:
        """The one response that was sent, and the last one that there is to be."""
        assert self.answered.wait(LONG)
        ((response, flags),) = self._sent
        assert flags == Backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        return response


class Metric:
    def __init__(self, labels: dict[str, str]) -> None:
        self.labels, self.value = labels, 0.0

    def increment(self, by: float) -> None:
        self.value += by

    def set(self, value: float) -> None:
        self.value = value


class Backend(ModuleType):
    """The module.

    Attributes:
        models: What other models of the server answer, by their names: from a request's inputs to a response.
        asked: The requests to other models, in order.
        log: What was logged, with its level.
        families: The families of metrics that were made, each with its metrics.
    """

    TritonError, Tensor, InferenceResponse = TritonError, Tensor, InferenceResponse
    TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    TRITONSERVER_MEMORY_CPU = "cpu"

    def __init__(self) -> None:
        super().__init__("triton_python_backend_utils")
        self.models: dict[str, Callable[[Mapping[str, np.ndarray]], InferenceResponse]] = {}
        self.asked: list[Any] = []
        self.log: list[tuple[str, str]] = []
        self.families: dict[str, Any] = {}
        backend = self

        class Logger:
            log_info = staticmethod(lambda text: backend.log.append(("info", text)))
            log_warn = staticmethod(lambda text: backend.log.append(("warning", text)))
            log_error = staticmethod(lambda text: backend.log.append(("error", text)))
            log_verbose = staticmethod(lambda text: backend.log.append(("verbose", text)))

        class InferenceRequest:
            def __init__(self, **given: Any) -> None:
                self.model, self.wanted = given["model_name"], given["requested_output_names"]
                self.memory = given.get("preferred_memory")
                self.inputs = {tensor.name(): tensor.as_numpy() for tensor in given["inputs"]}

            def exec(self) -> InferenceResponse:
                backend.asked.append(self)
                return backend.models[self.model](self.inputs)

        class MetricFamily:
            COUNTER, GAUGE = "counter", "gauge"

            def __init__(self, name: str, description: str, kind: str) -> None:
                self.kind, self.metrics = kind, list[Metric]()
                backend.families[name] = self

            def Metric(self, labels: dict[str, str]) -> Metric:  # noqa: N802 - the backend's name
                self.metrics.append(Metric(labels))
                return self.metrics[-1]

        self.Logger, self.InferenceRequest, self.MetricFamily = Logger, InferenceRequest, MetricFamily

    @staticmethod
    def PreferredMemory(kind: str) -> str:  # noqa: N802 - the backend's name
        return kind

    @staticmethod
    def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
        return Tensor(name, request.tensors[name]) if name in request.tensors else None

    @staticmethod
    def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor | None:
        return Tensor(name, response.outputs[name]) if name in response.outputs else None

    def load(self, file: Path) -> Any:
        """A step's module, or a backend's, which finds this one.

        What it imports stays imported: some libraries, such as OpenVINO, can be loaded once in a process.
        """
        spec = importlib.util.spec_from_file_location("step_under_test", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, self.__name__, self)
            patch.setitem(sys.modules, spec.name, module)  # where its data classes look for their module
            spec.loader.exec_module(module)
        return module

    def load_step(self, name: str) -> Any:
        """The module of a step of the repository."""
        return self.load(ROOT / "model_repository" / name / "1" / "model.py")


def column(*values: Any) -> np.ndarray:
    """Texts or encoded images as a tensor [N, 1]."""
    return np.array([[value] for value in values], np.object_)
