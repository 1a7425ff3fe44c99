"""Output axes that a Triton configuration leaves free."""

from collections.abc import Sequence

import onnx_ir as ir


def free_last_axis(graph: ir.Graph, names: Sequence[str]) -> None:
    """Give outputs of shape [batch, N] a last axis that shape inference leaves open; their values stay.

    NVIDIA's ONNX Runtime backend takes an output only where the dimensions of config.pbtxt equal the graph's, and
    there one configuration, with -1, serves networks of every size. Declaring the axis free is not enough: ONNX
    Runtime infers the number again. So the output goes through a Reshape whose shape is computed at run time.

    Args:
        graph: Its first input's first axis is the batch.
        names: Of the outputs.
    """
    batch = ir.node("Shape", [graph.inputs[0]], attributes={"start": 0, "end": 1})
    rest = ir.node("Constant", [], attributes={"value_ints": [-1]})
    shape = ir.node("Concat", [batch.outputs[0], rest.outputs[0]], attributes={"axis": 0})
    graph.extend([batch, rest, shape])
    for index, fixed in enumerate(graph.outputs):
        if fixed.name not in names or fixed.shape is None:
            continue
        reshape = ir.node("Reshape", [fixed, shape.outputs[0]])
        free = reshape.outputs[0]
        free.name, fixed.name = fixed.name, f"{fixed.name}_of_fixed_size"
        free.type = fixed.type
        free.shape = ir.Shape([fixed.shape[0], f"{free.name}_size"])
        graph.append(reshape)
        graph.outputs[index] = free
