"""One stream: from its checkpoint to a validated ONNX model."""

import gc
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ensemble.streams import Stream
from export.graph import INLINE_LIMIT, free_weights, save_model, to_onnx
from export.manifest import require_hashes
from export.parity import Difference, compare, onnx_outputs, require_parity, sample_batches, torch_outputs
from networks import is_untrained, load_stream

PRECISION = "fp32"


@dataclass(frozen=True)
class StreamExport:
    """What came of one stream.

    Attributes:
        stream: The stream.
        checkpoint: Its checkpoint.
        sha256: Hash of the checkpoint, hexadecimal.
        untrained: Whether its weights are random.
        files: The model's files: model.onnx, and model.onnx.data where the weights lie beside it.
        size: Bytes of the files.
        seconds: Time that it took.
        differences: ONNX Runtime against torch.
    """

    stream: Stream
    checkpoint: Path
    sha256: str
    untrained: bool
    files: tuple[Path, ...]
    size: int
    seconds: float
    differences: tuple[Difference, ...]


def export_stream(
    stream: Stream,
    checkpoint: Path,
    folder: Path,
    *,
    inline_limit: int = INLINE_LIMIT,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> StreamExport:
    """Export a stream to ONNX and hold the result against the network.

    One copy of the weights is in memory at a time: the network is freed before ONNX Runtime reads the model.

    Args:
        stream: The stream.
        checkpoint: Its checkpoint (`networks.load_stream`).
        folder: Where the model's files are written; files of the same name are overwritten.
        inline_limit: Bytes of weights up to which they stay inside model.onnx.
        on_stage: Called with what begins, for people.

    Returns:
        What was written and how it compares.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ManifestError: It is not what the manifest beside it says.
        ParityError: The model computes something else than the network; its files are in the folder.
        ExportError: The graph is not as it should be.
    """
    start = time.monotonic()
    on_stage(f"reading {checkpoint.name}")
    network = load_stream(stream, checkpoint)
    untrained = is_untrained(stream, checkpoint, network)
    with checkpoint.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    require_hashes({checkpoint: sha256})
    on_stage("running the network")
    batches = sample_batches(stream.pixels)
    expected = torch_outputs(network, batches)
    on_stage("tracing it to ONNX")
    model = to_onnx(network, stream.pixels)
    on_stage("writing the model")
    metadata = {
        "stream": stream.name,
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": sha256,
        "untrained": str(untrained).lower(),
        "precision": PRECISION,
        "exporter": ", ".join(f"{package} {version(package)}" for package in ("torch", "onnx", "onnxscript")),
    }
    files = save_model(model, folder, metadata, inline_limit)
    free_weights(network, model)
    gc.collect()  # the exporter leaves cycles, too
    on_stage("validating it in ONNX Runtime")
    differences = compare(expected, onnx_outputs(files[0], batches))
    require_parity(stream.name, differences)
    return StreamExport(
        stream=stream,
        checkpoint=checkpoint,
        sha256=sha256,
        untrained=untrained,
        files=tuple(files),
        size=sum(file.stat().st_size for file in files),
        seconds=time.monotonic() - start,
        differences=tuple(differences),
    )
