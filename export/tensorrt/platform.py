"""What TensorRT engines are built with here, or exactly what is missing."""

import ctypes
import importlib
import shutil
import subprocess
from dataclasses import dataclass

from export.errors import TensorrtError

OLDEST = (10, 12)
"""TensorRT's first release in which strongly typed networks hold all that is needed here; 11 has no others."""

CONTAINER = "make engines"
"""Builds them in NVIDIA's container."""


@dataclass(frozen=True)
class Platform:
    """Versions and GPU; an engine is bound to the first and the compute capability.

    Attributes:
        tensorrt: Version of TensorRT.
        cuda: Version of CUDA that the driver serves.
        gpu: Name of the first GPU.
        compute_capability: Of that GPU, such as 9.0.
        driver: Version of NVIDIA's driver.
    """

    tensorrt: str
    cuda: str
    gpu: str
    compute_capability: str
    driver: str


def require_tensorrt() -> Platform:
    """Find what an engine needs.

    Raises:
        TensorrtError: Naming all that is missing and where it is not.
    """
    missing = []
    tensorrt, problem = _tensorrt_version()
    if problem:
        missing.append(problem)
    gpu, problem = _gpu()
    if problem:
        missing.append(problem)
    if missing:
        raise TensorrtError(
            f"no TensorRT engine can be built here: {'; '.join(missing)}. "
            f"Run `{CONTAINER}`, which builds them in NVIDIA's Triton container on a machine with a GPU; "
            "without --target tensorrt, the ONNX models alone are exported"
        )
    name, capability, driver = gpu
    return Platform(tensorrt, _cuda_version(), name, capability, driver)


def _tensorrt_version() -> tuple[str, str]:
    """The version, and what is wrong with it."""
    try:
        version = str(importlib.import_module("tensorrt").__version__)
    except ImportError as error:
        return "", f"the Python package tensorrt cannot be imported ({error})"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        return version, f"TensorRT {version} is too old, {'.'.join(map(str, OLDEST))} or later is needed"
    return version, ""


def _gpu() -> tuple[list[str], str]:
    """Name, compute capability and driver of the first GPU; and what is wrong."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], "there is no NVIDIA GPU (no nvidia-smi)"
    command = [program, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        outcome = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return [], f"no NVIDIA GPU can be used (nvidia-smi fails: {error})"
    fields = [field.strip() for field in outcome.stdout.partition("\n")[0].split(",")]
    if len(fields) != 3:
        return [], f"nvidia-smi answers {outcome.stdout.strip()!r}, not a GPU"
    return fields, ""


def _cuda_version() -> str:
    """Of the driver's CUDA; empty where it does not tell."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return ""
    return "" if failed else f"{version.value // 1000}.{version.value % 1000 // 10}"
