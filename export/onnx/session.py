"""ONNX Runtime on the CPU, for the few images of a comparison."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from export.samples import Pixels


def open_session(model: Path, *, optimised: bool = True) -> onnxruntime.InferenceSession:
    """Open a model file with ONNX Runtime on the CPU, for a few images: weights stay mapped from the file.

    Args:
        model: The file.
        optimised: Whether ONNX Runtime may rewrite the graph; of a float16 one it widens all weights then.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # In the order of the file: each weight is widened where it is used, and freed there.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    # Copying weights into another order does not pay.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_outputs(
    model: Path, batches: Mapping[str, Pixels], *, optimised: bool = True
) -> dict[str, tuple[NDArray[Any], ...]]:
    """Run a model file on each batch (`open_session`); all outputs, in the order of the graph."""
    session = open_session(model, optimised=optimised)
    pixels_input = session.get_inputs()[0].name
    return {name: tuple(session.run(None, {pixels_input: pixels})) for name, pixels in batches.items()}
