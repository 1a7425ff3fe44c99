"""An experiment: the linear layers of a float16 model in FP8 (E4M3), with one scale for each tensor.

Each product with a weight takes both factors in FP8: the weight is stored so, the activation is quantised by a scale
that its largest value on a calibration set gives. Everything else stays as in float16: attention, the patch projection,
LayerNorm, residual stream and heads. The graph says so by QuantizeLinear and DequantizeLinear, as ONNX 19 has them and
TensorRT reads them; ONNX Runtime rounds to E4M3 by the same rules, so that the graph's votes can be seen on a CPU
(`export.half.arithmetic`). Values over the calibrated largest one are cut off there.

It is judged by the votes that change, and nothing serves it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir

from export.half.conversion import register
from export.onnx.session import open_session
from export.samples import Pixels

LARGEST = 448.0
"""Of E4M3."""

OPSET = 19
"""The first with FP8."""

_SMALLEST_SCALE = 2.0**-14  # below, a float16 scale would lose precision itself
_PREFIX = "LARGEST:"
_FILE = "calibration.onnx"


def calibrate(single: Path, batches: Iterable[Pixels]) -> dict[str, float]:
    """Give the largest absolute value that each linear layer takes, by the name of its product.

    Args:
        single: The float32 model's file; another one is written beside it meanwhile.
        batches: The calibration set, uint8 [batch, side, side, 3].
    """
    model = ir.load(single)
    names = []
    for product in linear_products(model.graph, ir.DataType.FLOAT):
        size = ir.node("Abs", [product.inputs[0]])
        largest = ir.node("ReduceMax", size.outputs, {"keepdims": ir.AttrInt64("keepdims", 0)})
        largest.outputs[0].name = f"{_PREFIX}{product.outputs[0].name}"
        largest.outputs[0].type, largest.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        model.graph.insert_before(product, [size, largest])
        model.graph.outputs.append(largest.outputs[0])
        names.append(str(product.outputs[0].name))
    path = single.with_name(_FILE)
    ir.save(model, path)
    try:
        session = open_session(path)
    finally:
        path.unlink()
    found = dict.fromkeys(names, 0.0)
    for batch in batches:
        values = session.run([_PREFIX + name for name in names], {session.get_inputs()[0].name: batch})
        found = {name: max(found[name], float(value)) for name, value in zip(names, values, strict=True)}
    return found


def to_fp8(model: ir.Model, largest: Mapping[str, float]) -> None:
    """Put the linear layers of a float16 graph into FP8, in place.

    Args:
        model: Of the same network, strongly typed in float16 (`export.half.conversion`).
        largest: Of `calibrate`; products that are not in it stay in float16.
    """
    graph = model.graph
    graph.opset_imports[""] = OPSET
    quantised: dict[ir.Value, ir.Value] = {}
    for product in linear_products(graph, ir.DataType.FLOAT16):
        name = str(product.outputs[0].name)
        values, weight = product.inputs
        if name not in largest or values is None or weight is None:
            continue
        if values not in quantised:
            quantised[values] = _quantise(graph, product, values, largest[name])
        product.replace_input_with(0, quantised[values])
        product.replace_input_with(1, _stored(graph, product, weight))
        if not weight.uses():
            del graph.initializers[str(weight.name)]


def linear_products(graph: ir.Graph, dtype: ir.DataType) -> list[ir.Node]:
    """The products of activations with a weight of a type."""
    return [
        node
        for node in graph
        if node.op_type == "MatMul"
        and (weight := node.inputs[1]) is not None
        and weight.is_initializer()
        and weight.dtype is dtype
        and weight.shape is not None
        and len(weight.shape) == 2
    ]


def _quantise(graph: ir.Graph, product: ir.Node, values: ir.Value, largest: float) -> ir.Value:
    scale = _scale(graph, f"{values.name}_scale", largest)
    zero = register(graph, ir.tensor(np.zeros((), ml_dtypes.float8_e4m3fn), name=f"{values.name}_zero"), ir.Shape([]))
    quantise = ir.node("QuantizeLinear", [values, scale, zero])
    quantise.outputs[0].type = ir.TensorType(ir.DataType.FLOAT8E4M3FN)
    quantise.outputs[0].shape = values.shape
    dequantise = _dequantise(quantise.outputs[0], scale, values.shape)
    graph.insert_before(product, [quantise, dequantise])
    return dequantise.outputs[0]


def _stored(graph: ir.Graph, product: ir.Node, weight: ir.Value) -> ir.Value:
    tensor = weight.const_value
    assert tensor is not None  # an initializer has a value
    single = tensor.numpy().astype(np.float32)
    scale = _scale(graph, f"{weight.name}_scale", float(np.abs(single).max(initial=0)))
    assert scale.const_value is not None
    rounded = (single / scale.const_value.numpy().astype(np.float32)).clip(-LARGEST, LARGEST)
    eight = ir.tensor(rounded.astype(ml_dtypes.float8_e4m3fn), name=f"{weight.name}_eight")
    dequantise = _dequantise(register(graph, eight, ir.Shape(single.shape)), scale, weight.shape)
    graph.insert_before(product, dequantise)
    return dequantise.outputs[0]


def _dequantise(values: ir.Value, scale: ir.Value, shape: ir.Shape | None) -> ir.Node:
    node = ir.node("DequantizeLinear", [values, scale])
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT16), shape
    return node


def _scale(graph: ir.Graph, name: str, largest: float) -> ir.Value:
    scale = np.float16(max(largest / LARGEST, _SMALLEST_SCALE))
    return register(graph, ir.tensor(scale, name=name), ir.Shape([]))
