"""The face detector: from the weights file of the package `retina-face` to a validated ONNX model."""

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from ensemble.faces.retinaface import INPUT, OUTPUTS
from export.errors import ExportError
from export.graph import OPSET, save_model
from export.parity import Difference, Outputs, Pixels, require_parity, sample_batches
from networks.retinaface import RetinaFace, is_random_retinaface, load_retinaface

NAME = "face_detector"
"""Of the model in the Triton repository."""

PRECISION = "fp32"

TOLERANCES: Mapping[str, float] = {"SCORES": 1e-4, "BOXES": 1e-3, "LANDMARKS": 1e-3}
"""Largest difference allowed by head, times the largest absolute value of the output where that is above 1.

An offset is in widths of its anchor: 1e-3 moves a box by half a pixel of 1024 at most.
"""

_SMALLEST_SIDE = 33
"""Two cells of the coarsest level: below, the exporter would take the number of cells for the constant 1."""

_COMPARED = (("scene", 96, 128), ("mixed", 101, 75))
"""Which of `sample_batches`, and the height and width of the images: multiples of all strides, and of none."""


@dataclass(frozen=True)
class FaceDetectorExport:
    """What came of the face detector.

    Attributes:
        name: Of the model in the Triton repository.
        weights: Its weights file.
        sha256: Hash of that, hexadecimal.
        untrained: Whether the weights are random.
        files: The model's files.
        size: Bytes of the files.
        seconds: Time that it took.
        differences: ONNX Runtime against torch.
    """

    name: ClassVar[str] = NAME
    weights: Path
    sha256: str
    untrained: bool
    files: tuple[Path, ...]
    size: int
    seconds: float
    differences: tuple[Difference, ...]


def export_face_detector(
    weights: Path, folder: Path, *, on_stage: Callable[[str], None] = lambda stage: None
) -> FaceDetectorExport:
    """Export RetinaFace to ONNX, float32, and hold the result against the network.

    Args:
        weights: `retinaface.h5` (`networks.retinaface.load_retinaface`).
        folder: Where the model's files are written; files of the same name are overwritten.
        on_stage: Called with what begins, for people.

    Returns:
        What was written and how it compares. The model takes `INPUT` uint8 [batch, height, width, 3] and gives
        `OUTPUTS` float32 [batch, rows, columns, channels] (`ensemble.faces.retinaface`); batch, height and width are
        free.

    Raises:
        CheckpointError: The weights cannot be used.
        ParityError: The model computes something else than the network; its files are in the folder.
        ExportError: The graph is not as it should be.
    """
    start = time.monotonic()
    on_stage(f"reading {weights.name}")
    network = load_retinaface(weights)
    untrained = is_random_retinaface(weights)
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    on_stage("tracing it to ONNX")
    model = _to_onnx(network)
    on_stage("writing the model")
    metadata = {
        "checkpoint": weights.name,
        "checkpoint_sha256": sha256,
        "untrained": str(untrained).lower(),
        "precision": PRECISION,
        "exporter": ", ".join(f"{package} {version(package)}" for package in ("torch", "onnx", "onnxscript")),
    }
    files = save_model(model, folder, metadata)
    on_stage("validating it in ONNX Runtime")
    differences = _compare(network, files[0])
    require_parity(NAME, differences)
    return FaceDetectorExport(
        weights=weights,
        sha256=sha256,
        untrained=untrained,
        files=tuple(files),
        size=sum(file.stat().st_size for file in files),
        seconds=time.monotonic() - start,
        differences=tuple(differences),
    )


def _to_onnx(network: RetinaFace) -> ir.Model:
    free = {
        0: torch.export.Dim("batch"),
        1: torch.export.Dim("height", min=_SMALLEST_SIDE),
        2: torch.export.Dim("width", min=_SMALLEST_SIDE),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 75, 101, 3, dtype=torch.uint8),),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamic_shapes=(free,),
            opset_version=OPSET,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no model")
    ClearMetadataAndDocStringPass()(program.model)  # source lines of the network with their paths on this machine
    values = [*program.model.graph.inputs, *program.model.graph.outputs]
    fixed = [str(each.name) for each in values if each.shape is None or any(isinstance(n, int) for n in each.shape[:3])]
    if fixed:
        raise ExportError(f"the exported graph has a fixed batch, height or width in {', '.join(fixed)}")
    return program.model


def _compare(network: RetinaFace, model: Path) -> list[Difference]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    differences = []
    for name, pixels in _batches().items():
        with torch.inference_mode():
            expected: Outputs = tuple(output.numpy() for output in network(torch.from_numpy(pixels)))
        for output, reference, value in zip(
            OUTPUTS, expected, session.run(list(OUTPUTS), {INPUT: pixels}), strict=True
        ):
            same_shape = reference.shape == value.shape
            largest = float(np.abs(reference - value).max()) if same_shape else float("nan")
            tolerance = TOLERANCES[output.split("_")[0]] * max(1.0, float(np.abs(reference).max()))
            differences.append(Difference(name, len(pixels), output, largest, tolerance))
    return differences


def _batches() -> dict[str, Pixels]:
    return {
        f"{name} {height}×{width}": sample_batches(max(height, width))[name][:, :height, :width].copy()
        for name, height, width in _COMPARED
    }
