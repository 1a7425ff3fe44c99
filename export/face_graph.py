"""A face network as an ONNX graph, and whether the graph computes what the network computes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from ensemble.faces.gfpgan import FACE_SIDE
from export.errors import ExportError
from export.graph import OPSET, quiet
from export.half_arithmetic import HalfArithmetic, require_range
from export.parity import Difference, Pixels, open_session, sample_batches

TOLERANCES: Mapping[str, float] = {"SCORES": 1e-4, "BOXES": 1e-3, "LANDMARKS": 1e-3, "RESTORED": 1, "CLASSES": 1e-3}
"""Largest difference allowed by output.

Of floating-point outputs: times the largest absolute value where that is above 1 (offsets are in widths of an anchor:
1e-3 moves a box by half a pixel of 1024 at most). RESTORED: levels of 256, as a value between two of them may be
rounded to either. CLASSES: the share of pixels whose class is another.
"""

HALF_TOLERANCES: Mapping[str, float] = {"SCORES": 2e-2, "BOXES": 1e-2, "LANDMARKS": 1e-2}
"""The same for float16."""

_SMALLEST_SIDE = 33
"""Of images of any size: below, the exporter would take the number of cells for the constant 1."""


@dataclass(frozen=True)
class Task:
    """What is exported, and how it is tried."""

    name: str
    weights: tuple[Path, ...]
    input: str
    outputs: tuple[str, ...]
    batches: Mapping[str, Pixels]
    free_size: bool


def batches_of_two_sizes() -> dict[str, Pixels]:
    """Images whose sides are multiples of all strides, and of none."""
    return {
        f"{name} {height}×{width}": sample_batches(max(height, width))[name][:, :height, :width].copy()
        for name, height, width in (("scene", 96, 128), ("mixed", 101, 75))
    }


def to_onnx(network: nn.Module, task: Task) -> ir.Model:
    """Trace a network into an ONNX graph; batch, and height and width where the task says so, are free."""
    free = {0: torch.export.Dim("batch")}
    if task.free_size:
        free |= {
            1: torch.export.Dim("height", min=_SMALLEST_SIDE),
            2: torch.export.Dim("width", min=_SMALLEST_SIDE),
        }
    example = (75, 101) if task.free_size else (FACE_SIDE, FACE_SIDE)
    with quiet():
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *example, 3, dtype=torch.uint8),),
            dynamo=True,
            verbose=False,
            input_names=[task.input],
            output_names=task.outputs,
            dynamic_shapes=(free,),
            opset_version=OPSET,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no model")
    ClearMetadataAndDocStringPass()(program.model)  # source lines of the network with their paths on this machine
    _require_free_axes(program.model, free)
    return program.model


def _require_free_axes(model: ir.Model, free: Mapping[int, object]) -> None:
    """Refuses a graph whose input has a fixed axis that should be free, or that gives a fixed number of images."""
    axes: list[tuple[ir.Value, Sequence[int]]] = [(model.graph.inputs[0], tuple(free))]
    axes += [(output, (0,)) for output in model.graph.outputs]
    fixed = [
        str(value.name)
        for value, free_axes in axes
        if value.shape is None or any(isinstance(value.shape[axis], int) for axis in free_axes)
    ]
    if fixed:
        raise ExportError(f"the exported graph has a fixed batch, height or width in {', '.join(fixed)}")


def compare(network: nn.Module, model: Path, task: Task, precision: str) -> list[Difference]:
    """Measure how far a model's outputs are from the network's, in float16 arithmetic where that is its precision.

    Raises:
        HalfRangeError: A value is beyond float16.
    """
    half = HalfArithmetic(model) if precision == "fp16" else None
    session = None if half else open_session(model)
    tolerances = HALF_TOLERANCES if half else TOLERANCES
    differences = []
    for name, pixels in task.batches.items():
        with torch.inference_mode():
            expected = [output.numpy() for output in network(torch.from_numpy(pixels))]
        actual: Sequence[NDArray[np.generic]]
        if half:
            actual, ranges = half.run(pixels)
            require_range(task.name, ranges)
        elif session:
            actual = session.run(list(task.outputs), {task.input: pixels})
        for output, reference, value in zip(task.outputs, expected, actual, strict=True):
            tolerance = tolerances[output.split("_")[0]]
            if reference.shape != value.shape or reference.dtype != value.dtype:
                largest = float("nan")
            elif output == "CLASSES":
                largest = float((reference != value).mean())
            else:
                largest = float(np.abs(reference.astype(np.float32) - value).max())
            if reference.dtype == np.float32:
                tolerance *= max(1.0, float(np.abs(reference).max()))
            differences.append(Difference(name, len(pixels), output, largest, tolerance))
    return differences
