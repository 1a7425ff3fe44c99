"""What this machine's processors and NVIDIA GPUs have consumed, where they say so."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

RAPL = Path("/sys/class/powercap")
"""Counters of the processors, by Linux; they are for root alone on most machines."""

Meter = Callable[[], float]
"""Joules since some moment; raises OSError where they cannot be read any more."""


def meters(powercap: Path = RAPL) -> dict[str, Meter]:
    """The meters of this machine by what they are of; none where nothing can be read."""
    found: dict[str, Meter] = {}
    packages = [path / "energy_uj" for path in sorted(powercap.glob("intel-rapl:*")) if path.name.count(":") == 1]
    readable = [path for path in packages if _reads(path)]
    if readable:
        found["processors"] = lambda: sum(int(path.read_text()) for path in readable) / 1e6
    if (gpus := _gpus()) is not None:
        found["GPUs"] = gpus
    return found


def _reads(path: Path) -> bool:
    try:
        return int(path.read_text()) >= 0
    except (OSError, ValueError):
        return False


def _gpus() -> Meter | None:
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver
        return None
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]

    def joules() -> float:
        try:
            return float(sum(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)) / 1e3
        except nvml.NVMLError as error:
            raise OSError(str(error)) from error

    try:
        joules()
    except OSError:  # GPUs before Volta do not count
        return None
    return joules if handles else None
