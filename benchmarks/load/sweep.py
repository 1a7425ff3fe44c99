"""The server alone, under loads of every kind: latency over throughput, and where the time goes."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from tritonclient.grpc import InferenceServerClient

from benchmarks.common.result import Better, Figure
from benchmarks.load.perf_analyzer import Load, Measured, PerfAnalyzer
from benchmarks.load.statistics import Counters, read_counters, steps
from benchmarks.load.workloads import MAIN, Workload, items

CLOSED, OPEN = "closed loop", "open loop"
PERCENTILES = ("p50", "p95", "p99")

_CAPACITY_CONCURRENCY = 8
_WORKLOAD_CONCURRENCY = 2
_LEAST_REQUESTS = 4
_LONGEST_WAIT = 5.0
"""A level is left out where a request would wait longer, in seconds: it would take minutes and tell nothing new."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long.

    Attributes:
        rounds: How often everything is measured.
        seconds: Of each measurement, about; slow levels take longer.
        comparison_seconds: The same, of the ways that are compared with each other.
        concurrencies: Levels of the closed loop with single images.
        shares: Request rates of the open loop, as shares of the capacity that is measured first.
        workloads: Kinds of images besides `MAIN`.
    """

    rounds: int
    seconds: float
    comparison_seconds: float
    concurrencies: Sequence[int]
    shares: Sequence[float]
    workloads: Sequence[Workload]


@dataclass
class Point:
    """One load on one kind of images, and what was measured so far.

    Attributes:
        labels: Of its figures.
        workload: The images.
        load: How they are sent.
        expected: Images a second, until there is a run.
        runs: One a round.
        readings: Counters of the steps before and after each run.
    """

    labels: dict[str, str | int | float]
    workload: Workload
    load: Load
    expected: float
    runs: list[Measured]
    readings: list[tuple[dict[str, Counters], dict[str, Counters]]]

    def requests(self, seconds: float) -> int:
        """How many take about so long, and at least two for each in flight: the first ones meet an idle server."""
        rate = self.runs[-1].throughput if self.runs else self.expected
        # perf_analyzer refuses fewer requests than are in flight, or than a second of the open loop has.
        least = 2 * self.load.concurrency if self.load.concurrency else math.ceil(self.load.request_rate or 0)
        return max(_LEAST_REQUESTS, least, math.ceil(seconds * rate / self.load.batch_size))

    def figures(self) -> list[Figure]:
        """Throughput and latencies of the rounds."""
        better: Better = "higher" if self.load.concurrency else "neither"
        throughput = Figure(self.labels, "throughput", "images/s", better, [run.throughput for run in self.runs])
        latencies = [
            Figure(self.labels, metric, "s", "lower", [getattr(run.latency, metric) for run in self.runs])
            for metric in PERCENTILES
        ]
        return [throughput, *latencies]


def measure_capacity(perf_analyzer: PerfAnalyzer, seconds: float) -> float:
    """Images a second that the server takes, single and side by side; the first requests warm it up."""
    warm_up = perf_analyzer.run(Load(1, concurrency=2), _LEAST_REQUESTS)
    if warm_up.seconds > 2 * seconds:  # Large networks: more in flight would add nothing but minutes.
        return warm_up.throughput
    requests = max(2 * _CAPACITY_CONCURRENCY, math.ceil(warm_up.throughput * seconds))
    return perf_analyzer.run(Load(1, concurrency=_CAPACITY_CONCURRENCY), requests).throughput


def points(preset: str, plan: Plan, batched: Load, capacity: float) -> list[Point]:
    """The loads of a plan.

    Args:
        preset: Of the networks.
        plan: What is asked for.
        batched: The load of batches.
        capacity: Images a second, for the rates of the open loop and for what a level will take.
    """

    def point(kind: str, workload: Workload, load: Load, **level: float) -> Point:
        labels: dict[str, str | int | float] = {
            "preset": preset,
            "load": kind,
            "images": str(workload),
            "batch": load.batch_size,
            **level,
        }
        return Point(labels, workload, load, min(capacity, load.request_rate or capacity), [], [])

    least = min(plan.concurrencies)
    levels = [each for each in plan.concurrencies if each == least or each / capacity <= _LONGEST_WAIT]
    return [
        *(point(CLOSED, MAIN, Load(1, concurrency=each), concurrency=each) for each in levels),
        point(CLOSED, MAIN, batched, concurrency=batched.concurrency or 0),
        *(point(OPEN, MAIN, Load(1, request_rate=share * capacity), share=share) for share in plan.shares),
        *(
            point(CLOSED, each, Load(1, concurrency=_WORKLOAD_CONCURRENCY), concurrency=_WORKLOAD_CONCURRENCY)
            for each in plan.workloads
        ),
    ]


def sweep(url: str, loads: list[Point], plan: Plan, advance: Callable[[], object]) -> None:
    """Measure every point in every round; what is found goes into the points.

    Args:
        url: HOST:PORT of the server.
        loads: Those of `points`.
        plan: Rounds and seconds.
        advance: Called after each measurement.
    """
    with ExitStack() as stack:
        server = stack.enter_context(InferenceServerClient(url))
        tools = {
            workload: stack.enter_context(PerfAnalyzer(url, items(workload)))
            for workload in dict.fromkeys(point.workload for point in loads)
        }
        for point in loads:
            if point.workload != MAIN:  # The capacity says nothing of it: a face that is searched for costs much more.
                point.expected = tools[point.workload].run(point.load, _LEAST_REQUESTS).throughput
        for _ in range(plan.rounds):
            for point in loads:
                before = read_counters(server)
                point.runs.append(tools[point.workload].run(point.load, point.requests(plan.seconds)))
                point.readings.append((before, read_counters(server)))
                advance()


def step_details(loads: list[Point]) -> list[dict[str, Any]]:
    """Requests and where their time went, for each point."""
    return [
        {
            "labels": point.labels,
            "requests": [run.images // point.load.batch_size for run in point.runs],
            "steps": [asdict(each) for each in steps(point.readings)],
        }
        for point in loads
    ]
