"""TensorRT engines of a repository: whether they are those of its models, and run with what is on this machine."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from server.findings import Finding, Level
from server.nvidia_smi import DriverError, query_gpus

SUBJECT = "engines"
REBUILD = "run `make engines` (or `python -m export --target tensorrt` where TensorRT is)"
_VERSION_PROGRAM = """
import ctypes, ctypes.util
try:
    import tensorrt
    print(tensorrt.__version__)
except ImportError:
    number = ctypes.CDLL(ctypes.util.find_library("nvinfer")).getInferLibVersion()
    print(f"{number // 10000}.{number // 100 % 100}.{number % 100}")
"""
"""Tells which TensorRT a server here would load, by its library where there is no Python package."""


@dataclass(frozen=True)
class Runtime:
    """What engines would run with; empty where it is not there.

    Attributes:
        tensorrt: Version of TensorRT.
        gpu: Name of the first GPU.
        compute_capability: Of that GPU.
    """

    tensorrt: str = ""
    gpu: str = ""
    compute_capability: str = ""


def find_runtime() -> Runtime:
    """Look for TensorRT and a GPU on this machine."""
    # In a process of its own, as TensorRT takes memory and may be broken.
    version = _output(sys.executable, "-c", _VERSION_PROGRAM)
    try:
        gpus = query_gpus("name", "compute_cap") or [""]
    except DriverError:
        gpus = [""]
    name, _, capability = gpus[0].rpartition(",")
    return Runtime(version, name.strip(), capability.strip())


def check_engines(repository: Path, runtime: Runtime | None = None) -> Iterator[Finding]:
    """Hold each engine's manifest against its model and what is here; nothing where there are no engines.

    Args:
        repository: The model repository.
        runtime: What is here; found out unless given.
    """
    engines = sorted(repository.glob("*/*/model.plan"))
    if not engines:
        return
    runtime = find_runtime() if runtime is None else runtime
    found = [(engine.parents[1].name, *_examine(engine, runtime)) for engine in engines]
    for name, level, problem in found:
        if level is not Level.OK:
            yield Finding(SUBJECT, level, f"{name}: {problem}", REBUILD)
    fine = {name: built for name, level, built in found if level is Level.OK}
    if fine:
        here = "not tried: there is no TensorRT with a GPU here"
        if runtime.tensorrt and runtime.gpu:
            here = f"here: TensorRT {runtime.tensorrt}, {runtime.gpu}"
        yield Finding(SUBJECT, Level.OK, f"{', '.join(fine)}: built with {next(iter(fine.values()))}; {here}")


def _examine(engine: Path, runtime: Runtime) -> tuple[Level, str]:
    """What is wrong with an engine; or what it was built with."""
    path = engine.with_name("model.plan.json")
    try:
        manifest: Mapping[str, str] = json.loads(path.read_text(encoding="utf-8"))
        version, gpu, capability, model = (
            str(manifest[key]) for key in ("tensorrt", "gpu", "compute_capability", "onnx_sha256")
        )
    except FileNotFoundError:
        return Level.WARNING, f"of unknown origin ({path} is missing)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Level.WARNING, f"of unknown origin ({path} is unreadable: {type(error).__name__}: {error})"
    onnx = engine.with_name("model.onnx")
    if onnx.is_file() and _sha256(onnx) != model:
        return Level.WRONG, f"built from another model than {onnx}"
    if runtime.tensorrt and _release(runtime.tensorrt) != _release(version):
        return Level.WRONG, f"built with TensorRT {version}; TensorRT {runtime.tensorrt}, which is here, refuses it"
    if runtime.compute_capability and runtime.compute_capability != capability:
        return Level.WRONG, (
            f"built for {gpu} (compute capability {capability}); the GPU here is {runtime.gpu} "
            f"({runtime.compute_capability})"
        )
    if runtime.gpu and runtime.gpu != gpu:
        return Level.WARNING, f"built for {gpu}; on {runtime.gpu}, which is here, it may be slow"
    return Level.OK, f"TensorRT {version}, {gpu}"


def _release(version: str) -> tuple[str, ...]:
    """Major, minor and patch: the library does not tell more, and an engine is bound to them."""
    return tuple(version.split(".")[:3])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _output(*command: str) -> str:
    """What a program prints; empty where it fails."""
    try:
        outcome = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return outcome.stdout.strip()
