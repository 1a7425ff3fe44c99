"""Triton backend that serves ONNX files through the `onnxruntime` Python package.

It stands in for NVIDIA's C++ backend of the same name where only the Python backend is at hand: a model whose
config.pbtxt says `backend: "onnxruntime"` is served from `<version>/model.onnx`, with the same configuration keys
(https://github.com/triton-inference-server/onnxruntime_backend).

It takes and refuses what the C++ backend does: shapes, reshaped tensors, numbers of threads, the order of outputs.
Differences: inputs and outputs must be written out in the configuration, optional inputs and ragged batches are never
taken, sessions are never shared between instances (each is a process), and idle sessions do not spin.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort
import triton_python_backend_utils as pb_utils

from server.standin.backends.graph_model import Array, ConfigurationError, GraphModel, Json, Port, parameter

GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
ELEMENT_TYPES = {  # ONNX Runtime's name → Triton's
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
}
CUDNN_SEARCHES = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}  # as the C++ backend reads them


def integer(config: Json, name: str) -> int:
    """A model parameter as a whole number; 0 where it is not set."""
    text = parameter(config, name) or "0"
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ConfigurationError(f"parameter {name} is {text!r}; it must be a whole number")
    return int(text)


def switch(name: str, text: str) -> bool:
    """A switch as Triton writes it: 1 or true, 0 or false."""
    if text.lower() not in ("1", "true", "0", "false"):
        raise ConfigurationError(f"{name} is {text!r}; it must be 1 or 0")
    return text.lower() in ("1", "true")


def session_options(config: Json) -> ort.SessionOptions:
    """Threads, graph level and memory settings of a model configuration, as ONNX Runtime takes them.

    Raises:
        ConfigurationError: A value that the C++ backend would not take either.
    """
    options = ort.SessionOptions()
    # Below 1, such as -1, it is ONNX Runtime's own choice.
    options.intra_op_num_threads = max(0, integer(config, "intra_op_thread_count"))
    options.inter_op_num_threads = max(0, integer(config, "inter_op_thread_count"))
    mode = integer(config, "execution_mode")
    if mode not in (0, 1):
        raise ConfigurationError(f"parameter execution_mode is {mode}; it must be 0 (sequential) or 1 (parallel)")
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if mode else ort.ExecutionMode.ORT_SEQUENTIAL
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    # The C++ backend, too, reads every other level as "all".
    options.graph_optimization_level = GRAPH_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    for name, attribute in (("enable_mem_arena", "enable_cpu_mem_arena"), ("enable_mem_pattern", "enable_mem_pattern")):
        text = parameter(config, name)
        if text is not None:
            setattr(options, attribute, switch(f"parameter {name}", text))
    # Several sessions share the machine's cores: one that waits for work must not burn them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    entry = "session.use_device_allocator_for_initializers"
    if (text := parameter(config, entry)) is not None:
        options.add_session_config_entry(entry, text)
    return options


def execution_providers(config: Json, kind: str, device: int) -> list[tuple[str, dict[str, str]]]:
    """The execution providers that a model configuration asks for, first choice first.

    Args:
        config: The model configuration.
        kind: The instance's kind, `GPU` or `CPU` (`MODEL` counts as CPU).
        device: The instance's GPU.

    Raises:
        ConfigurationError: Something that this backend does not do.
    """
    if config.get("optimization", {}).get("execution_accelerators"):
        raise ConfigurationError(
            "this backend has no execution_accelerators; serve the model in NVIDIA's container, or take them out"
        )
    cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    if kind != "GPU":
        return [cpu]
    options = {"device_id": str(device)}
    if (text := parameter(config, "cudnn_conv_algo_search")) is not None:
        if text not in CUDNN_SEARCHES:
            raise ConfigurationError(
                f"parameter cudnn_conv_algo_search is {text!r}; it must be one of {list(CUDNN_SEARCHES)}"
            )
        options["cudnn_conv_algo_search"] = CUDNN_SEARCHES[text]
    return [("CUDAExecutionProvider", options), cpu]


def ports(nodes: Sequence[ort.NodeArg]) -> list[Port]:
    """The graph's inputs or outputs as the configuration would write them."""
    return [
        Port(
            node.name,
            ELEMENT_TYPES.get(node.type, node.type),
            [size if isinstance(size, int) else None for size in node.shape],
        )
        for node in nodes
    ]


class TritonPythonModel(GraphModel):
    """One instance of one ONNX model."""

    as_onnxruntime = True

    def open(self, path: Path, kind: str, device: int) -> None:
        """Open the session."""
        providers = execution_providers(self.config, kind, device)
        available = ort.get_available_providers()
        for name, _ in providers:
            if name not in available:
                raise ConfigurationError(
                    f"the configuration needs {name}, and this build of onnxruntime {ort.__version__} has only "
                    f"{available}; install onnxruntime-gpu[cuda,cudnn], or change instance_group"
                )
        if kind == "GPU":
            ort.preload_dlls()  # CUDA and cuDNN where pip put them, which is not where the loader looks
        options = session_options(self.config)
        session = ort.InferenceSession(path, options, providers=providers)
        wanted = [name for name, _ in providers]
        if session.get_providers()[: len(wanted)] != wanted:
            # ONNX Runtime falls back to the CPU when a provider's libraries do not load: say so, rather than crawl.
            raise ConfigurationError(
                f"the configuration needs {wanted}, ONNX Runtime could start only "
                f"{session.get_providers()}; its reason is in the log above"
            )
        self.require_fit(ports(session.get_inputs()), ports(session.get_outputs()))
        threads = options.intra_op_num_threads or "one per core"
        pb_utils.Logger.log_info(
            f"{self.config['name']}: {path.name} on {session.get_providers()}"
            f"{f', GPU {device}' if kind == 'GPU' else ''}, intra-op threads: {threads}"
        )
        self.warn_if_untrained(session.get_modelmeta().custom_metadata_map)
        self._session = session
        self._run_options = ort.RunOptions()
        entry = "memory.enable_memory_arena_shrinkage"
        if (text := parameter(self.config, entry)) is not None:
            self._run_options.add_run_config_entry(entry, text)

    def infer(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        """Run the session."""
        return list(self._session.run(names, feed, self._run_options))

    def finalize(self) -> None:
        """Close the session and free its memory."""
        del self._session
