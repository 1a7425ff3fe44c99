"""Engines built ahead of time by TensorRT for RTX, on a machine without a GPU, and what became of the graph in them.

TensorRT for RTX is NVIDIA's real parser and builder, of the same code as TensorRT 11. It compiles for GPUs that are not
there. That a model builds, into one subgraph and with fused attention, is seen here; no kernel is run, so neither its
results nor its speed are.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from export.errors import TensorrtError
from export.half.conversion import LARGEST
from export.tensorrt.engine import EngineProfile

CAPABILITIES = (80, 86, 89, 120)
"""Compute capabilities to build for: A100, A10, L4 and RTX 40, RTX 50. TensorRT for RTX has none for Hopper (90)."""

_MYELIN = re.compile(r"\{ForeignNode\[[^]]*\]\}")
_LAYER = re.compile(r"^Name: (?P<name>\S+), LayerType: (?P<kind>\w+)", re.MULTILINE)
_FUSED_ATTENTION = re.compile(r"_mha_")
_ALONE = re.compile(r"^(__myl_(Cast|Move|Refo\w*)+_myl|Reformatting)", re.IGNORECASE)


@dataclass(frozen=True)
class Built:
    """An engine and what the builder told of it.

    Attributes:
        capability: What it is for, such as 89.
        size: Bytes.
        seconds: Time of the build.
        activations: Bytes of memory for the largest batch, beside the weights.
        subgraphs: Pieces that the graph was cut into; one is compiled as a whole.
        layers: Names of its kernels, in order.
        messages: Warnings.
    """

    capability: int
    size: int
    seconds: float
    activations: int
    subgraphs: int
    layers: tuple[str, ...]
    messages: tuple[str, ...]

    @property
    def fused_attentions(self) -> int:
        """Kernels that compute an attention whole, without its probabilities in memory."""
        return sum(bool(_FUSED_ATTENTION.search(layer)) for layer in self.layers)

    @property
    def alone(self) -> tuple[str, ...]:
        """Kernels that only cast or reorder."""
        return tuple(layer for layer in self.layers if _ALONE.search(layer))

    def problems(self, attentions: int | None) -> list[str]:
        """Say what is not as it should be.

        Args:
            attentions: How many have to be fused; None where it does not matter.
        """
        found = [f"warning: {message}" for message in self.messages]
        if self.subgraphs != 1:
            found.append(f"cut into {self.subgraphs} subgraphs")
        if attentions is not None and self.fused_attentions != attentions:
            found.append(f"{self.fused_attentions} fused attentions, not {attentions}")
        if attentions is not None and self.alone:
            found.append(f"only cast or reorder: {', '.join(self.alone)}")
        return found


def build_ahead(model: Path, profile: EngineProfile, capability: int) -> Built:
    """Parse and build a model for a GPU that is not here.

    Args:
        model: The ONNX file, strongly typed.
        profile: Shapes to build for.
        capability: Of `CAPABILITIES`.

    Raises:
        TensorrtError: It cannot be parsed or built, with what the builder says.
    """
    trt = _tensorrt()
    logger, log = _logger(trt)
    log.clear()
    start = time.monotonic()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        errors = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise TensorrtError(f"{model}: not parsed: {errors}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.__members__[f"SM{capability}"], 0)
    shapes = builder.create_optimization_profile()
    shapes.set_shape(network.get_input(0).name, profile.smallest, profile.optimal, profile.largest)
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        errors = "; ".join(message for severity, message in log if "ERROR" in severity)
        raise TensorrtError(f"{model}: not built for SM{capability}: {errors}")
    return read_log(log, capability, plan.nbytes, time.monotonic() - start)


def read_log(log: Sequence[tuple[str, str]], capability: int, size: int, seconds: float) -> Built:
    """Find in a builder's log what became of the graph.

    Args:
        log: Severity and text of each message; the verbose ones are needed.
        capability: What was built for.
        size: Bytes of the engine.
        seconds: Time of the build.
    """
    text = "\n".join(message for _, message in log)
    memory = re.search(r"Total Activation Memory: (\d+)", text)
    return Built(
        capability=capability,
        size=size,
        seconds=seconds,
        activations=int(memory[1]) if memory else 0,
        subgraphs=len(set(_MYELIN.findall(text))),
        layers=tuple(match["name"] for match in _LAYER.finditer(text)),
        messages=tuple(message for severity, message in log if "WARNING" in severity or "ERROR" in severity),
    )


def weights_beyond_half(model: Path) -> list[str]:
    """Name the float16 weights of a model that are not finite or beyond float16."""
    beyond = []
    for name, value in ir.load(model).graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype is ir.DataType.FLOAT16:
            largest = float(np.abs(tensor.numpy().astype(np.float32)).max(initial=0))
            if not largest <= LARGEST:
                beyond.append(name)
    return beyond


_LOGS: dict[str, Any] = {}


def _logger(trt: Any) -> tuple[Any, list[tuple[str, str]]]:
    """Give the process's one logger, since TensorRT keeps to the first, and its messages."""
    if not _LOGS:
        messages: list[tuple[str, str]] = []

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: object, message: str) -> None:
                messages.append((str(severity), message))

        _LOGS.update(logger=Logger(), messages=messages)
    return _LOGS["logger"], _LOGS["messages"]


def builder_version() -> str:
    """Of TensorRT for RTX.

    Raises:
        TensorrtError: It is not installed.
    """
    return str(_tensorrt().__version__)


def _tensorrt() -> Any:
    try:
        import tensorrt_rtx
    except ImportError as error:
        raise TensorrtError(
            f"TensorRT for RTX cannot be imported ({error}): pip install --editable '.[tensorrt-check]'"
        ) from error
    return tensorrt_rtx
