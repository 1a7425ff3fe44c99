"""The runtime that the server uses, in this process: pixels to logits."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tritonclient.grpc import InferenceServerClient

from benchmarks.common.machine import this_machine
from ensemble.images import RgbImage
from ensemble.streams import STREAMS, Stream

Session = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""uint8 [N, S, S, 3] to the logits, float32 [N, 2]."""

_ASKS_FOR_BFLOAT16 = "HINT_BF16"
"""A model's parameter: without it the server's OpenVINO computes in float32."""

Name = Literal["onnxruntime", "openvino"]


@dataclass(frozen=True)
class Runtime:
    """What runs the networks. How many threads is its own choice: one a core, as a user gets who sets nothing.

    Attributes:
        name: The runtime.
        precision: Of OpenVINO, f32 or bf16 (where the processor has it); None with ONNX Runtime, which computes in
            float32.
    """

    name: Name
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
    bfloat16 = this_machine().bfloat16
    found = {runtime_of(config, bfloat16=bfloat16) for config in configs}
    if len(found) != 1:
        raise ValueError(f"the streams run on different runtimes: {sorted(map(str, found))}")
    return found.pop()


def open_session(repository: Path, stream: Stream, runtime: Runtime) -> Session:
    """Load a stream of a model repository."""
    model = repository / stream.name / "1" / "model.onnx"
    if runtime.name == "openvino":
        openvino: Any = importlib.import_module("openvino")
        request = openvino.Core().compile_model(model, "CPU", openvino_properties(runtime)).create_infer_request()
        return lambda pixels: np.array(request.infer({"PIXELS": pixels})["LOGITS"], np.float32)
    session = ort.InferenceSession(model, session_options())
    return lambda pixels: np.asarray(session.run(["LOGITS"], {"PIXELS": pixels})[0], np.float32)


def session_options() -> ort.SessionOptions:
    """ONNX Runtime's, as the server sets them: the threads of three sessions must not spin while they wait."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def openvino_properties(runtime: Runtime) -> dict[str, Any]:
    """OpenVINO's, as the server sets them."""
    precision = {"INFERENCE_PRECISION_HINT": runtime.precision} if runtime.precision else {}
    return {**precision, "ENABLE_CPU_PINNING": False, "NUM_STREAMS": "1"}


def run_batches(session: Session, pixels: list[RgbImage], batch_size: int) -> npt.NDArray[np.float32]:
    """The logits of any number of images, float32 [N, 2]."""
    starts = range(0, len(pixels), batch_size)
    return np.concatenate([session(np.stack(pixels[start : start + batch_size])) for start in starts])


def runtime_of(config: Any, *, bfloat16: bool) -> Runtime:
    """The runtime that a model configuration (Triton's protobuf message) names.

    Args:
        config: The configuration.
        bfloat16: Whether the processor has it; without it the server computes in float32, whatever is asked for.

    Raises:
        ValueError: It is one that is not known here.
    """
    if config.backend not in get_args(Name):
        raise ValueError(f"{config.name} runs on {config.backend!r}; known here are {', '.join(get_args(Name))}")
    if config.backend == "onnxruntime":
        return Runtime("onnxruntime")
    return Runtime("openvino", "bf16" if bfloat16 and _ASKS_FOR_BFLOAT16 in config.parameters else "f32")
