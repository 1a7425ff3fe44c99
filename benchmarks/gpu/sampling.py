"""What a GPU does meanwhile, ten times a second, as NVIDIA's management library tells."""

import threading
from dataclasses import dataclass, field
from importlib import import_module
from statistics import mean
from types import TracebackType
from typing import Any, Self

import click

_INTERVAL = 0.1


def open_gpu(index: int) -> "Gpu":
    """Find a GPU of this machine.

    Raises:
        click.ClickException: There is no such GPU, no driver, or not the library.
    """
    try:
        pynvml = import_module("pynvml")
    except ModuleNotFoundError as error:
        raise click.ClickException("nvidia-ml-py is not installed: pip install nvidia-ml-py") from error
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        return Gpu(
            name=str(pynvml.nvmlDeviceGetName(handle)),
            driver=str(pynvml.nvmlSystemGetDriverVersion()),
            memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            library=pynvml,
            handle=handle,
        )
    except pynvml.NVMLError as error:
        raise click.ClickException(
            f"GPU {index} cannot be used ({error}): see that nvidia-smi shows it, or make a dry run with --device cpu"
        ) from error


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: As NVIDIA calls it.
        driver: Version of its driver.
        memory_bytes: All of its memory.
    """

    name: str
    driver: str
    memory_bytes: int
    library: Any = field(repr=False)
    handle: Any = field(repr=False)


class Sampler:
    """Samples a GPU within a `with` block.

    Args:
        gpu: None to sample nothing.
    """

    def __init__(self, gpu: Gpu | None) -> None:
        self._gpu = gpu
        self._samples: list[tuple[float, float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def summary(self) -> dict[str, float] | None:
        """Mean share of the time in which a kernel ran, most memory in use, mean power; None without a GPU."""
        if not self._samples:
            return None
        utilisation, memory, power = zip(*self._samples, strict=True)
        return {"utilisation": mean(utilisation), "memory_peak_bytes": max(memory), "power_watts": mean(power)}

    def _run(self) -> None:
        if self._gpu is None:
            return
        library, handle = self._gpu.library, self._gpu.handle
        while not self._stop.wait(_INTERVAL):
            self._samples.append(
                (
                    library.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
                    float(library.nvmlDeviceGetMemoryInfo(handle).used),
                    library.nvmlDeviceGetPowerUsage(handle) / 1000,
                )
            )
