"""A network as an ONNX graph, and the graph as a file."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from export.errors import ExportError
from export.layout import DATA_FILE, MODEL_FILE
from export.onnx.free_outputs import free_last_axis
from export.onnx.interface import Interface

OPSET = 18
"""ONNX operator set: LayerNormalization is one node (from 17 on), and every runtime in use reads it."""

INLINE_LIMIT = 256 * 1024**2
"""Bytes of weights up to which they are kept inside model.onnx; above, in DATA_FILE (protobuf ends at 2 GiB)."""


SMALLEST_SIDE = 33
"""Of images of any size: below, the exporter would take the number of cells for the constant 1."""


def to_onnx(network: nn.Module, interface: Interface) -> ir.Model:
    """Trace a network into an ONNX graph with a dynamic batch.

    Weights are shared with the network, not copied.

    Args:
        network: In evaluation mode.
        interface: What the graph is to take and to give.

    Raises:
        ExportError: The exporter fixed an axis that is to be free, or something else than a Cast reads the pixels.
    """
    free = {0: torch.export.Dim("batch")}
    if interface.any_size:
        free |= {
            1: torch.export.Dim("height", min=SMALLEST_SIDE),
            2: torch.export.Dim("width", min=SMALLEST_SIDE),
        }
    # Two images, since a batch of one would be taken for a constant.
    example = torch.zeros(2, interface.height, interface.width, 3, dtype=torch.uint8)
    with quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[interface.input],
            output_names=interface.outputs,
            dynamic_shapes=(free,),
            opset_version=OPSET,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no model")
    model = program.model
    _require_free_axes(model.graph, tuple(free))
    if interface.free_outputs:
        free_last_axis(model.graph, interface.free_outputs)
    _cast_alone_reads_the_pixels(model.graph)
    # The exporter writes the source lines of the network, with their paths on this machine, into every node.
    ClearMetadataAndDocStringPass()(model)
    return model


def _require_free_axes(graph: ir.Graph, free: Sequence[int]) -> None:
    """Refuse a graph whose input has a fixed axis that should be free, or that gives a fixed number of images."""
    axes = [(graph.inputs[0], free), *((output, (0,)) for output in graph.outputs)]
    fixed = [
        str(value.name)
        for value, free_axes in axes
        if value.shape is None or any(isinstance(value.shape[axis], int) for axis in free_axes)
    ]
    if fixed:
        raise ExportError(f"the exported graph has a fixed batch, height or width in {', '.join(fixed)}")


def _cast_alone_reads_the_pixels(graph: ir.Graph) -> None:
    """Ask the Cast's output for the pixels' shape, as the tracer asks the pixels: TensorRT only casts 8-bit inputs."""
    pixels = graph.inputs[0]
    readers = [node for node, _ in pixels.uses()]
    cast = next((node for node in readers if node.op_type == "Cast"), None)
    others = sorted({node.op_type for node in readers} - {"Cast", "Shape"})
    if cast is None or others:
        raise ExportError(
            f"{', '.join(others) or 'nothing'} reads {pixels.name} before a Cast does, and TensorRT only casts 8-bit "
            "pixels: cast them first in the network's forward"
        )
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


def free_weights(network: nn.Module, model: ir.Model) -> None:
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
