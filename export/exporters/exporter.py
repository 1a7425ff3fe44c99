"""One network, of a stream or of the face crop: from its weights to a validated ONNX model."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from torch import nn

from export.difference import Difference
from export.half.arithmetic import HalfArithmetic, Range, require_range
from export.half.conversion import HALF_TYPES, to_half
from export.onnx.fused_attention import fuse_attention
from export.onnx.graph import INLINE_LIMIT, free_weights, save_model, to_onnx
from export.onnx.interface import Interface
from export.onnx.session import onnx_outputs
from export.parity import Outputs, compare, require_parity, torch_outputs
from export.samples import SCENE, Pixels
from export.weights.manifest import require_hashes
from networks.weights.manifest import sha256_of

OnStage = Callable[[str], object]
"""Called with what begins, for people."""


@dataclass(frozen=True)
class Source:
    """What is exported, and how it is tried.

    Attributes:
        name: Of the model.
        weights: Its weights files.
        load: Reads them.
        is_untrained: Whether the network that they gave has random weights.
        interface: Of the graph.
        batches: Images to compare on.
        stand_in_note: What stand-ins were trained on (`networks.weights.stand_in`); empty otherwise.
        fuses_attention: Whether a second model with fused attention is written beside it.
        metadata: Further entries of the model's metadata.
    """

    name: str
    weights: tuple[Path, ...]
    load: Callable[[], nn.Module]
    is_untrained: Callable[[nn.Module], bool]
    interface: Interface
    batches: Mapping[str, Pixels]
    stand_in_note: Callable[[nn.Module], str] = lambda network: ""
    fuses_attention: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelExport:
    """What came of one network.

    Attributes:
        name: Of the model.
        weights: Its weights files.
        hashes: SHA-256 of each, hexadecimal.
        untrained: Whether weights are random.
        stand_in: What they were trained on where they are stand-ins; empty otherwise.
        precision: Of `export.half.conversion.PRECISIONS`.
        files: The model's files: model.onnx, model.onnx.data where the weights lie beside it, and model.fused.onnx
            where there is one (`export.onnx.fused_attention`).
        size: Bytes of the files.
        seconds: Time that it took.
        differences: The model against torch; of 16 bits, computed in the arithmetic of their type.
        ranges: Of 16 bits, how large its tensors became on the images compared, in the order of computation.
    """

    name: str
    weights: tuple[Path, ...]
    hashes: tuple[str, ...]
    untrained: bool
    stand_in: str
    precision: str
    files: tuple[Path, ...]
    size: int
    seconds: float
    differences: tuple[Difference, ...]
    ranges: tuple[Range, ...]


def export_model(
    source: Source, folder: Path, *, precision: str, inline_limit: int = INLINE_LIMIT, on_stage: OnStage
) -> ModelExport:
    """Export a network to ONNX and hold the result against it.

    One copy of the weights is in memory at a time: the network is freed before ONNX Runtime reads the model.

    Args:
        source: The network.
        folder: Where the model's files are written; files of the same name are overwritten.
        precision: Of `export.half.conversion.PRECISIONS`.
        inline_limit: Bytes of weights up to which they stay inside model.onnx.
        on_stage: See `OnStage`.

    Raises:
        CheckpointError: The weights cannot be used.
        ManifestError: They are not what the manifest beside them says.
        ParityError: The model computes something else than the network; its files are in the folder.
        HalfRangeError: With precision fp16, a weight or a value on the way is beyond float16.
        ExportError: The graph is not as it should be.
    """
    start = time.monotonic()
    on_stage(f"reading and running {' and '.join(path.name for path in source.weights)}")
    network = source.load()
    untrained, stand_in = source.is_untrained(network), source.stand_in_note(network)
    hashes = tuple(sha256_of(path) for path in source.weights)
    require_hashes(dict(zip(source.weights, hashes, strict=True)))
    expected = torch_outputs(network, source.batches)
    on_stage("tracing it to ONNX")
    model = to_onnx(network, source.interface)
    if precision in HALF_TYPES:
        to_half(model, HALF_TYPES[precision])
    on_stage("writing the model")
    metadata = {
        **source.metadata,
        "checkpoint": ", ".join(path.name for path in source.weights),
        "checkpoint_sha256": ", ".join(hashes),
        "untrained": str(untrained).lower(),
        "stand_in": stand_in,
        "precision": precision,
        "exporter": ", ".join(f"{package} {version(package)}" for package in ("torch", "onnx", "onnxscript")),
    }
    files = save_model(model, folder, metadata, inline_limit)
    free_weights(network, model)
    gc.collect()  # the exporter leaves cycles, too
    fused = fuse_attention(files[0]) if source.fuses_attention else None
    on_stage("validating it in ONNX Runtime")
    differences, ranges = validate(source, files[0], fused, expected, precision)
    require_parity(source.name, differences, precision)
    written = (*files, fused) if fused else tuple(files)
    return ModelExport(
        name=source.name,
        weights=source.weights,
        hashes=hashes,
        untrained=untrained,
        stand_in=stand_in,
        precision=precision,
        files=written,
        size=sum(file.stat().st_size for file in written),
        seconds=time.monotonic() - start,
        differences=tuple(differences),
        ranges=tuple(ranges),
    )


def validate(
    source: Source, model: Path, fused: Path | None, expected: Mapping[str, Outputs], precision: str
) -> tuple[list[Difference], list[Range]]:
    """Run the models on the images of a source, and compare them with what the network gave.

    Args:
        source: What was exported.
        model: Its model.onnx; of 16 bits, it is run in the arithmetic of its type.
        fused: The same with fused attention, where there is one.
        expected: The network's outputs by batch.
        precision: Of the models.

    Raises:
        HalfRangeError: A value is beyond float16.
        ParityError: An output has another shape or type.
    """
    cases = dict(expected)
    scene = {SCENE: source.batches[SCENE]} if SCENE in source.batches else {}
    ranges: list[Range] = []
    others: dict[str, dict[str, Outputs]] = {}
    if precision in HALF_TYPES:
        actual = _half_outputs(model, source.batches, ranges)
        require_range(source.name, ranges)
    else:
        actual = onnx_outputs(model, source.batches)
    if precision == "fp16":
        # What ONNX Runtime makes of the file itself, in float32 arithmetic on a CPU. It has no bfloat16 there.
        others["ONNX Runtime"] = onnx_outputs(model, scene, optimised=False)
    if fused and precision == "bf16":
        others["fused attention"] = _half_outputs(fused, scene, [])
    elif fused:
        others["fused attention"] = onnx_outputs(fused, scene, optimised=precision == "fp32")
    for way, outputs in others.items():
        for name, values in outputs.items():
            actual[f"{name}, {way}"], cases[f"{name}, {way}"] = values, expected[name]
    return compare(source.interface.outputs, cases, actual, precision), ranges


def _half_outputs(model: Path, batches: Mapping[str, Pixels], ranges: list[Range]) -> dict[str, Outputs]:
    """Run a model of 16 bits on each batch in its type's arithmetic; the ranges of its tensors are added to a list."""
    arithmetic = HalfArithmetic(model)
    outputs: dict[str, Outputs] = {}
    for name, pixels in batches.items():
        outputs[name], batch_ranges = arithmetic.run(pixels)
        ranges += batch_ranges
    return outputs
