"""TensorRT engines from the exported ONNX models, by Polygraphy. Not verified on this project's machines.

An engine runs only in the TensorRT release, and well only on the kind of GPU, that it was built with: so it is built
where it is served, and a manifest beside it says what that was. `python -m server doctor` reads it.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from numpy.typing import NDArray
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.backend.trt import (
    CreateConfig,
    EngineBytesFromNetwork,
    EngineFromBytes,
    NetworkFromOnnxPath,
    Profile,
    TrtRunner,
)
from polygraphy.comparator import Comparator
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER
from tritonclient.grpc import model_config_pb2

from ensemble.faces.retinaface import LONGEST_SIDE, SHORTER_SIDE
from export.difference import Difference
from export.errors import TensorrtError
from export.half.arithmetic import HalfArithmetic
from export.layout import ENGINE_FILE, ENGINE_MANIFEST
from export.onnx.interface import INPUT
from export.parity import compare, require_parity
from export.samples import Pixels
from export.tensorrt.platform import Platform
from networks.weights.manifest import sha256_of

OPTIMAL_BATCH = 8
"""The batch size that kernels are chosen for; smaller and larger ones work."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class EngineProfile:
    """Shapes of the input that an engine takes, batch first."""

    smallest: Shape
    optimal: Shape
    largest: Shape


def read_profile(configuration: Path) -> EngineProfile:
    """Read the shapes to build for off a Triton configuration: batches up to its `max_batch_size`.

    Axes that it leaves free are sides of the face detector's images.

    Raises:
        TensorrtError: It is not a configuration with one batched input.
    """
    try:
        config = text_format.Parse(configuration.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, text_format.ParseError) as error:
        raise TensorrtError(f"{configuration}: not a Triton model configuration: {error}") from error
    if len(config.input) != 1 or config.input[0].name != INPUT or config.max_batch_size < 1:
        raise TensorrtError(f"{configuration}: an engine needs one input {INPUT} and a max_batch_size of 1 or more")
    axes, largest = tuple(config.input[0].dims), config.max_batch_size

    def shape(batch: int, side: int) -> Shape:
        return (batch, *(side if axis < 0 else axis for axis in axes))

    return EngineProfile(shape(1, 1), shape(min(OPTIMAL_BATCH, largest), SHORTER_SIDE), shape(largest, LONGEST_SIDE))


def build_engine(
    name: str,
    model: Path,
    profile: EngineProfile,
    platform: Platform,
    timing_cache: Path,
    batches: Mapping[str, Pixels],
    precision: str,
) -> tuple[list[Path], list[Difference]]:
    """Build an engine beside its ONNX model, and hold it against ONNX Runtime.

    Args:
        name: Of the model.
        model: The ONNX file; its types are those of the engine (strongly typed).
        profile: Shapes to build for.
        platform: What it is built with, for the manifest.
        timing_cache: File in which TensorRT's measurements are kept for the next build; Polygraphy locks it.
        batches: Images to compare on, by what they are.
        precision: Of the model; its tolerances hold (`export.parity.TOLERANCES`).

    Returns:
        The engine and its manifest, and the comparisons.

    Raises:
        TensorrtError: TensorRT does not build or run it.
        ParityError: It computes something else than the model.
    """
    with _polygraphy(name):
        plan, seconds = build_plan(model, profile, timing_cache)
        engine = model.with_name(ENGINE_FILE)
        engine.write_bytes(plan)
        differences = _compare(model, engine.read_bytes(), batches, precision)
    require_parity(f"{name} (TensorRT against ONNX Runtime)", differences, precision)
    manifest = model.with_name(ENGINE_MANIFEST)
    description = {
        **asdict(platform),
        "onnx_sha256": sha256_of(model),
        "engine_sha256": sha256_of(engine),
        "precision": precision,
        "profile": {INPUT: (profile.smallest, profile.optimal, profile.largest)},
        "built": datetime.now(UTC).isoformat(timespec="seconds"),
        "build_seconds": round(seconds, 1),
        "largest_difference": _largest(differences),
    }
    manifest.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return [engine, manifest], differences


def build_plan(model: Path, profile: EngineProfile, timing_cache: Path) -> tuple[bytes, float]:
    """Build an engine, and tell the seconds that it took.

    Args:
        model: The ONNX file; its types are those of the engine (strongly typed).
        profile: Shapes to build for.
        timing_cache: File in which TensorRT's measurements are kept for the next build; Polygraphy locks it.

    Raises:
        PolygraphyException: TensorRT does not build it.
    """
    start = time.monotonic()
    measured = str(timing_cache) if timing_cache.exists() else None  # the first build has none, and need not warn
    plan = EngineBytesFromNetwork(
        # TensorRT 10 must be asked for strong typing; 11 knows no other and ignores the flag.
        NetworkFromOnnxPath(str(model), strongly_typed=True),
        CreateConfig(
            profiles=[Profile().add(INPUT, profile.smallest, profile.optimal, profile.largest)],
            load_timing_cache=measured,
        ),
        save_timing_cache=str(timing_cache),
    )()
    return bytes(plan), time.monotonic() - start


def _largest(differences: Sequence[Difference]) -> dict[str, float]:
    """Of each output, on all batches."""
    largest: dict[str, float] = {}
    for each in differences:
        largest[each.output] = max(largest.get(each.output, 0.0), each.largest)
    return largest


def _compare(model: Path, plan: bytes, batches: Mapping[str, Pixels], precision: str) -> list[Difference]:
    feeds = [{INPUT: pixels} for pixels in batches.values()]
    expected = _reference(model, feeds, precision)
    (actual,) = (
        iterations for _, iterations in Comparator.run([TrtRunner(EngineFromBytes(plan))], data_loader=feeds).items()
    )
    names = tuple(expected[0])
    return compare(
        names,
        {pixels: tuple(outputs[name] for name in names) for pixels, outputs in zip(batches, expected, strict=True)},
        {pixels: tuple(outputs[name] for name in names) for pixels, outputs in zip(batches, actual, strict=True)},
        precision,
    )


def _reference(
    model: Path, feeds: Sequence[Mapping[str, Pixels]], precision: str
) -> Sequence[Mapping[str, NDArray[Any]]]:
    """The outputs of the ONNX model by name: by ONNX Runtime, which has no bfloat16 on a CPU, or in its arithmetic."""
    if precision == "bf16":
        arithmetic = HalfArithmetic(model)
        return [dict(zip(arithmetic.outputs, arithmetic.run(feed[INPUT])[0], strict=True)) for feed in feeds]
    runner = OnnxrtRunner(SessionFromOnnx(str(model), providers=["cpu"]))
    (outputs,) = (iterations for _, iterations in Comparator.run([runner], data_loader=list(feeds)).items())
    return outputs  # type: ignore[no-any-return]


@contextlib.contextmanager
def _polygraphy(name: str) -> Iterator[None]:
    """Its log kept to warnings, and its error as one of ours."""
    try:
        with G_LOGGER.verbosity(G_LOGGER.WARNING):
            yield
    except PolygraphyException as error:
        raise TensorrtError(f"{name}: TensorRT cannot build or run its engine: {error}; see the log above") from error
