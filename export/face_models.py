"""The face crop's networks: from the weights files of `retina-face`, `gfpgan` and `facexlib` to validated ONNX models.

`face_detector` finds faces; for the attempts with GFPGAN, `face_aligner` finds those that `face_restorer` restores.
Around them are `ensemble.faces.retinaface` and `ensemble.faces.gfpgan`.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from ensemble.faces import retinaface
from ensemble.faces.gfpgan import ALIGNER_INPUT, ALIGNER_OUTPUTS, FACE_SIDE, RESTORER_INPUT, RESTORER_OUTPUTS
from export.errors import ExportError
from export.graph import OPSET, quiet, save_model
from export.manifest import require_hashes
from export.parity import Difference, Pixels, require_parity, sample_batches
from networks.gfpgan_checkpoints import is_random, load_face_aligner, load_face_restorer
from networks.retinaface import is_random_retinaface, load_retinaface

DETECTOR = "face_detector"
ALIGNER = "face_aligner"
RESTORER = "face_restorer"
"""Of the models in the Triton repository."""

FACE_MODELS = (DETECTOR, ALIGNER, RESTORER)
"""Models that are there only where their weights were; each has its config.pbtxt beside this file, as NAME.pbtxt."""

PRECISION = "fp32"

TOLERANCES: Mapping[str, float] = {"SCORES": 1e-4, "BOXES": 1e-3, "LANDMARKS": 1e-3, "RESTORED": 1, "CLASSES": 1e-3}
"""Largest difference allowed by output.

Of floating-point outputs: times the largest absolute value where that is above 1 (offsets are in widths of an anchor:
1e-3 moves a box by half a pixel of 1024 at most). RESTORED: levels of 256, as a value between two of them may be
rounded to either. CLASSES: the share of pixels whose class is another.
"""

_SMALLEST_SIDE = 33
"""Of images of any size: below, the exporter would take the number of cells for the constant 1."""


@dataclass(frozen=True)
class FaceModelExport:
    """What came of one of the models.

    Attributes:
        name: Of `FACE_MODELS`.
        weights: Its weights files.
        sha256: Hash of each, hexadecimal.
        untrained: Whether weights are random.
        files: The model's files.
        size: Bytes of those.
        seconds: Time that it took.
        differences: ONNX Runtime against torch.
    """

    name: str
    weights: tuple[Path, ...]
    sha256: tuple[str, ...]
    untrained: bool
    files: tuple[Path, ...]
    size: int
    seconds: float
    differences: tuple[Difference, ...]


def export_face_detector(
    weights: Path, folder: Path, *, on_stage: Callable[[str], None] = lambda stage: None
) -> FaceModelExport:
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
        ManifestError: They are not what the manifest beside them says.
        ParityError: The model computes something else than the network; its files are in the folder.
        ExportError: The graph is not as it should be.
    """
    return _export(
        _Task(DETECTOR, (weights,), retinaface.INPUT, retinaface.OUTPUTS, _batches_of_two_sizes(), free_size=True),
        lambda: load_retinaface(weights),
        lambda network: is_random_retinaface(weights),
        folder,
        on_stage,
    )


def export_face_aligner(
    weights: Path, folder: Path, *, on_stage: Callable[[str], None] = lambda stage: None
) -> FaceModelExport:
    """Export facexlib's RetinaFace to ONNX, float32, and hold the result against the network.

    Args:
        weights: `detection_Resnet50_Final.pth` (`networks.gfpgan_checkpoints`).
        folder: Where the model's files are written; files of the same name are overwritten.
        on_stage: Called with what begins, for people.

    Returns:
        What was written and how it compares. The model takes `ALIGNER_INPUT` and gives `ALIGNER_OUTPUTS`
        (`ensemble.faces.gfpgan`); batch, height and width are free.

    Raises:
        CheckpointError: The weights cannot be used.
        ManifestError: They are not what the manifest beside them says.
        ParityError: The model computes something else than the network; its files are in the folder.
        ExportError: The graph is not as it should be.
    """
    return _export(
        _Task(ALIGNER, (weights,), ALIGNER_INPUT, ALIGNER_OUTPUTS, _batches_of_two_sizes(), free_size=True),
        lambda: load_face_aligner(weights),
        is_random,
        folder,
        on_stage,
    )


def export_face_restorer(
    gfpgan_weights: Path,
    parsenet_weights: Path,
    folder: Path,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> FaceModelExport:
    """Export GFPGAN with ParseNet behind it to ONNX, float32, and hold the result against the networks.

    Args:
        gfpgan_weights: `GFPGANv1.4.pth` (`networks.gfpgan_checkpoints`).
        parsenet_weights: `parsing_parsenet.pth`.
        folder: Where the model's files are written; files of the same name are overwritten.
        on_stage: Called with what begins, for people.

    Returns:
        What was written and how it compares. The model takes `RESTORER_INPUT` and gives `RESTORER_OUTPUTS`
        (`ensemble.faces.gfpgan`); the batch is free.

    Raises:
        CheckpointError: The weights cannot be used.
        ManifestError: They are not what the manifest beside them says.
        ParityError: The model computes something else than the networks; its files are in the folder.
        ExportError: The graph is not as it should be.
    """
    samples = sample_batches(FACE_SIDE)
    return _export(
        _Task(
            RESTORER,
            (gfpgan_weights, parsenet_weights),
            RESTORER_INPUT,
            RESTORER_OUTPUTS,
            {"scene": samples["scene"], "mixed": samples["mixed"][:2]},
            free_size=False,
        ),
        lambda: load_face_restorer(gfpgan_weights, parsenet_weights),
        is_random,
        folder,
        on_stage,
    )


@dataclass(frozen=True)
class _Task:
    name: str
    weights: tuple[Path, ...]
    input: str
    outputs: tuple[str, ...]
    batches: Mapping[str, Pixels]
    free_size: bool


def _batches_of_two_sizes() -> dict[str, Pixels]:
    """Images whose sides are multiples of all strides, and of none."""
    return {
        f"{name} {height}×{width}": sample_batches(max(height, width))[name][:, :height, :width].copy()
        for name, height, width in (("scene", 96, 128), ("mixed", 101, 75))
    }


def _export(
    task: _Task,
    load: Callable[[], nn.Module],
    has_random_weights: Callable[[nn.Module], bool],
    folder: Path,
    on_stage: Callable[[str], None],
) -> FaceModelExport:
    start = time.monotonic()
    on_stage(f"reading {' and '.join(path.name for path in task.weights)}")
    network = load()
    untrained = has_random_weights(network)
    hashes = tuple(_sha256(path) for path in task.weights)
    require_hashes(dict(zip(task.weights, hashes, strict=True)))
    on_stage("tracing it to ONNX")
    model = _to_onnx(network, task)
    on_stage("writing the model")
    metadata = {
        "checkpoint": ", ".join(path.name for path in task.weights),
        "checkpoint_sha256": ", ".join(hashes),
        "untrained": str(untrained).lower(),
        "precision": PRECISION,
        "exporter": ", ".join(f"{package} {version(package)}" for package in ("torch", "onnx", "onnxscript")),
    }
    files = save_model(model, folder, metadata)
    on_stage("validating it in ONNX Runtime")
    differences = _compare(network, files[0], task)
    require_parity(task.name, differences)
    return FaceModelExport(
        name=task.name,
        weights=task.weights,
        sha256=hashes,
        untrained=untrained,
        files=tuple(files),
        size=sum(file.stat().st_size for file in files),
        seconds=time.monotonic() - start,
        differences=tuple(differences),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_onnx(network: nn.Module, task: _Task) -> ir.Model:
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


def _compare(network: nn.Module, model: Path, task: _Task) -> list[Difference]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    differences = []
    for name, pixels in task.batches.items():
        with torch.inference_mode():
            expected = [output.numpy() for output in network(torch.from_numpy(pixels))]
        actual = session.run(list(task.outputs), {task.input: pixels})
        for output, reference, value in zip(task.outputs, expected, actual, strict=True):
            tolerance = TOLERANCES[output.split("_")[0]]
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
