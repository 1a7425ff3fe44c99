"""The ensemble and what it is measured against, in turn: what slows the machine down hits all of them alike."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Protocol

import click
import numpy as np
import psutil
from deepfake_client import DetectorClient

from benchmarks.baselines import authors, backbones, one_process
from benchmarks.baselines.baseline import Baseline, Scorer
from benchmarks.baselines.runtime import Runtime
from benchmarks.common.serving import serve, weights_of
from benchmarks.comparison.goals import AUTHORS, BACKBONES, CLIENT, ENSEMBLE, ONE_PROCESS
from benchmarks.load.perf_analyzer import Load, PerfAnalyzer
from benchmarks.load.workloads import MAIN, Item, items

SERVER = "server"
LARGEST_DISAGREEMENT = 0.05
"""In any probability: seeded networks under bfloat16 stay within 0.02, and a wrong crop or colour order does not."""

_MEMORY_OVERHEAD = 1.3
"""A runtime's memory over the size of the weights."""

Throughputs = dict[str, float]


class Participant(Protocol):
    """Something that scores images."""

    def measure(self) -> Throughputs:
        """Images a second, by way."""
        ...

    def answers(self, images: list[Item]) -> list[float]:
        """Probabilities of fake; empty where it gives none."""
        ...


Opener = Callable[[], AbstractContextManager[Participant]]


class Local:
    """A baseline, with as many images as take `seconds`."""

    def __init__(self, name: str, baseline: Baseline, batch_size: int, images: list[Item], seconds: float) -> None:
        self._name, self._baseline, self._images = name, baseline, images
        took = baseline.seconds(_taken(images, batch_size))  # Warm-up, and a guess good enough where one batch is all.
        if took < seconds:
            took = baseline.seconds(_taken(images, batch_size))
        self._count = batch_size * max(1, round(seconds / took))

    def measure(self) -> Throughputs:
        return {self._name: self._count / self._baseline.seconds(_taken(self._images, self._count))}

    def answers(self, images: list[Item]) -> list[float]:
        return self._baseline.score(images)


class Served:
    """The server, asked by perf_analyzer and by our client: the same images, batches and requests in flight."""

    def __init__(
        self, perf_analyzer: PerfAnalyzer, client: DetectorClient, load: Load, images: list[Item], seconds: float
    ) -> None:
        self._load, self._images, self._perf_analyzer, self._client = load, images, perf_analyzer, client
        in_flight = load.concurrency or 1
        least = 2 * in_flight
        run = perf_analyzer.run(load, in_flight)  # Warm-up, and a guess good enough where that is slow.
        if run.seconds < seconds:
            run = perf_analyzer.run(load, least)
        self._requests = max(least, math.ceil(seconds * run.throughput / load.batch_size))

    def measure(self) -> Throughputs:
        images = _taken(self._images, self._requests * self._load.batch_size)
        served = self._perf_analyzer.run(self._load, self._requests).throughput
        start = time.perf_counter()
        answered = sum(verdict.ok for verdict in self._client.score_many((each.data, each.box) for each in images))
        seconds = time.perf_counter() - start
        if answered != len(images):
            raise click.ClickException(f"the server scored {answered} of {len(images)} images that it should score")
        return {ENSEMBLE: served, CLIENT: answered / seconds}

    def answers(self, images: list[Item]) -> list[float]:
        verdicts = self._client.score_many((each.data, each.box) for each in images)
        return [verdict.probability if verdict.probability is not None else math.nan for verdict in verdicts]


def all_ways(
    repository: Path, runtime: Runtime, model_config_name: str | None, load: Load, seconds: float
) -> dict[str, Opener]:
    """The ways to score images that are compared, none of them open yet.

    Args:
        repository: The model repository, exported from checkpoints beside it.
        runtime: That of the server.
        model_config_name: That of the server.
        load: On the server; a closed loop.
        seconds: How long each is to take in a round, about.
    """
    images = items(MAIN)

    @contextmanager
    def served() -> Iterator[Participant]:
        with (
            serve(repository, model_config_name) as endpoint,
            PerfAnalyzer(endpoint.url, images) as perf_analyzer,
            DetectorClient(endpoint.url, batch_size=load.batch_size, max_in_flight=load.concurrency or 1) as client,
        ):
            yield Served(perf_analyzer, client, load, images, seconds)

    def local(name: str, batch_size: int, factory: Callable[..., Scorer], *arguments: object) -> Opener:
        @contextmanager
        def opened() -> Iterator[Participant]:
            with Baseline(name, factory, *arguments) as baseline:
                yield Local(name, baseline, batch_size, images, seconds)

        return opened

    return {
        SERVER: served,
        ONE_PROCESS: local(ONE_PROCESS, one_process.BATCH_SIZE, one_process.OneProcess, repository, runtime),
        AUTHORS: local(AUTHORS, authors.BATCH_SIZE, authors.Authors, weights_of(repository)),
        BACKBONES: local(BACKBONES, backbones.BATCH_SIZE, backbones.Backbones, repository, runtime),
    }


def fits_together(repository: Path, participants: int) -> bool:
    """Whether so many copies of the networks fit into the memory that is free."""
    weights = sum(path.stat().st_size for path in repository.glob("*/1/model.onnx*"))
    return participants * weights * _MEMORY_OVERHEAD < psutil.virtual_memory().available


def measure_in_turn(
    participants: Mapping[str, Opener], rounds: int, *, together: bool, advance: Callable[[], object]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Measure all participants in every round, in another order each time.

    Args:
        participants: Those of `all_ways`.
        rounds: How many.
        together: Keep all of them open; otherwise each is opened alone, anew in every round.
        advance: Called after each measurement.

    Returns:
        Throughputs by way, round by round; and how far each participant's probabilities are from the server's.

    Raises:
        click.ClickException: They are too far apart: what is compared would not be the same work.
    """
    found: dict[str, list[float]] = {}
    answers: dict[str, list[float]] = {}
    sample = items(MAIN)[: one_process.BATCH_SIZE]
    with ExitStack() as everyone:
        opened = {name: everyone.enter_context(opener()) for name, opener in participants.items() if together}
        for number in range(rounds):
            for name in _rotated(list(participants), number):
                with ExitStack() as alone:
                    participant = opened[name] if together else alone.enter_context(participants[name]())
                    if name not in answers:
                        answers[name] = participant.answers(sample)
                    for way, throughput in participant.measure().items():
                        found.setdefault(way, []).append(throughput)
                advance()
    return found, _disagreements(answers)


def _disagreements(answers: Mapping[str, list[float]]) -> dict[str, float]:
    served = np.array(answers[SERVER])
    far = {name: float(np.abs(np.array(each) - served).max()) for name, each in answers.items() if each}
    for name, distance in far.items():
        if not distance <= LARGEST_DISAGREEMENT:
            raise click.ClickException(
                f"{name} and the server are {distance:.3f} apart in a probability (limit {LARGEST_DISAGREEMENT}): "
                "they do not do the same work, and comparing their speed would mean nothing"
            )
    return far


def _rotated(names: Sequence[str], by: int) -> list[str]:
    shift = by % len(names)
    return [*names[shift:], *names[:shift]]


def _taken(images: list[Item], count: int) -> list[Item]:
    return list(islice(cycle(images), count))
