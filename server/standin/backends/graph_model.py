"""What the stand-in backends share: a graph served from a file, requests to batches, batches to responses."""

import json
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

Array = np.ndarray[Any, np.dtype[Any]]
Json = dict[str, Any]


class ConfigurationError(ValueError):
    """The model's configuration asks for something that cannot be served."""


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        data_type: Its element type, as config.pbtxt writes it.
        shape: Sizes, the batch included; None where any size is taken.
    """

    name: str
    data_type: str
    shape: Sequence[int | None]


def parameter(config: Json, name: str) -> str | None:
    """A model parameter's text, or None where config.pbtxt does not set it."""
    entry = config.get("parameters", {}).get(name)
    return None if entry is None else str(entry["string_value"])


def mismatches(config: Json, role: str, ports: Sequence[Port], *, strict: bool = False) -> list[str]:
    """Where the configuration's inputs or outputs differ from the graph's, one line each.

    Args:
        config: The model configuration; where it reshapes a tensor, it is the reshaped one that is the graph's.
        role: `input` or `output`.
        ports: The graph's.
        strict: Whether free axes are as for the C++ backend of ONNX Runtime: of an input, what the graph fixes must be
            fixed; an output must be free where the graph's is, and nowhere else.
    """
    batched = config["max_batch_size"] > 0
    graph = {port.name: port for port in ports}
    configured = {entry["name"]: entry for entry in config[role]}
    problems = [f"{role} {name} is not in the graph: {list(graph)}" for name in configured.keys() - graph.keys()]
    if role == "input":
        problems += [f"input {name} of the graph is not configured" for name in graph.keys() - configured.keys()]
    for name in configured.keys() & graph.keys():
        entry, port = configured[name], graph[name]
        if entry["data_type"] != port.data_type:
            problems.append(f"{role} {name} is {entry['data_type']}, the graph has {port.data_type}")
        for setting in ("optional", "allow_ragged_batch"):
            if entry.get(setting):
                problems.append(f"{role} {name} has {setting}, which this backend does not do")
        sizes = reshape["shape"] if (reshape := entry.get("reshape")) else entry["dims"]
        dims = [-1] * batched + [int(size) for size in sizes]
        shape = [-1 if size is None else size for size in port.shape]
        if batched and shape and shape[0] != -1:
            problems.append(
                f"{role} {name} has a fixed batch of {shape[0]} in the graph; export it with a dynamic batch, "
                "or write max_batch_size: 0"
            )
        elif not (fits(role, dims, shape) if strict else shapes_agree(dims, shape)):
            whole = "with the batch, " if batched else ""
            problems.append(f"{role} {name} is {whole}{dims}, the graph has {shape}")
    return problems


def shapes_agree(dims: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a configured shape can be the graph's (-1: any)."""
    return len(dims) == len(shape) and all(-1 in pair or pair[0] == pair[1] for pair in zip(dims, shape, strict=True))


def fits(role: str, dims: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether the C++ backend of ONNX Runtime takes a configured shape for the graph's (-1: any)."""
    if role == "output":
        return list(dims) == list(shape)
    return len(dims) == len(shape) and all(size in (-1, dim) for dim, size in zip(dims, shape, strict=True))


class GraphModel(ABC):
    """One instance of one graph; a backend says how it is opened and run.

    Attributes:
        config: The model configuration.
        default_filename: The file that is served where it names none.
        as_onnxruntime: Whether shapes and the order of outputs are as in the C++ backend of ONNX Runtime: see
            `mismatches`; outputs are sent in the order of their names, whatever the configuration's is.
    """

    config: Json
    default_filename = "model.onnx"
    as_onnxruntime = False

    @abstractmethod
    def open(self, path: Path, kind: str, device: int) -> None:
        """Open the graph.

        Args:
            path: Its file.
            kind: The instance's kind, `GPU` or `CPU` (`MODEL` counts as CPU).
            device: The instance's GPU.

        Raises:
            ConfigurationError: The configuration does not fit it or this machine.
        """

    @abstractmethod
    def infer(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        """Run the graph on the inputs by name; the outputs of these names, in memory that stays theirs."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph of a model.

        Raises:
            TritonModelException: The file cannot be read, or the configuration does not fit it or this machine.
        """
        self.config = json.loads(args["model_config"])
        filename = self.config.get("default_model_filename") or self.default_filename
        path = Path(args["model_repository"]) / args["model_version"] / filename
        try:
            if path.is_dir():
                path = path / self.default_filename
            if not path.is_file():
                raise ConfigurationError("no such file")
            self.open(path, args["model_instance_kind"], int(args["model_instance_device_id"]))
        except Exception as error:  # whatever the runtime raises, its reason belongs into the server's log
            raise pb_utils.TritonModelException(f"{path}: {error}") from error
        self._batched = self.config["max_batch_size"] > 0
        self._inputs = [entry["name"] for entry in self.config["input"]]
        outputs = [entry["name"] for entry in self.config["output"]]
        self._outputs = sorted(outputs) if self.as_onnxruntime else outputs
        # Where the configuration leaves a size free, whoever calls the model would choose how much memory it takes.
        self._max_elements = int(parameter(self.config, "max_input_elements") or 2**31)

    def require_fit(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        """Refuse a configuration whose tensors are not the graph's.

        Raises:
            ConfigurationError: With every difference.
        """
        problems = mismatches(self.config, "input", inputs, strict=self.as_onnxruntime)
        problems += mismatches(self.config, "output", outputs, strict=self.as_onnxruntime)
        if problems:
            raise ConfigurationError("config.pbtxt does not fit the graph: " + "; ".join(problems))

    def warn_if_untrained(self, metadata: Mapping[str, str]) -> None:
        """Say in the log where the graph says that its weights are random."""
        if metadata.get("untrained", "").lower() == "true":
            pb_utils.Logger.log_warn(f"{self.config['name']}: UNTRAINED, random weights: its outputs mean nothing")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request: those of one shape in one run, an error only to those that cause it."""
        answers: list[Any] = [None] * len(requests)
        feeds: dict[int, dict[str, Array]] = {}
        groups: dict[Any, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            try:
                feeds[index] = self._feed(request)
            except Exception as error:  # noqa: BLE001 - the process boundary: it becomes this request's error
                answers[index] = self._error(error)
                continue
            alone = index if not self._batched else None
            groups[alone, tuple(array.shape[1:] for array in feeds[index].values())].append(index)
        for indices in groups.values():
            responses = self._run([requests[i] for i in indices], [feeds[i] for i in indices])
            for index, response in zip(indices, responses, strict=True):
                answers[index] = response
        return answers

    def _feed(self, request: Any) -> dict[str, Array]:
        # Triton has checked names, element types and shapes against the configuration before a request gets here.
        feed = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
        for name, array in feed.items():
            elements = math.prod(array.shape[1:] if self._batched else array.shape)
            if elements > self._max_elements:
                raise ValueError(
                    f"input {name} is {list(array.shape)}: over the limit of {self._max_elements} elements"
                )
        return feed

    def _error(self, error: Exception) -> Any:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.config['name']}: {error}"))

    def _run(self, requests: list[Any], feeds: list[dict[str, Array]]) -> list[Any]:
        """One run for requests of one shape; one by one when that fails."""
        wanted = [set(request.requested_output_names()) for request in requests]
        names = [name for name in self._outputs if any(name in some for some in wanted)]
        if len(feeds) == 1:
            feed = feeds[0]
        else:
            feed = {name: np.concatenate([one[name] for one in feeds]) for name in self._inputs}
        try:
            results = dict(zip(names, self.infer(names, feed), strict=True))
            parts = self._split(results, [len(one[self._inputs[0]]) if self._batched else 1 for one in feeds])
        except Exception as error:  # noqa: BLE001 - the process boundary: whatever fails becomes this request's error
            if len(requests) > 1:
                return [self._run([request], [one])[0] for request, one in zip(requests, feeds, strict=True)]
            return [self._error(error)]
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
        if len(sizes) == 1:
            return [results]
        bounds = np.cumsum(sizes)[:-1]
        split = {name: np.split(array, bounds) for name, array in results.items()}
        return [{name: arrays[i] for name, arrays in split.items()} for i in range(len(sizes))]
