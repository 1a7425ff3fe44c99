"""The runtime that the server uses, in this process: pixels to logits."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tritonclient.grpc import InferenceServerClient

from ensemble.images import RgbImage
from ensemble.streams import STREAMS, Stream

Session = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""uint8 [N, S, S, 3] to the logits, float32 [N, 2]."""

_OPENVINO_PRECISION = "INFERENCE_PRECISION_HINT"


@dataclass(frozen=True)
class Runtime:
    """What runs the networks. Threads are its own choice: one a core, as a user gets who sets nothing.

    Attributes:
        name: The runtime.
        precision: OpenVINO's `INFERENCE_PRECISION_HINT`; None leaves it the choice, which is bfloat16 where the
            processor has it. ONNX Runtime computes in float32.
    """

    name: Literal["onnxruntime", "openvino"]
    precision: str | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.precision}" if self.precision else self.name


def served_runtime(url: str) -> Runtime:
    """The runtime of a server's streams, as its configuration says.

    Raises:
        ValueError: Streams differ, or it is one that is not known here.
    """
    with InferenceServerClient(url) as server:
        configs = [server.get_model_config(stream.name).config for stream in STREAMS]
    found = {runtime_of(config) for config in configs}
    if len(found) != 1:
        raise ValueError(f"the streams run on different runtimes: {sorted(map(str, found))}")
    return found.pop()


def open_session(repository: Path, stream: Stream, runtime: Runtime) -> Session:
    """Load a stream of a model repository."""
    model = repository / stream.name / "1" / "model.onnx"
    if runtime.name == "openvino":
        openvino: Any = importlib.import_module("openvino")
        options = {_OPENVINO_PRECISION: runtime.precision} if runtime.precision else {}
        request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        return lambda pixels: np.array(request.infer({"PIXELS": pixels})["LOGITS"], np.float32)
    session = ort.InferenceSession(model)
    return lambda pixels: np.asarray(session.run(["LOGITS"], {"PIXELS": pixels})[0], np.float32)


def run_batches(session: Session, pixels: list[RgbImage], batch_size: int) -> npt.NDArray[np.float32]:
    """The logits of any number of images, float32 [N, 2]."""
    starts = range(0, len(pixels), batch_size)
    return np.concatenate([session(np.stack(pixels[start : start + batch_size])) for start in starts])


def runtime_of(config: Any) -> Runtime:
    """The runtime that a model configuration (Triton's protobuf message) names.

    Raises:
        ValueError: It is one that is not known here.
    """
    names: dict[str, Literal["onnxruntime", "openvino"]] = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
    if config.backend not in names:
        raise ValueError(f"{config.name} runs on the backend {config.backend!r}; known here are {', '.join(names)}")
    return Runtime(names[config.backend], config.parameters[_OPENVINO_PRECISION].string_value or None)
