"""Triton backend that serves ONNX files through the `onnxruntime` Python package.

It stands in for NVIDIA's C++ backend of the same name where only the Python backend is at hand: a model whose
config.pbtxt says `backend: "onnxruntime"` is served from `<version>/model.onnx`, with the same configuration keys
(https://github.com/triton-inference-server/onnxruntime_backend). It runs inside the Python backend's stub, so it
imports nothing of this project.

Differences from the C++ backend: inputs and outputs must be written out in the configuration, sessions are never
shared between instances (each is a process), and idle sessions do not spin.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

Array = np.ndarray[Any, np.dtype[Any]]
Json = dict[str, Any]

GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
ELEMENT_TYPES = {  # Triton's name → ONNX Runtime's
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}
TENSORRT_PRECISIONS: dict[str, dict[str, str]] = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "True"},
    "BF16": {"trt_bf16_enable": "True"},
    "INT8": {"trt_int8_enable": "True"},
}
TENSORRT_OPTIONS = {  # NVIDIA's older names → ONNX Runtime's; every other key is ONNX Runtime's own
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
TENSORRT_SWITCHES = {  # ONNX Runtime's Python face takes True and False here, where the C face takes 1 and 0
    "trt_int8_use_native_calibration_table",
    "trt_force_sequential_engine_build",
    "trt_context_memory_sharing_enable",
    "trt_layer_norm_fp32_fallback",
    "trt_force_timing_cache",
    "trt_detailed_build_log",
}
CUDA_PARAMETERS = {  # deprecated model parameters that the C++ backend still reads
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
    "gpu_mem_limit": {},
    "do_copy_in_default_stream": {},
}
PACKAGES = {
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu and TensorRT",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
}


class ConfigurationError(ValueError):
    """The model's configuration asks for something that cannot be served."""


def parameter(config: Json, name: str) -> str | None:
    """A model parameter's text, or None where config.pbtxt does not set it."""
    entry = config.get("parameters", {}).get(name)
    return None if entry is None else str(entry["string_value"])


def integer(config: Json, name: str) -> int:
    """A model parameter as a whole number ≥ 0; 0, ONNX Runtime's own choice, where it is not set."""
    text = parameter(config, name) or "0"
    if not text.isdigit():
        raise ConfigurationError(f"parameter {name} is {text!r}; it must be a whole number, 0 or more")
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
    options.intra_op_num_threads = integer(config, "intra_op_thread_count")
    options.inter_op_num_threads = integer(config, "inter_op_thread_count")
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


def tensorrt_options(parameters: dict[str, str]) -> dict[str, str]:
    """Parameters of the `tensorrt` accelerator → options of ONNX Runtime's TensorRT provider.

    Raises:
        ConfigurationError: An unknown key or precision.
    """
    options: dict[str, str] = {}
    for key, text in parameters.items():
        if key == "precision_mode":
            if text not in TENSORRT_PRECISIONS:
                raise ConfigurationError(f"precision_mode is {text!r}; it must be one of {list(TENSORRT_PRECISIONS)}")
            options |= TENSORRT_PRECISIONS[text]
            continue
        name = TENSORRT_OPTIONS.get(key, key)
        if not name.startswith("trt_"):
            raise ConfigurationError(f"unknown parameter {key!r} of the execution accelerator 'tensorrt'")
        is_switch = name.endswith("_enable") or name in TENSORRT_SWITCHES
        options[name] = str(switch(key, text)) if is_switch else text
    return options


def execution_providers(config: Json, kind: str, device: int) -> list[tuple[str, dict[str, str]]]:
    """The execution providers that a model configuration asks for, first choice first.

    Args:
        config: The model configuration.
        kind: The instance's kind, `GPU` or `CPU` (`MODEL` counts as CPU).
        device: The instance's GPU.

    Raises:
        ConfigurationError: An unknown accelerator or one of its parameters.
    """
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    providers: list[tuple[str, dict[str, str]]] = []
    if kind == "GPU":
        cuda = {}
        for name, values in CUDA_PARAMETERS.items():
            if (text := parameter(config, name)) is not None:
                if values and text not in values:
                    raise ConfigurationError(f"parameter {name} is {text!r}; it must be one of {list(values)}")
                cuda[name] = values.get(text, text)
        for accelerator in accelerators.get("gpu_execution_accelerator", []):
            parameters = accelerator.get("parameters", {})
            if accelerator["name"] == "tensorrt":
                options = tensorrt_options(parameters) | {"device_id": str(device)}
                providers.append(("TensorrtExecutionProvider", options))
            elif accelerator["name"] == "cuda":
                cuda |= parameters
            else:
                raise ConfigurationError(f"unknown GPU execution accelerator {accelerator['name']!r}")
        providers.append(("CUDAExecutionProvider", cuda | {"device_id": str(device)}))
    for accelerator in accelerators.get("cpu_execution_accelerator", []):
        if accelerator["name"] != "openvino":
            raise ConfigurationError(f"unknown CPU execution accelerator {accelerator['name']!r}")
        providers.append(("OpenVINOExecutionProvider", {"device_type": "CPU"} | accelerator.get("parameters", {})))
    return [*providers, ("CPUExecutionProvider", {})]


def mismatches(config: Json, session: ort.InferenceSession) -> list[str]:
    """Where the configuration's inputs and outputs differ from the graph's, one line each."""
    batched = config["max_batch_size"] > 0
    problems = []
    for role, nodes in (("input", session.get_inputs()), ("output", session.get_outputs())):
        graph = {node.name: node for node in nodes}
        configured = {entry["name"]: entry for entry in config[role]}
        problems += [f"{role} {name} is not in the graph: {list(graph)}" for name in configured.keys() - graph.keys()]
        if role == "input":
            problems += [f"input {name} of the graph is not configured" for name in graph.keys() - configured.keys()]
        for name in configured.keys() & graph.keys():
            entry, node = configured[name], graph[name]
            expected = ELEMENT_TYPES.get(entry["data_type"])
            if expected != node.type:
                problems.append(f"{role} {name} is {entry['data_type']}, the graph has {node.type}")
            for setting in ("reshape", "optional", "allow_ragged_batch"):
                if entry.get(setting):
                    problems.append(f"{role} {name} has {setting}, which this backend does not do")
            dims = [-1] * batched + [int(size) for size in entry["dims"]]
            if batched and node.shape and isinstance(node.shape[0], int):
                problems.append(
                    f"{role} {name} has a fixed batch of {node.shape[0]} in the graph; export it with a dynamic batch, "
                    "or write max_batch_size: 0"
                )
            elif not shapes_agree(dims, node.shape, exactly=role == "output"):
                whole = "with the batch, " if batched else ""
                problems.append(f"{role} {name} is {whole}{dims}, the graph has {node.shape}")
    return problems


def shapes_agree(dims: list[int], shape: list[int | str | None], exactly: bool) -> bool:
    """Whether the C++ backend takes a configured shape (-1: any) for the graph's (a name or None: any).

    Of outputs it takes only the graph's own; of inputs also a number where the graph leaves the axis free.
    """
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    return len(dims) == len(sizes) and all(
        dim == size or (size == -1 and not exactly) for dim, size in zip(dims, sizes, strict=True)
    )


class TritonPythonModel:
    """One instance of one ONNX model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session.

        Raises:
            TritonModelException: The file cannot be read, or the configuration does not fit it or this machine.
        """
        self._config: Json = json.loads(args["model_config"])
        filename = self._config.get("default_model_filename") or "model.onnx"
        path = Path(args["model_repository"]) / args["model_version"] / filename
        try:
            self._session = self._open(path, args["model_instance_kind"], int(args["model_instance_device_id"]))
        except Exception as error:  # whatever ONNX Runtime raises, its reason belongs into the server's log
            raise pb_utils.TritonModelException(f"{path}: {error}") from error
        self._batched = self._config["max_batch_size"] > 0
        self._inputs = [entry["name"] for entry in self._config["input"]]
        self._outputs = [entry["name"] for entry in self._config["output"]]
        self._run_options = ort.RunOptions()
        entry = "memory.enable_memory_arena_shrinkage"
        if (text := parameter(self._config, entry)) is not None:
            self._run_options.add_run_config_entry(entry, text)

    def _open(self, path: Path, kind: str, device: int) -> ort.InferenceSession:
        if path.is_dir():
            path = path / "model.onnx"
        if not path.is_file():
            raise ConfigurationError("no such file")
        providers = execution_providers(self._config, kind, device)
        available = ort.get_available_providers()
        for name, _ in providers:
            if name not in available:
                raise ConfigurationError(
                    f"the configuration needs {name}, and this build of onnxruntime {ort.__version__} has only "
                    f"{available}; install {PACKAGES[name]}, or change instance_group or execution_accelerators"
                )
        options = session_options(self._config)
        session = ort.InferenceSession(path, options, providers=providers)
        wanted = [name for name, _ in providers]
        if session.get_providers()[: len(wanted)] != wanted:
            # ONNX Runtime falls back to the CPU when a provider's libraries do not load: say so, rather than crawl.
            raise ConfigurationError(
                f"the configuration needs {wanted}, ONNX Runtime could start only "
                f"{session.get_providers()}; its reason is in the log above"
            )
        problems = mismatches(self._config, session)
        if problems:
            raise ConfigurationError("config.pbtxt does not fit the graph: " + "; ".join(problems))
        threads = options.intra_op_num_threads or "one per core"
        pb_utils.Logger.log_info(
            f"{self._config['name']}: {path.name} on {session.get_providers()}"
            f"{f', GPU {device}' if kind == 'GPU' else ''}, intra-op threads: {threads}"
        )
        if session.get_modelmeta().custom_metadata_map.get("untrained", "").lower() == "true":
            pb_utils.Logger.log_warn(f"{self._config['name']}: UNTRAINED, random weights: its outputs mean nothing")
        return session

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request: those of one shape in one run, an error only to those that cause it."""
        feeds = [self._feed(request) for request in requests]
        groups: dict[Any, list[int]] = defaultdict(list)
        for index, feed in enumerate(feeds):
            alone = index if not self._batched else None
            groups[alone, tuple(array.shape[1:] for array in feed.values())].append(index)
        answers: list[Any] = [None] * len(requests)
        for indices in groups.values():
            responses = self._run([requests[i] for i in indices], [feeds[i] for i in indices])
            for index, response in zip(indices, responses, strict=True):
                answers[index] = response
        return answers

    def finalize(self) -> None:
        """Close the session and free its memory."""
        del self._session

    def _feed(self, request: Any) -> dict[str, Array]:
        # Triton has checked names, element types and shapes against the configuration before a request gets here.
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}

    def _run(self, requests: list[Any], feeds: list[dict[str, Array]]) -> list[Any]:
        """One session run for requests of one shape; one by one when that fails."""
        wanted = [set(request.requested_output_names()) for request in requests]
        names = [name for name in self._outputs if any(name in some for some in wanted)]
        if len(feeds) == 1:
            feed = feeds[0]
        else:
            feed = {name: np.concatenate([one[name] for one in feeds]) for name in self._inputs}
        try:
            results = dict(zip(names, self._session.run(names, feed, self._run_options), strict=True))
            parts = self._split(results, [len(one[self._inputs[0]]) if self._batched else 1 for one in feeds])
        except Exception as error:  # noqa: BLE001 - the process boundary: whatever fails becomes this request's error
            if len(requests) > 1:
                return [self._run([request], [one])[0] for request, one in zip(requests, feeds, strict=True)]
            message = f"{self._config['name']}: {error}"
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(message))]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, part[name]) for name in names if name in some])
            for part, some in zip(parts, wanted, strict=True)
        ]

    def _split(self, results: dict[str, Array], sizes: list[int]) -> list[dict[str, Array]]:
        if not self._batched:
            return [results]
        for name, array in results.items():
            if len(array) != sum(sizes):
                raise ValueError(f"output {name} has {len(array)} rows for a batch of {sum(sizes)}")
        bounds = np.cumsum(sizes)[:-1]
        split = {name: np.split(array, bounds) for name, array in results.items()}
        return [{name: arrays[i] for name, arrays in split.items()} for i in range(len(sizes))]
