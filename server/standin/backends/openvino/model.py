"""Triton backend that serves ONNX files through the `openvino` Python package, on the CPU.

It stands in for NVIDIA's C++ backend of the same name where only the Python backend is at hand: a model whose
configuration says `backend: "openvino"` is served from `<version>/<default_model_filename>`, with the same parameters
(https://github.com/triton-inference-server/openvino_backend).

OpenVINO computes in bfloat16 by itself on a processor that has it. `HINT_BF16: YES` asks for that, here as there;
without it this backend keeps float32, where the C++ backend leaves the choice to OpenVINO. On a processor without
bfloat16 this backend keeps float32 in any case: told to, OpenVINO would imitate bfloat16 by AVX-512, and be slower.
"""

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import triton_python_backend_utils as pb_utils

from server.standin.backends.graph_model import Array, ConfigurationError, GraphModel, Json, Port, parameter

ELEMENT_TYPES = {  # OpenVINO's name → Triton's
    "boolean": "TYPE_BOOL",
    "u8": "TYPE_UINT8",
    "u16": "TYPE_UINT16",
    "u32": "TYPE_UINT32",
    "u64": "TYPE_UINT64",
    "i8": "TYPE_INT8",
    "i16": "TYPE_INT16",
    "i32": "TYPE_INT32",
    "i64": "TYPE_INT64",
    "f16": "TYPE_FP16",
    "f32": "TYPE_FP32",
    "f64": "TYPE_FP64",
}
LARGE = 2**20
"""Elements from which a constant is one of a network's large matrices."""

PERFORMANCE_HINTS = ("LATENCY", "THROUGHPUT")

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""What Linux calls the instructions that multiply bfloat16."""


def has_bfloat16(cpuinfo: str) -> bool:
    """Whether the processor that a text of /proc/cpuinfo describes multiplies bfloat16 itself."""
    return not BFLOAT16_FLAGS.isdisjoint(cpuinfo.split())


def properties(config: Json, *, bfloat16: bool) -> dict[str, Any]:
    """OpenVINO's properties for a model configuration.

    Args:
        config: The model's configuration.
        bfloat16: Whether the processor has it.

    Raises:
        ConfigurationError: A value that the C++ backend would not take either, or a device other than the CPU.
    """
    device = parameter(config, "TARGET_DEVICE") or "CPU"
    if device != "CPU":
        raise ConfigurationError(f"parameter TARGET_DEVICE is {device!r}; this backend serves on the CPU only")
    hint = parameter(config, "HINT_BF16")
    if hint not in (None, "YES"):
        raise ConfigurationError(f"parameter HINT_BF16 is {hint!r}; it must be YES, or be left out")
    found: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if hint and bfloat16 else "f32",
        # Several models share the cores: threads bound to one each would wait for those of other models there.
        "ENABLE_CPU_PINNING": False,
    }
    for name in ("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS"):
        if (text := parameter(config, name)) is not None:
            if not text.isdecimal():
                raise ConfigurationError(f"parameter {name} is {text!r}; it must be a whole number, 0 or more")
            found[name] = text
    if (text := parameter(config, "NUM_STREAMS")) is not None:
        if text not in ("AUTO", "NUMA") and not text.isdecimal():
            raise ConfigurationError(f"parameter NUM_STREAMS is {text!r}; it must be AUTO, NUMA or a whole number")
        found["NUM_STREAMS"] = text
    if (text := parameter(config, "PERFORMANCE_HINT")) is not None:
        if text not in PERFORMANCE_HINTS:
            choices = " or ".join(PERFORMANCE_HINTS)
            raise ConfigurationError(f"parameter PERFORMANCE_HINT is {text!r}; it must be {choices}")
        found["PERFORMANCE_HINT"] = text
    return found


def ports(tensors: list[Any]) -> list[Port]:
    """The graph's inputs or outputs as the configuration would write them."""
    return [
        Port(
            tensor.get_any_name(),
            ELEMENT_TYPES.get(name := tensor.get_element_type().get_type_name(), name),
            [dim.get_length() if dim.is_static else None for dim in tensor.get_partial_shape()],
        )
        for tensor in tensors
    ]


def metadata(model: ov.Model) -> dict[str, str]:
    """The metadata_props of an ONNX file, as OpenVINO keeps them."""
    return dict(model.get_rt_info("framework").value) if model.has_rt_info("framework") else {}


def hold_weights_in_bfloat16(model: ov.Model) -> None:
    """Round the large float32 constants to bfloat16 and let go of the file.

    OpenVINO does the same rounding by itself, but keeps more besides what it computes with: of DINOv2-giant 10.4 GiB
    (the mapped file included) in the place of 4.6. A large matrix becomes a bfloat16 constant and a Convert that is
    marked as decompression, so that it is not folded back; small constants stay as they are, but in memory of their
    own, since one of them would keep the whole file mapped.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        if node.data.size < LARGE:
            replacement = ops.constant(np.array(node.data), dtype=ov.Type.f32)
        else:
            # To the nearest, a tie to the even one; OpenVINO's own Convert cuts the lower bits off.
            bits = node.data.view(np.uint32)
            rounded = ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)
            tensor = ov.Tensor(rounded, node.shape, ov.Type.bf16)
            replacement = ops.convert(ov.op.Constant(tensor, shared_memory=False), "f32")
            replacement.get_rt_info()["decompression_0"] = ""
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(replacement.output(0))


class TritonPythonModel(GraphModel):
    """One instance of one ONNX model."""

    default_filename = "model.xml"

    def open(self, path: Path, kind: str, device: int) -> None:
        """Compile the model; instances of a GPU are refused."""
        if kind == "GPU":
            raise ConfigurationError("this backend serves on the CPU only; write kind: KIND_CPU in its instance_group")
        core = ov.Core()
        model = core.read_model(path)
        self.require_fit(ports(model.inputs), ports(model.outputs))
        options = properties(self.config, bfloat16=has_bfloat16(Path("/proc/cpuinfo").read_text(encoding="utf-8")))
        if options["INFERENCE_PRECISION_HINT"] == "bf16":
            hold_weights_in_bfloat16(model)
        compiled = core.compile_model(model, "CPU", options)
        pb_utils.Logger.log_info(
            f"{self.config['name']}: {path.name} on OpenVINO {ov.__version__.partition('-')[0]}, "
            f"{compiled.get_property('INFERENCE_PRECISION_HINT').to_string()}, "
            f"threads: {compiled.get_property('INFERENCE_NUM_THREADS')}"
        )
        self.warn_if_untrained(metadata(model))
        self._request = compiled.create_infer_request()

    def infer(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        """Run the model; its outputs are copied, since the next run writes over them."""
        results = self._request.infer(feed, share_inputs=True, share_outputs=True)
        return [np.array(results[name]) for name in names]

    def finalize(self) -> None:
        """Free the model."""
        del self._request
