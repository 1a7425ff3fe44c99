"""The environment that the stand-in's tritonserver and its stubs run in."""

import importlib.util
import os
import sys
from pathlib import Path

from server.access import VERTEX_VARIABLE


def has_cuda_provider() -> bool:
    """Whether this environment's ONNX Runtime can run on an NVIDIA GPU, judged without importing it."""
    found = importlib.util.find_spec("onnxruntime")
    folders = found.submodule_search_locations if found else None
    return any(Path(each, "capi", "libonnxruntime_providers_cuda.so").exists() for each in folders or ())


def server_environment() -> dict[str, str]:
    """This process's environment, changed so that the stubs run in this virtual environment."""
    environment = os.environ | {
        # The stub runs the first python3 on PATH, and with it that environment's packages.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        # Memory of large images goes back to the system: each of the C library's arenas keeps what it had.
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
    }
    environment.pop("PYTHONHOME", None)
    environment.pop(VERTEX_VARIABLE, None)
    if not has_cuda_provider():
        # Else Triton would put on a GPU what this environment's ONNX Runtime cannot run there.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment
