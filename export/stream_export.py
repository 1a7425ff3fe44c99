"""One stream: from its checkpoint to a validated ONNX model."""

import gc
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ensemble.streams import Stream
from export.base_network import base_digests
from export.fused_attention import fuse_attention
from export.graph import INLINE_LIMIT, free_weights, save_model, to_onnx
from export.half import to_half
from export.half_arithmetic import HalfArithmetic, Range, require_range
from export.manifest import require_hashes
from export.parity import (
    HALF_TOLERANCES,
    Difference,
    Outputs,
    Pixels,
    compare,
    onnx_outputs,
    require_parity,
    sample_batches,
    torch_outputs,
)
from networks import is_untrained, load_stream


@dataclass(frozen=True)
class StreamExport:
    """What came of one stream.

    Attributes:
        stream: The stream.
        checkpoint: Its checkpoint.
        sha256: Hash of the checkpoint, hexadecimal.
        untrained: Whether its weights are random.
        base: Digest of each tensor of the base network (`export.base_network`).
        precision: Of `export.half.PRECISIONS`.
        files: The model's files: model.onnx, model.onnx.data where the weights lie beside it, and model.fused.onnx
            (`export.fused_attention`).
        size: Bytes of the files.
        seconds: Time that it took.
        differences: The model against torch; of fp16, computed in float16 arithmetic.
        ranges: Of fp16, how large its tensors became on the images compared, in the order of computation.
    """

    stream: Stream
    checkpoint: Path
    sha256: str
    untrained: bool
    base: Mapping[str, str]
    precision: str
    files: tuple[Path, ...]
    size: int
    seconds: float
    differences: tuple[Difference, ...]
    ranges: tuple[Range, ...] = ()


def export_stream(
    stream: Stream,
    checkpoint: Path,
    folder: Path,
    *,
    precision: str = "fp32",
    inline_limit: int = INLINE_LIMIT,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> StreamExport:
    """Export a stream to ONNX and hold the result against the network.

    One copy of the weights is in memory at a time: the network is freed before ONNX Runtime reads the model.

    Args:
        stream: The stream.
        checkpoint: Its checkpoint (`networks.load_stream`).
        folder: Where the model's files are written; files of the same name are overwritten.
        precision: Of `export.half.PRECISIONS`.
        inline_limit: Bytes of weights up to which they stay inside model.onnx.
        on_stage: Called with what begins, for people.

    Returns:
        What was written and how it compares.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ManifestError: It is not what the manifest beside it says.
        ParityError: The model computes something else than the network; its files are in the folder.
        HalfRangeError: With precision fp16, a weight or a value on the way is beyond float16.
        ExportError: The graph is not as it should be.
    """
    start = time.monotonic()
    on_stage(f"reading {checkpoint.name}")
    base = base_digests(checkpoint)
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
    if precision == "fp16":
        to_half(model)
    on_stage("writing the model")
    metadata = {
        "stream": stream.name,
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": sha256,
        "untrained": str(untrained).lower(),
        "precision": precision,
        "exporter": ", ".join(f"{package} {version(package)}" for package in ("torch", "onnx", "onnxscript")),
    }
    files = save_model(model, folder, metadata, inline_limit)
    free_weights(network, model)
    gc.collect()  # the exporter leaves cycles, too
    fused = fuse_attention(files[0])
    on_stage("validating it in ONNX Runtime")
    ranges: list[Range] = []
    if precision == "fp16":
        actual = _half_outputs(files[0], batches, ranges)
        require_range(stream.name, ranges)
        # What ONNX Runtime makes of the file itself, in float32 arithmetic on a CPU.
        actual["scene, ONNX Runtime"] = _scene_outputs(files[0], batches, optimised=False)
        expected["scene, ONNX Runtime"] = expected["scene"]
    else:
        actual = onnx_outputs(files[0], batches)
    actual["scene, fused attention"] = _scene_outputs(fused, batches, optimised=precision == "fp32")
    expected["scene, fused attention"] = expected["scene"]
    differences = compare(expected, actual, HALF_TOLERANCES if precision == "fp16" else None)
    require_parity(stream.name, differences)
    files = [*files, fused]
    return StreamExport(
        stream=stream,
        checkpoint=checkpoint,
        sha256=sha256,
        untrained=untrained,
        base=base,
        precision=precision,
        files=tuple(files),
        size=sum(file.stat().st_size for file in files),
        seconds=time.monotonic() - start,
        differences=tuple(differences),
        ranges=tuple(ranges),
    )


def _scene_outputs(model: Path, batches: Mapping[str, Pixels], *, optimised: bool) -> Outputs:
    return onnx_outputs(model, {"scene": batches["scene"]}, optimised=optimised)["scene"]


def _half_outputs(model: Path, batches: Mapping[str, Pixels], ranges: list[Range]) -> dict[str, Outputs]:
    """Run a float16 model on each batch in float16 arithmetic; the ranges of its tensors are added to a list."""
    arithmetic = HalfArithmetic(model)
    outputs = {}
    for name, pixels in batches.items():
        outputs[name], batch_ranges = arithmetic.run(pixels)
        ranges += batch_ranges
    return outputs
