"""The face crop's networks: from the weights files of `retina-face`, `gfpgan` and `facexlib` to validated ONNX models.

`face_detector` finds faces; for the attempts with GFPGAN, `face_aligner` finds those that `face_restorer` restores.
Around them are `ensemble.faces.retinaface` and `ensemble.faces.gfpgan`.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from torch import nn

from ensemble.faces import retinaface
from ensemble.faces.gfpgan import ALIGNER_INPUT, ALIGNER_OUTPUTS, FACE_SIDE, RESTORER_INPUT, RESTORER_OUTPUTS
from export.face_graph import Task, batches_of_two_sizes, compare, to_onnx
from export.graph import save_model
from export.half import to_half
from export.manifest import require_hashes
from export.parity import Difference, require_parity, sample_batches
from networks.gfpgan_checkpoints import is_random, load_face_aligner, load_face_restorer
from networks.retinaface import is_random_retinaface, load_retinaface

DETECTOR = "face_detector"
ALIGNER = "face_aligner"
RESTORER = "face_restorer"
"""Of the models in the Triton repository."""

FACE_MODELS = (DETECTOR, ALIGNER, RESTORER)
"""Models that are there only where their weights were; each has its config.pbtxt beside this file, as NAME.pbtxt."""


@dataclass(frozen=True)
class FaceModelExport:
    """What came of one of the models.

    Attributes:
        name: Of `FACE_MODELS`.
        weights: Its weights files.
        sha256: Hash of each, hexadecimal.
        untrained: Whether weights are random.
        precision: Of `export.half.PRECISIONS`.
        files: The model's files.
        size: Bytes of those.
        seconds: Time that it took.
        differences: The model against torch; of fp16, computed in float16 arithmetic.
    """

    name: str
    weights: tuple[Path, ...]
    sha256: tuple[str, ...]
    untrained: bool
    precision: str
    files: tuple[Path, ...]
    size: int
    seconds: float
    differences: tuple[Difference, ...]


def export_face_detector(
    weights: Path, folder: Path, *, precision: str = "fp32", on_stage: Callable[[str], None] = lambda stage: None
) -> FaceModelExport:
    """Export RetinaFace to ONNX and hold the result against the network.

    Args:
        weights: `retinaface.h5` (`networks.retinaface.load_retinaface`).
        folder: Where the model's files are written; files of the same name are overwritten.
        precision: Of `export.half.PRECISIONS`.
        on_stage: Called with what begins, for people.

    Returns:
        What was written and how it compares. The model takes `INPUT` uint8 [batch, height, width, 3] and gives
        `OUTPUTS` float32 [batch, rows, columns, channels] (`ensemble.faces.retinaface`); batch, height and width are
        free.

    Raises:
        CheckpointError: The weights cannot be used.
        ManifestError: They are not what the manifest beside them says.
        ParityError: The model computes something else than the network; its files are in the folder.
        HalfRangeError: With precision fp16, a weight or a value on the way is beyond float16.
        ExportError: The graph is not as it should be.
    """
    return _export(
        Task(DETECTOR, (weights,), retinaface.INPUT, retinaface.OUTPUTS, batches_of_two_sizes(), free_size=True),
        lambda: load_retinaface(weights),
        lambda network: is_random_retinaface(weights),
        folder,
        on_stage,
        precision,
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
        Task(ALIGNER, (weights,), ALIGNER_INPUT, ALIGNER_OUTPUTS, batches_of_two_sizes(), free_size=True),
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
        Task(
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


def _export(
    task: Task,
    load: Callable[[], nn.Module],
    has_random_weights: Callable[[nn.Module], bool],
    folder: Path,
    on_stage: Callable[[str], None],
    precision: str = "fp32",
) -> FaceModelExport:
    start = time.monotonic()
    on_stage(f"reading {' and '.join(path.name for path in task.weights)}")
    network = load()
    untrained = has_random_weights(network)
    hashes = tuple(_sha256(path) for path in task.weights)
    require_hashes(dict(zip(task.weights, hashes, strict=True)))
    on_stage("tracing it to ONNX")
    model = to_onnx(network, task)
    if precision == "fp16":
        to_half(model)
    on_stage("writing the model")
    metadata = {
        "checkpoint": ", ".join(path.name for path in task.weights),
        "checkpoint_sha256": ", ".join(hashes),
        "untrained": str(untrained).lower(),
        "precision": precision,
        "exporter": ", ".join(f"{package} {version(package)}" for package in ("torch", "onnx", "onnxscript")),
    }
    files = save_model(model, folder, metadata)
    on_stage("validating it in ONNX Runtime")
    differences = compare(network, files[0], task, precision)
    require_parity(task.name, differences)
    return FaceModelExport(
        name=task.name,
        weights=task.weights,
        sha256=hashes,
        untrained=untrained,
        precision=precision,
        files=tuple(files),
        size=sum(file.stat().st_size for file in files),
        seconds=time.monotonic() - start,
        differences=tuple(differences),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
