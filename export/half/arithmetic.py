"""What a model of 16 bits computes on hardware that has its type, computed on a CPU.

ONNX Runtime's CPU provider computes float16 graphs in float32: it rounds less than a GPU, and nothing overflows. So the
graph is rewritten: every product and sum in float32, as tensor cores accumulate, every result rounded to float16 as it
would be stored. Within a softmax, too, the differences, the exponentials and their sum are rounded, though kernels may
keep them in single: it is not to come out better than it may be. A convolution in single is given TF32, as GPUs do by
default. Beside the outputs it tells how large each float16 value was before it was rounded.

Fused attention may also accumulate its two products in float16, a step of tensor cores at a time. That is assumed where
`half_sums` is asked for; everywhere else, sums in single are.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.errors import HalfRangeError
from export.half.conversion import LARGEST, MOVES, register
from export.onnx.session import open_session

GAIN = "GAIN"
"""Input that every LayerNormalization before a float16 product is multiplied by: 1, or more to look for overflow."""

STREAM = "residual stream (float32)"
"""Kind of the sums that stay in single; their size tells how massive the activations are."""

STEP = 16
"""Products that tensor cores add up before they round to the accumulator's type."""

_RANGE = "RANGE:"
_FILE = "half_arithmetic.onnx"


@dataclass(frozen=True)
class Range:
    """How near to the end of float16 tensors of one kind came.

    Attributes:
        kind: What computes them, and from what.
        tensor: Name of the largest.
        largest: Largest absolute value before rounding; infinite or NaN after an overflow elsewhere.
        limit: Largest value of their type.
    """

    kind: str
    tensor: str
    largest: float
    limit: float = LARGEST

    @property
    def share(self) -> float:
        """Of the type's largest value."""
        return self.largest / self.limit

    @property
    def overflows(self) -> bool:
        """Whether a value is beyond the type."""
        return self.kind != STREAM and not self.largest <= self.limit


class HalfArithmetic:
    """A float16 model, run in true float16 arithmetic.

    Args:
        model: The file; a file of its own is written beside it meanwhile.
        half_sums: Whether the products of attention are accumulated in float16, too.
    """

    def __init__(self, model: Path, half_sums: bool = False) -> None:
        graph = ir.load(model)
        half = _half_type(graph.graph)
        self._limit = LARGEST if half is ir.DataType.FLOAT16 else float(np.finfo(np.float32).max)
        attention = _attention_products(graph.graph) if half_sums else []
        self.outputs = [str(output.name) for output in graph.graph.outputs]
        self._kinds = _rewrite(graph, half)
        for product, length in attention:
            _accumulate_in_half(graph.graph, product, length, half)
        path = model.with_name(_FILE)
        ir.save(graph, path)
        try:
            # An optimiser would take a rounding for superfluous; and without one, tensors are freed once measured.
            self._session = open_session(path, optimised=False)
        finally:
            path.unlink()
        self._pixels = self._session.get_inputs()[0].name

    def run(self, pixels: NDArray[np.uint8], gain: float = 1.0) -> tuple[tuple[NDArray[np.float32], ...], list[Range]]:
        """Compute a batch.

        Args:
            pixels: The model's input.
            gain: See `GAIN`.

        Returns:
            The outputs, and the range of every tensor, in the order of computation.
        """
        feeds = {GAIN: np.array(gain, np.float32), self._pixels: pixels}
        values = self._session.run([*self.outputs, *(_RANGE + tensor for tensor in self._kinds)], feeds)
        count = len(self.outputs)
        ranges = [
            Range(kind, tensor, float(value), self._limit)
            for (tensor, kind), value in zip(self._kinds.items(), values[count:], strict=True)
        ]
        return tuple(values[:count]), ranges


def widest(ranges: Iterable[Range]) -> list[Range]:
    """The largest range of each kind, nearest to the end of float16 first; NaN counts as beyond it."""

    def size(each: Range) -> float:
        return np.inf if np.isnan(each.largest) else each.largest

    kinds: dict[str, Range] = {}
    for each in ranges:
        if each.kind not in kinds or size(each) > size(kinds[each.kind]):
            kinds[each.kind] = each
    return sorted(kinds.values(), key=size, reverse=True)


def require_range(name: str, ranges: Iterable[Range]) -> None:
    """Refuse a model in which a value is beyond its type of 16 bits.

    Args:
        name: Of the model.
        ranges: In the order of computation.

    Raises:
        HalfRangeError: With the first such tensor, which spoils those after it.
    """
    beyond = next((each for each in ranges if each.overflows), None)
    if beyond:
        kind = "float16" if beyond.limit == LARGEST else "bfloat16"
        raise HalfRangeError(
            f"{name}: {kind} ends at {beyond.limit:.5g}, and {beyond.kind} (tensor {beyond.tensor}) reaches "
            f"{beyond.largest:.3g}; export with --precision fp32"
        )


def _half_type(graph: ir.Graph) -> ir.DataType:
    """Give the type of 16 bits that a graph computes in."""
    types = {output.dtype for node in graph for output in node.outputs}
    return ir.DataType.BFLOAT16 if ir.DataType.BFLOAT16 in types else ir.DataType.FLOAT16


def _rewrite(model: ir.Model, half_type: ir.DataType) -> Mapping[str, str]:
    """Rewrite a graph of 16 bits in place; give the kind of each tensor whose range has become an output."""
    graph = model.graph
    kinds: dict[str, str] = {}
    gain = ir.val(GAIN, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes = list(graph)
    for node in nodes:  # while types and producers are still those of the model
        for output in node.outputs:
            if output.dtype is half_type and node.op_type not in MOVES:
                kinds[str(output.name)] = _kind(node)
            elif node.op_type == "Add" and output.dtype is ir.DataType.FLOAT and not _reads_constant(node):
                kinds[str(output.name)] = STREAM
    graph.inputs.append(gain)
    last_axis = register(graph, ir.tensor([-1], dtype=ir.DataType.INT64, name="LAST_AXIS"), ir.Shape([1]))
    for value in [value for value in graph.initializers.values() if value.dtype is half_type]:
        first = next(node for node in nodes if value in node.inputs)
        _reroute(graph, value, _insert(graph, first, "Cast", [value], to=ir.DataType.FLOAT))
    for node in nodes:
        halves = [output for output in node.outputs if output.dtype is half_type]
        if halves and node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
            source = node.inputs[0]
            producer = source.producer() if source is not None else None
            if producer is not None and producer.op_type == "LayerNormalization":
                node.replace_input_with(0, _insert(graph, node, "Mul", [source, gain]))
        if not halves and node.op_type == "Conv":
            _round_to_tf32(graph, node)
        if halves and node.op_type == "Softmax":
            _take_softmax_apart(graph, node, last_axis, half_type)
        for output in halves:
            output.type = ir.TensorType(ir.DataType.FLOAT)
            if str(output.name) in kinds:
                half = _insert(graph, node, "Cast", [output], after=True, to=half_type)
                producer = half.producer()
                assert producer is not None
                single = _insert(graph, producer, "Cast", [half], after=True, to=ir.DataType.FLOAT)
                _reroute(graph, output, single, but=producer)
        for output in node.outputs:
            if str(output.name) in kinds:
                size = _insert(graph, node, "Abs", [output], after=True)
                producer = size.producer()
                assert producer is not None
                largest = _insert(graph, producer, "ReduceMax", [size], after=True, keepdims=0)
                largest.name = f"{_RANGE}{output.name}"
                largest.shape = ir.Shape([])
                graph.outputs.append(largest)
    return kinds


def _round_to_tf32(graph: ir.Graph, node: ir.Node) -> None:
    """Give a convolution in single what GPUs make of its inputs by default. Float16 has as many digits as TF32."""
    for index, value in enumerate(node.inputs[:2]):
        half = _insert(graph, node, "Cast", [value], to=ir.DataType.FLOAT16)
        node.replace_input_with(index, _insert(graph, node, "Cast", [half], to=ir.DataType.FLOAT))


def _attention_products(graph: ir.Graph) -> list[tuple[ir.Node, int]]:
    """The products before and after each softmax, and over how many values they sum."""
    products = []
    for softmax in (node for node in graph if node.op_type == "Softmax"):
        before = softmax.inputs[0].producer() if softmax.inputs[0] is not None else None
        near = [before, *(reader for reader, _ in softmax.outputs[0].uses())]
        products += [node for node in near if node is not None and node.op_type == "MatMul"]
    return [(product, _summed(product)) for product in products]


def _summed(product: ir.Node) -> int:
    for value, axis in zip(product.inputs, (-1, -2), strict=True):
        if value is not None and value.shape is not None and isinstance(length := value.shape[axis], int):
            return length
    raise TypeError(f"{product.outputs[0].name}: the length of its sums is not known")


def _accumulate_in_half(graph: ir.Graph, product: ir.Node, length: int, half_type: ir.DataType) -> None:
    """Make of a product a sum of products over `STEP` values each, rounded after every step."""
    left, right = product.inputs
    name = product.outputs[0].name
    last, second_last = (_constant(graph, f"{name}_axis_{axis}", [axis]) for axis in (-1, -2))
    total: ir.Value | None = None
    for start in range(0, length, STEP):
        bounds = [_constant(graph, f"{name}_{at}", [at]) for at in (start, min(start + STEP, length))]
        slices: list[ir.Value | None] = [
            _insert(graph, product, "Slice", [left, *bounds, last]),
            _insert(graph, product, "Slice", [right, *bounds, second_last]),
        ]
        part = _insert(graph, product, "MatMul", slices)
        total = part if total is None else _insert(graph, product, "Add", [total, part])
        half = _insert(graph, product, "Cast", [total], to=half_type)
        total = _insert(graph, product, "Cast", [half], to=ir.DataType.FLOAT)
    product.op_type = "Identity"
    product.resize_inputs(1)
    product.replace_input_with(0, total)


def _constant(graph: ir.Graph, name: str, values: list[int]) -> ir.Value:
    if name in graph.initializers:
        return graph.initializers[name]
    return register(graph, ir.tensor(values, dtype=ir.DataType.INT64, name=name), ir.Shape([len(values)]))


def _take_softmax_apart(graph: ir.Graph, node: ir.Node, last_axis: ir.Value, half_type: ir.DataType) -> None:
    """Make of a softmax over the last axis a division of its exponentials by their sum, each step rounded."""

    def rounded(value: ir.Value) -> ir.Value:
        half = _insert(graph, node, "Cast", [value], to=half_type)
        return _insert(graph, node, "Cast", [half], to=ir.DataType.FLOAT)

    scores = node.inputs[0]
    largest = _insert(graph, node, "ReduceMax", [scores, last_axis])
    exponentials = rounded(_insert(graph, node, "Exp", [rounded(_insert(graph, node, "Sub", [scores, largest]))]))
    total = rounded(_insert(graph, node, "ReduceSum", [exponentials, last_axis]))
    share = _insert(graph, node, "Div", [exponentials, total])
    node.op_type = "Identity"
    node.attributes.clear()
    node.replace_input_with(0, share)


def _kind(node: ir.Node) -> str:
    """What a node computes, the same for all blocks: a parameter's name without numbers, or operators."""
    names = [str(value.name) for value in node.inputs if value is not None and value.is_initializer()]
    named = [name for name in names if "." in name]
    if named:
        return re.sub(r"\d+", "*", named[0].removesuffix("_half"))
    producers = [value.producer() for value in node.inputs if value is not None and not value.is_initializer()]
    sources = [producer.op_type for producer in producers if producer is not None] + ["weights"] * len(names)
    return f"{node.op_type}({', '.join(sources)})"


def _reads_constant(node: ir.Node) -> bool:
    return any(value is not None and value.is_initializer() for value in node.inputs)


def _insert(
    graph: ir.Graph, place: ir.Node, kind: str, inputs: list[ir.Value | None], *, after: bool = False, **attributes: int
) -> ir.Value:
    """Insert a node that gives float32 (or what it casts to) before or after another; give its output."""
    node = ir.node(kind, inputs, {name: ir.AttrInt64(name, value) for name, value in attributes.items()})
    (graph.insert_after if after else graph.insert_before)(place, node)
    node.outputs[0].type = ir.TensorType(ir.DataType(attributes.get("to", ir.DataType.FLOAT)))
    return node.outputs[0]


def _reroute(graph: ir.Graph, value: ir.Value, replacement: ir.Value, but: ir.Node | None = None) -> None:
    """Let all readers of a value read another one instead."""
    keep = (but, replacement.producer())
    for node, index in list(value.uses()):
        if node not in keep:
            node.replace_input_with(index, replacement)
