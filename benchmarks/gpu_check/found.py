"""What this machine has of what the check can use."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu import IMAGE
from benchmarks.gpu_check.runner import Context, Detail

PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu12",
    "polygraphy",
    "transformers",
    "peft",
    "accelerate",
)

_GPU_FIELDS = ("name", "compute_cap", "driver_version", "memory.total", "clocks.max.sm", "power.limit")


def run(context: Context) -> Iterator[Detail]:
    """Look for driver, packages, server and container; nothing of it is an error where it is not there."""
    yield Detail("gpu", nvidia_smi())
    yield Detail("packages", {name: found for name in PACKAGES if (found := _version(name))})
    yield Detail("torch", _torch())
    yield Detail("onnxruntime", _providers())
    yield Detail("triton", triton())


def nvidia_smi() -> dict[str, str] | None:
    """What the driver tells of the first GPU; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(_GPU_FIELDS, (field.strip() for field in answer.partition("\n")[0].split(",")), strict=False))


def triton() -> dict[str, str]:
    """Where tritonserver could be run from: this system, this checkout, or the container image."""
    places = {}
    system = shutil.which("tritonserver") or shutil.which("tritonserver", path="/opt/tritonserver/bin")
    if system:
        places["system"] = system
    if Path(".triton/bin/tritonserver").exists():
        places["checkout"] = ".triton"
    docker = shutil.which("docker")
    if docker and not subprocess.run([docker, "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        places["image"] = IMAGE
    return places


def _torch() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"version": torch.__version__, "cuda": torch.version.cuda, "threads": os.cpu_count()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
        }
    return found


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
