"""How long work on a device takes."""

import time
from collections.abc import Callable

import torch

WARM_UP = 2
"""Runs that are not counted: they choose kernels and get memory."""


def timed(work: Callable[[], object], device: str, seconds: float, most: int = 50) -> list[float]:
    """Run work for about so long; give the seconds that each run took, at least two.

    Runs are timed one by one, the device waited for after each: it costs microseconds, of work that takes milliseconds.

    Args:
        work: What to time.
        device: That it runs on.
        seconds: After which no further run begins.
        most: Runs.
    """
    for _ in range(WARM_UP):
        work()
    _wait(device)
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < 2 or (len(took) < most and time.perf_counter() < end):
        start = time.perf_counter()
        work()
        _wait(device)
        took.append(time.perf_counter() - start)
    return took


def peak_memory(device: str) -> int | None:
    """The most bytes that torch had on the GPU since the last call of `forget_memory`; None on a CPU."""
    return None if device == "cpu" else int(torch.cuda.max_memory_allocated())


def forget_memory(device: str) -> None:
    """Begin to count anew, from what is held now."""
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
