"""Models with one fault each, which have to be refused: without them, nobody would see that a check finds nothing."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from export.errors import TensorrtError
from export.tensorrt.check import build_ahead
from export.tensorrt.engine import EngineProfile
from export.tensorrt.subjects import Subject


def refusals(subject: Subject, capability: int) -> Iterator[tuple[str, bool]]:
    """Build models with one fault each; what it is, and whether it was noticed.

    Args:
        subject: A sound stream in float16; the others lie beside it.
        capability: Of `CAPABILITIES`.
    """
    model, profile = subject.model, subject.profile
    too_small = EngineProfile(*((batch, 224, 224, 3) for batch in (1, 8, 32)))
    (corrupt := model.with_name("corrupt.onnx")).write_bytes(model.read_bytes()[:-1000])
    yield "a file cut short", _is_refused(corrupt, profile, capability)
    yield "a profile of another size", _is_refused(model, too_small, capability)
    yield "float32 into a float16 convolution", _is_refused(float_into_half(model), profile, capability)
    unfused = build_ahead(attention_that_does_not_fuse(model), profile, capability)
    yield "attention in a form that does not fuse", bool(unfused.problems(subject.attentions))


def _is_refused(model: Path, profile: EngineProfile, capability: int) -> bool:
    try:
        build_ahead(model, profile, capability)
    except TensorrtError:
        return True
    return False


def float_into_half(model: Path) -> Path:
    """Write a float16 model anew, its first convolution fed with float32."""
    network = ir.load(model)
    conv = next(node for node in network.graph if node.op_type == "Conv")
    cast = conv.inputs[0].producer() if conv.inputs[0] is not None else None
    if cast is None or cast.op_type != "Cast":
        raise TensorrtError(f"{model}: its first convolution has no Cast before it")
    conv.replace_input_with(0, cast.inputs[0])
    return _save(network, model.with_name("float_into_half.onnx"))


def attention_that_does_not_fuse(model: Path) -> Path:
    """Write a model anew, the probabilities of its first attention an output, too: they have to be written out."""
    network = ir.load(model)
    softmax = next(node for node in network.graph if node.op_type == "Softmax")
    probabilities = softmax.outputs[0]
    probabilities.name = "PROBABILITIES"
    network.graph.outputs.append(probabilities)
    return _save(network, model.with_name("unfused.onnx"))


def _save(network: ir.Model, path: Path) -> Path:
    ir.save(network, path)
    onnx.load(path)
    return path
