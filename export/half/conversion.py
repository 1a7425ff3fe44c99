"""A float32 graph made into a strongly typed one of 16 bits: float16, or bfloat16.

What takes the time is computed in half: products of matrices and convolutions, and what lies between two of them. What
half would spoil stays in single: every LayerNormalization, the residual stream with the LayerScale before it, the
heads, and all sums over many values outside a product. Types are written into the graph, so that no runtime has a
choice: TensorRT's strongly typed networks, and ONNX Runtime.

Attention is MatMul, Softmax, MatMul without a cast in between. TensorRT fuses that, and fuses a softmax in single
between two casts as well (seen in TensorRT for RTX 1.7.1, built ahead of time for compute capabilities 80, 89, 120). So
it is a matter of accuracy, and a softmax in single brings none: with every step of it rounded to half
(`export.half.arithmetic`), logits of preset small are as far from float32 (0.0088 at most) as with a softmax in single
(0.0091).

bfloat16 has the range of float32, so that nothing can overflow, and 8 bits of precision where float16 has 11. Its
models are for GPUs: ONNX Runtime's CPU provider does not compute in it. The projection of the patches stays in single
there. On a flat patch its weights, which tell neighbours apart, cancel each other, and what bfloat16 rounds off them is
left over: weights that had learnt something called a white image fake by 0.15 more or less, and by 0.0066 with the
projection in single. It is a thousandth of a network's products.
"""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from export.errors import HalfRangeError

PRECISIONS = ("fp32", "fp16", "bf16")
"""To choose from."""

HALF_TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
"""Of the precisions of 16 bits."""

_NUMPY_TYPES = {ir.DataType.FLOAT16: np.dtype(np.float16), ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16)}

LARGEST = float(np.finfo(np.float16).max)
"""Above 65504 (rounded: from 65520 on) a float16 is infinite."""

PRODUCTS = frozenset({"Conv", "MatMul"})
"""Computed in half, whatever their inputs."""

MOVES = frozenset({"Concat", "Gather", "MaxPool", "Relu", "Reshape", "Resize", "Slice", "Split", "Transpose"})
"""Give values that they were given (or 0): they add no rounding of their own."""

FOLLOWERS = MOVES | {"Add", "BatchNormalization", "Mul", "Sigmoid", "Softmax"}
"""Computed in half where all that they compute on is in half. Whatever is not named here is computed in single."""


def to_half(model: ir.Model, dtype: ir.DataType = ir.DataType.FLOAT16) -> None:
    """Turn a float32 graph into one of 16 bits; inputs and outputs keep their types.

    Weights are not converted here but one at a time when the model is saved, so that no second copy is in memory.

    Args:
        model: With float32 weights; changed in place.
        dtype: Of `HALF_TYPES`.

    Raises:
        HalfRangeError: With float16, a weight is beyond it.
    """
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(model.graph):
        if not _in_half(node, dtype):
            _cast_inputs(model.graph, node, ir.DataType.FLOAT, casts)
            continue
        if node.op_type == "BatchNormalization":
            _fold_statistics(model.graph, node)
        _cast_inputs(model.graph, node, dtype, casts)
        for output in node.outputs:
            output.type = ir.TensorType(dtype)
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]


def _in_half(node: ir.Node, dtype: ir.DataType) -> bool:
    if any(output.is_graph_output() for output in node.outputs):
        return False  # outputs are float32, and what gives them is cheap
    if node.op_type in PRODUCTS:
        return dtype is not ir.DataType.BFLOAT16 or not _is_patch_projection(node)
    if node.op_type not in FOLLOWERS or _is_layer_scale(node):
        return False
    computed = [value for value in node.inputs if value is not None and _is_float(value) and not value.is_initializer()]
    return bool(computed) and all(value.dtype is dtype for value in computed)


def _is_patch_projection(node: ir.Node) -> bool:
    """A convolution whose kernel, larger than a pixel, steps from patch to patch."""
    weight, strides = node.inputs[1], node.attributes.get("strides")
    if node.op_type != "Conv" or weight is None or weight.shape is None or strides is None:
        return False
    kernel = tuple(weight.shape)[2:]
    return kernel == tuple(strides.as_ints()) and kernel != (1, 1)


def _is_layer_scale(node: ir.Node) -> bool:
    """A gain per channel, on the way into the residual stream."""
    return node.op_type == "Mul" and any(
        value is not None and value.const_value is not None and value.const_value.size > 1 for value in node.inputs
    )


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (ir.DataType.FLOAT, *HALF_TYPES.values())


def _cast_inputs(
    graph: ir.Graph, node: ir.Node, dtype: ir.DataType, casts: dict[tuple[ir.Value, ir.DataType], ir.Value]
) -> None:
    """Give a node all its floating-point inputs in one type; each value is cast once for all its readers."""
    for index, value in enumerate(node.inputs):
        if value is None or not _is_float(value) or value.dtype is dtype:
            continue
        if (value, dtype) not in casts:
            casts[value, dtype] = (
                _half_weight(graph, value, dtype) if value.is_initializer() else _cast(graph, value, dtype)
            )
        node.replace_input_with(index, casts[value, dtype])


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    producer = value.producer()
    if producer is None:
        raise TypeError(f"{value.name}: an input of the graph that is of a floating-point type")
    suffix = "single" if dtype is ir.DataType.FLOAT else "half"
    cast = ir.node("Cast", [value], {"to": ir.AttrInt64("to", dtype)}, name=f"{value.name}_to_{suffix}")
    cast.outputs[0].name = f"{value.name}_{suffix}"
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(dtype), value.shape
    graph.insert_after(producer, cast)
    return cast.outputs[0]


def _half_weight(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    tensor = value.const_value
    assert tensor is not None  # an initializer has a value
    array = tensor.numpy()
    largest = max(float(array.max()), -float(array.min()))
    if dtype is ir.DataType.FLOAT16 and largest > LARGEST:
        raise HalfRangeError(f"{value.name}: a weight of {largest:.3g} is beyond float16, which ends at {LARGEST:.0f}")
    name = f"{value.name}_half"
    half = ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().astype(_NUMPY_TYPES[dtype])),
        dtype=dtype,
        shape=ir.Shape(array.shape),
        name=name,
    )
    return register(graph, half, ir.Shape(array.shape))


def _fold_statistics(graph: ir.Graph, node: ir.Node) -> None:
    """Leave a normalisation its gain and shift: of mean and variance, half would keep little."""
    gain, shift, mean, variance = (
        value.const_value.numpy().astype(np.float64) for value in node.inputs[1:] if value and value.const_value
    )
    gain = gain / np.sqrt(variance + node.attributes["epsilon"].as_float())
    folded = {"gain": gain, "shift": shift - gain * mean, "mean": np.zeros_like(mean), "variance": np.ones_like(mean)}
    for index, (name, values) in enumerate(folded.items(), start=1):
        tensor = ir.tensor(values.astype(np.float32), name=f"{node.outputs[0].name}_{name}")
        node.replace_input_with(index, register(graph, tensor, ir.Shape(values.shape)))
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)


def register(graph: ir.Graph, tensor: ir.TensorProtocol, shape: ir.Shape) -> ir.Value:
    """Add an initializer to a graph."""
    value = ir.Value(name=tensor.name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
