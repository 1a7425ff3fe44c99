"""What the server is measured against, each in a process of its own: threads and memory of one do not touch others."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

import click

from benchmarks.load.workloads import Item


class Scorer(Protocol):
    """A way to score images."""

    def score(self, images: list[Item]) -> list[float]:
        """The probability of fake of each image, before any rounding; empty where networks run without a vote."""
        ...


class Baseline:
    """A scorer in a process of its own, from `with` to its end.

    Args:
        name: For messages.
        factory: Makes the scorer, in that process; a function or class of a module.
        arguments: For the factory.
    """

    def __init__(self, name: str, factory: Callable[..., Scorer], *arguments: object) -> None:
        self._name = name
        self._factory = (factory, arguments)

    def __enter__(self) -> "Baseline":
        # Spawned: a fork would share what ONNX Runtime and gRPC have started in this process.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, initializer=_open, initargs=self._factory)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def score(self, images: list[Item]) -> list[float]:
        """The scorer's answers."""
        return self.timed(images)[0]

    def seconds(self, images: list[Item]) -> float:
        """How long it takes over these images, measured in its process."""
        return self.timed(images)[1]

    def timed(self, images: list[Item]) -> tuple[list[float], float]:
        """The scorer's answers, and how long they took."""
        try:
            return self._pool.submit(_score, images).result()
        except BrokenProcessPool as error:
            raise click.ClickException(
                f"the process of {self._name!r} ended; if no error stands above, memory ran out"
            ) from error


_scorer: Scorer


def _open(factory: Callable[..., Scorer], arguments: tuple[object, ...]) -> None:
    global _scorer
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback of its own.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # Networks are built from sizes; nothing is to be looked up.
    _scorer = factory(*arguments)


def _score(images: list[Item]) -> tuple[list[float], float]:
    start = time.perf_counter()
    scores = _scorer.score(images)
    return scores, time.perf_counter() - start
