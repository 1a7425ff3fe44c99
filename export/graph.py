"""A stream's network as an ONNX graph, and the graph as a file."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from export.errors import ExportError
from export.free_outputs import free_last_axis
from networks import StreamNetwork

INPUT = "PIXELS"
OUTPUTS = ("LOGITS", "FEATURES", "ATTENTION")

OPSET = 18
"""ONNX operator set: LayerNormalization is one node (from 17 on), and every runtime in use reads it."""

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"

INLINE_LIMIT = 256 * 1024**2
"""Bytes of weights up to which they are kept inside model.onnx; above, in DATA_FILE (protobuf ends at 2 GiB)."""


def to_onnx(network: StreamNetwork, pixels: int) -> ir.Model:
    """Trace a network into an ONNX graph with a dynamic batch.

    Weights are shared with the network, not copied.

    Args:
        network: In evaluation mode.
        pixels: Side of its images.

    Returns:
        PIXELS uint8 [batch, pixels, pixels, 3] → LOGITS float32 [batch, 2], FEATURES float32 [batch, D],
        ATTENTION float32 [batch, patches]; what they are, `StreamNetwork.forward` says. D and patches are free in the
        graph, as config.pbtxt has them (`free_last_axis`).

    Raises:
        ExportError: The exporter fixed the batch size.
    """
    # Two images, since a batch of one would be taken for a constant.
    example = torch.zeros(2, pixels, pixels, 3, dtype=torch.uint8)
    with quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no model")
    model = program.model
    values = [*model.graph.inputs, *model.graph.outputs]
    fixed = [value.name for value in values if value.shape is None or isinstance(value.shape[0], int)]
    if fixed:
        raise ExportError(f"the exported graph has a fixed batch size in {', '.join(map(str, fixed))}")
    free_last_axis(model.graph, OUTPUTS[1:])
    _cast_alone_reads_the_pixels(model.graph)
    # The exporter writes the source lines of the network, with their paths on this machine, into every node.
    ClearMetadataAndDocStringPass()(model)
    return model


def _cast_alone_reads_the_pixels(graph: ir.Graph) -> None:
    """Ask what the Cast gives for the batch size, as the tracer asks the pixels: TensorRT only casts 8-bit inputs."""
    pixels = graph.inputs[0]
    cast = next(node for node, _ in pixels.uses() if node.op_type == "Cast")
    graph.remove(cast)
    graph.insert_before(graph[0], cast)
    for node, index in list(pixels.uses()):
        if node is not cast:
            node.replace_input_with(index, cast.outputs[0])


def save_model(
    model: ir.Model, folder: Path, metadata: Mapping[str, str], inline_limit: int = INLINE_LIMIT
) -> list[Path]:
    """Write a model into a folder and check it.

    Args:
        model: The graph.
        folder: Where to.
        metadata: What to say in its metadata_props.
        inline_limit: Bytes of weights up to which they stay inside model.onnx.

    Returns:
        The files: model.onnx, and model.onnx.data where the weights lie beside it.
    """
    model.metadata_props.update(metadata)
    path = folder / MODEL_FILE
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weights > inline_limit:
        ir.save(model, path, external_data=DATA_FILE)
        files = [path, folder / DATA_FILE]
    else:
        ir.save(model, path)
        files = [path]
    onnx.checker.check_model(path)
    return files


def free_weights(network: StreamNetwork, model: ir.Model) -> None:
    """Free the weights that a network and its graph share; both are useless afterwards.

    Deleting them is not enough: the rewrite rules of onnxscript remember the last graph that they saw.
    """
    for value in model.graph.initializers.values():
        value.const_value = None
    for parameter in network.parameters():
        parameter.data = torch.empty(0)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what torch says about its own parts (deprecations inside torch, no torchvision)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
