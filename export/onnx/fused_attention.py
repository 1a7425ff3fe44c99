"""Attention as one node of ONNX Runtime's, beside the graph that every runtime reads.

ONNX Runtime fuses MatMul, Softmax, MatMul in a few networks alone, and in none where LayerNormalization comes first, as
here: on a GPU it would write out [batch, heads, tokens, tokens] of every block. So the same network is also written
with `com.microsoft.MultiHeadAttention`, for which it has fused kernels. TensorRT, which fuses the plain graph itself,
and OpenVINO read that.
"""

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from export.errors import ExportError
from export.layout import FUSED_FILE

_DOMAIN = "com.microsoft"


def fuse_attention(model: Path) -> Path:
    """Write a model anew with its attention fused.

    Weights that lie in a file beside the model are shared with it.

    Args:
        model: model.onnx of a stream, float32 or float16.

    Returns:
        The new file, FUSED_FILE beside the model.

    Raises:
        ExportError: It has no attention, or attention of another form.
    """
    network = ir.load(model)
    softmaxes = [node for node in network.graph if node.op_type == "Softmax"]
    # Whose probabilities are an output, too, has to be written out: the last block's.
    fusible = [node for node in softmaxes if len(node.outputs[0].uses()) == 1]
    if not softmaxes or any(not _fuse(network.graph, node) for node in fusible):
        raise ExportError(f"{model}: has no attention, or one that is not of the known form and cannot be fused")
    RemoveUnusedNodesPass()(network)
    network.graph.opset_imports[_DOMAIN] = 1
    path = model.with_name(FUSED_FILE)
    ir.save(network, path)
    onnx.checker.check_model(path)
    return path


def _fuse(graph: ir.Graph, softmax: ir.Node) -> bool:
    """Put one node beside an attention and let its readers read that; False where it is of another form."""
    product = _only_reader(softmax, "MatMul")
    scores = softmax.inputs[0]
    query_key = scores.producer() if scores is not None else None
    joined = _only_reader(_only_reader(product, "Transpose"), "Reshape")
    if product is None or query_key is None or query_key.op_type != "MatMul" or joined is None:
        return False
    split = query_key.inputs[0]
    heads = split.shape[1] if split is not None and split.shape is not None else None
    tokens = [_before_heads(each) for each in (*query_key.inputs, product.inputs[1])]
    if not isinstance(heads, int) or None in tokens:
        return False
    # The query is scaled already.
    attributes = {"num_heads": ir.AttrInt64("num_heads", heads), "scale": ir.AttrFloat32("scale", 1.0)}
    attention = ir.node("MultiHeadAttention", tokens, attributes, domain=_DOMAIN)
    plain, fused = joined.outputs[0], attention.outputs[0]
    fused.name, fused.type, fused.shape = f"{plain.name}_fused", plain.type, plain.shape
    graph.insert_after(joined, attention)
    for node, index in list(plain.uses()):
        node.replace_input_with(index, fused)
    return True


def _before_heads(value: ir.Value | None) -> ir.Value | None:
    """What was split into heads: [batch, tokens, hidden]."""
    for kind in ("Transpose", "Reshape"):
        producer = value.producer() if value is not None else None
        if producer is None or producer.op_type != kind:
            return None
        value = producer.inputs[0]
    return value


def _only_reader(node: ir.Node | None, kind: str) -> ir.Node | None:
    """The one node that reads another's output, if it is of some kind."""
    readers = [reader for reader, _ in node.outputs[0].uses()] if node is not None else []
    return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None
