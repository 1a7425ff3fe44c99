"""A stream whose network is of another method: an ONNX model that takes pixels and gives logits, used as it is."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from ensemble.streams import CLASSES, Stream
from export.errors import ExportError, ParityError
from export.exporters.exporter import ModelExport, OnStage
from export.layout import FUSED_FILE
from export.onnx.graph import INLINE_LIMIT, save_model
from export.onnx.interface import INPUT
from export.onnx.session import onnx_outputs
from export.parity import LOGITS, compare, require_parity
from export.samples import sample_batches
from export.weights.manifest import require_hashes
from networks.weights.manifest import sha256_of


def adopt_model(
    stream: Stream, model: Path, folder: Path, *, inline_limit: int = INLINE_LIMIT, on_stage: OnStage
) -> ModelExport:
    """Take an ONNX model as a stream's, its input and output renamed, and hold the copy against it.

    Args:
        stream: The stream.
        model: The ONNX file: one input, uint8 [batch, pixels, pixels, 3], RGB; among its outputs one float32
            [batch, 2], the logits of real and fake. The batch is free.
        folder: Where the model's files are written; files of the same name are overwritten.
        inline_limit: Bytes of weights up to which they stay inside model.onnx.
        on_stage: Called with what begins, for people.

    Raises:
        ManifestError: The file is not what the manifest beside it says.
        ParityError: The copy, or a batch of several images, gives other logits.
        ExportError: It is not an ONNX model, or has another interface.
    """
    start = time.monotonic()
    on_stage(f"reading {model.name}")
    sha256 = sha256_of(model)
    require_hashes({model: sha256})
    try:
        network = ir.load(model)
    except Exception as error:  # a damaged protobuf can raise anything
        raise ExportError(f"{model}: not an ONNX model: {type(error).__name__}: {error}") from error
    logits, position = _require_interface(stream, model, network)
    network.graph.inputs[0].name, logits.name = INPUT, LOGITS
    network.graph.outputs[:] = [logits]
    on_stage("writing the model")
    metadata = {"stream": stream.name, "checkpoint": model.name, "checkpoint_sha256": sha256, "untrained": "false"}
    files = save_model(network, folder, metadata, inline_limit)
    # It has no attention that is known here; who serves with fused attention gets the same model.
    fused = Path(shutil.copyfile(files[0], folder / FUSED_FILE))
    on_stage("validating it in ONNX Runtime")
    batches = sample_batches(stream.pixels)
    expected = {name: (outputs[position],) for name, outputs in onnx_outputs(model, batches).items()}
    differences = compare([LOGITS], expected, onnx_outputs(files[0], batches))
    require_parity(stream.name, differences)
    singly = {f"image {n}": image[None] for n, image in enumerate(batches["mixed"])}
    together = {f"image {n}": (expected["mixed"][0][n : n + 1],) for n in range(len(singly))}
    try:
        require_parity(stream.name, compare([LOGITS], onnx_outputs(files[0], singly), together))
    except ParityError as error:
        raise ParityError(f"{model}: an image's logits depend on the batch it is in: {error}", differences) from error
    return ModelExport(
        name=stream.name,
        weights=(model,),
        hashes=(sha256,),
        untrained=False,
        stand_in="",
        precision="fp32",
        files=(*files, fused),
        size=sum(file.stat().st_size for file in (*files, fused)),
        seconds=time.monotonic() - start,
        differences=tuple(differences),
        ranges=(),
    )


def _require_interface(stream: Stream, path: Path, model: ir.Model) -> tuple[ir.Value, int]:
    """Give the logits of a model and their position among its outputs."""
    inputs, outputs = list(model.graph.inputs), list(model.graph.outputs)
    wanted = (stream.pixels, stream.pixels, 3)
    if not (len(inputs) == 1 and _has(inputs[0], ir.DataType.UINT8, wanted)):
        raise ExportError(
            f"{path}: takes {_described(inputs)}; a stream of {stream.pixels} pixels needs one input, UINT8 "
            f"[batch, {stream.pixels}, {stream.pixels}, 3] with a free batch: put normalisation and transposition into "
            "the graph"
        )
    found = [each for each in outputs if _has(each, ir.DataType.FLOAT, (len(CLASSES),))]
    if len(found) != 1:
        raise ExportError(
            f"{path}: gives {_described(outputs)}; a stream needs one output, FLOAT [batch, {len(CLASSES)}], "
            "with a free batch: the logits of real and fake"
        )
    return found[0], outputs.index(found[0])


def _has(value: ir.Value, dtype: ir.DataType, rest: tuple[int, ...]) -> bool:
    shape = value.shape
    if value.dtype is not dtype or shape is None or len(shape) != len(rest) + 1:
        return False
    return not isinstance(shape[0], int) and tuple(shape[index + 1] for index in range(len(rest))) == rest


def _described(values: Sequence[ir.Value]) -> str:
    return ", ".join(f"{each.name} {each.dtype.name if each.dtype else 'of no type'} {each.shape}" for each in values)
