"""`python -m benchmarks.overload`: several times what the server can take, and how it comes through."""

import asyncio
import math
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import click
import numpy as np
from deepfake_client import AsyncDetectorClient, DetectorError, RequestFailedError, ServerUnavailableError
from deepfake_client.errors import is_retryable  # what the client itself goes by
from rich.console import Console
from rich.table import Table

from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.common.serving import export, serve
from benchmarks.load.perf_analyzer import PerfAnalyzer
from benchmarks.load.sweep import measure_capacity
from benchmarks.load.workloads import MAIN, Item, items

ANSWERED = "answered"
CAPACITY_SECONDS = 5.0
CALM_REQUESTS = 20
PROBE_SECONDS = 0.1
CALM_PROBES = 3
"""Fast answers in a row that show the server has recovered."""


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes:
        sent: When, seconds since the overload began.
        seconds: Until the answer, or the refusal.
        kind: `answered`, or the gRPC code.
        retryable: Whether the same request may succeed later; the client would send it again.
        message: Of the error.
    """

    sent: float
    seconds: float
    kind: str = ANSWERED
    retryable: bool = True
    message: str = ""


@dataclass(frozen=True)
class Aftermath:
    """What followed on the last request sent.

    Attributes:
        recovered: Seconds until the server answered as fast as before, several times in a row; None where it did
            not in time.
        drained: Seconds until the last request of the overload had its answer.
    """

    recovered: float | None
    drained: float


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--preset", type=click.Choice(["tiny", "small"]), default="tiny", help="Size of the networks.")
@click.option("--times", default=4.0, type=click.FloatRange(min=0, min_open=True), help="The capacity, so many times.")
@click.option("--seconds", default=15.0, type=click.FloatRange(min=1), help="How long the overload lasts.")
@click.option("--deadline", default=120.0, type=click.FloatRange(min=1), help="Of each request, seconds.")
@click.option("--recovery-timeout", default=120.0, type=click.FloatRange(min=1), help="Seconds to wait for it.")
@click.option("--model-config-name", help="Serve each model's configs/NAME.pbtxt where it has one.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the result as JSON to this file."
)
def main(
    preset: str,
    times: float,
    seconds: float,
    deadline: float,
    recovery_timeout: float,
    model_config_name: str | None,
    output: Path | None,
) -> None:
    """Send single images at random intervals, several times as many as the server can take, answered or not.

    The capacity is measured first, by perf_analyzer; then the latency of single requests on the idle server. No
    request is sent again. Told is what was answered and how late, what was refused and with what error, and after
    what time single requests are as fast as before.

    Exit code 1 where a request failed with an error that sending again does not mend, or the server did not recover.
    """
    begun = circumstances("benchmarks.overload")
    images = items(MAIN)
    with serve(export(preset), model_config_name) as server:
        with PerfAnalyzer(server.url, images) as perf_analyzer:
            capacity = measure_capacity(perf_analyzer, CAPACITY_SECONDS)
        run = _overload(server.url, images, times * capacity, seconds, deadline, recovery_timeout)
        calm, outcomes, aftermath = asyncio.run(run)
    answered = [each.seconds for each in outcomes if each.kind == ANSWERED]
    refused = [each for each in outcomes if each.kind != ANSWERED]
    labels: dict[str, str | int | float] = {"preset": preset, "load": "overload", "times": times}
    figures = [
        Figure(labels, "answered a second", "images/s", "higher", [len(answered) / (seconds + aftermath.drained)]),
        Figure(labels, "calm p50", "s", "lower", [statistics.median(calm)]),
        *(
            Figure(labels, f"answered p{percent}", "s", "lower", [float(np.percentile(answered, percent))])
            for percent in (50, 95, 99)
            if answered
        ),
        Figure(labels, "refused", "share", "lower", [len(refused) / len(outcomes)]),
        *([] if aftermath.recovered is None else [Figure(labels, "recovery", "s", "lower", [aftermath.recovered])]),
    ]
    result = Result(
        benchmark="overload",
        measures="what a server answers and refuses that is sent more than it can take, and how soon it recovers",
        circumstances=begun,
        settings={
            "preset": preset,
            "times": times,
            "seconds": seconds,
            "deadline": deadline,
            "model_config_name": model_config_name,
        },
        figures=figures,
        details={
            "capacity": capacity,
            "sent": len(outcomes),
            "sent_a_second": len(outcomes) / seconds,
            "answered": len(answered),
            "errors": errors(refused),
            "recovered_seconds": aftermath.recovered,
            "drained_seconds": aftermath.drained,
        },
    )
    _print(Console(), result)
    if output:
        write(output, result)
    if aftermath.recovered is None or any(not each.retryable for each in refused):
        raise SystemExit(1)


def errors(refused: list[Outcome]) -> list[dict[str, Any]]:
    """The errors by code, the most frequent first, each with how late it came and a message for example."""
    found = []
    for kind, count in Counter(each.kind for each in refused).most_common():
        those = [each for each in refused if each.kind == kind]
        found.append(
            {
                "code": kind,
                "count": count,
                "retryable": all(each.retryable for each in those),
                "p50_seconds": statistics.median(each.seconds for each in those),
                "slowest_seconds": max(each.seconds for each in those),
                "message": those[0].message,
            }
        )
    return found


async def _overload(
    url: str, images: list[Item], rate: float, seconds: float, deadline: float, recovery_timeout: float
) -> tuple[list[float], list[Outcome], Aftermath]:
    source = cycle(images)
    async with AsyncDetectorClient(url, timeout=deadline, retries=0) as client:
        calm = [(await _request(client, next(source), time.perf_counter())).seconds for _ in range(CALM_REQUESTS)]
        start = time.perf_counter()
        tasks = []
        async for _ in _arrivals(rate, seconds):
            tasks.append(asyncio.create_task(_request(client, next(source), start)))
        last = time.perf_counter()
        recovery = asyncio.create_task(_recovery(client, source, 2 * float(np.percentile(calm, 95)), recovery_timeout))
        outcomes = await asyncio.gather(*tasks)
        drained = time.perf_counter() - last
        return calm, list(outcomes), Aftermath(await recovery, drained)


async def _arrivals(rate: float, seconds: float) -> Any:
    """Yields at random (Poisson) times; where the loop is late, several at once, so that the rate holds."""
    rng = random.Random(0)
    start = time.perf_counter()
    due = 0.0
    while (due := due + rng.expovariate(rate)) < seconds:
        if (wait := start + due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        yield due


async def _request(client: AsyncDetectorClient, item: Item, start: float) -> Outcome:
    begun = time.perf_counter()
    try:
        verdict = await client.score(item.data, item.box)
    except DetectorError as error:
        took = time.perf_counter() - begun
        return Outcome(begun - start, took, _code(error), is_retryable(error), str(error))
    took = time.perf_counter() - begun
    if not verdict.ok:
        return Outcome(begun - start, took, verdict.status, False, f"the image has the status {verdict.status}")
    return Outcome(begun - start, took)


async def _recovery(client: AsyncDetectorClient, source: Any, limit: float, recovery_timeout: float) -> float | None:
    """Seconds until the first of `CALM_PROBES` answers in a row within the limit."""
    start = time.perf_counter()
    fast_since, fast = math.nan, 0
    while time.perf_counter() - start < recovery_timeout:
        sent = time.perf_counter()
        outcome = await _request(client, next(source), start)
        if outcome.kind == ANSWERED and outcome.seconds <= limit:
            fast_since = sent - start if fast == 0 else fast_since
            fast += 1
            if fast == CALM_PROBES:
                return fast_since
        else:
            fast = 0
        await asyncio.sleep(PROBE_SECONDS)
    return None


def _code(error: DetectorError) -> str:
    if isinstance(error, RequestFailedError):
        return error.code
    return "UNAVAILABLE" if isinstance(error, ServerUnavailableError) else type(error).__name__


def _print(console: Console, result: Result) -> None:
    details = result.details
    console.print(
        f"sent {details['sent']} images at {details['sent_a_second']:.0f}/s "
        f"({result.settings['times']:g} × the capacity of {details['capacity']:.0f}/s), answered {details['answered']}",
        highlight=False,
    )
    table = Table("figure", "value", box=None)
    for figure in result.figures:
        table.add_row(figure.metric, f"{figure.median:.3g} {figure.unit}")
    console.print(table)
    for each in details["errors"]:
        word = "retryable" if each["retryable"] else "NOT retryable"
        console.print(f"{each['count']} × {each['code']} ({word}), e.g. {each['message']}", highlight=False)
    if details["recovered_seconds"] is None:
        console.print("[red]the server did not recover")


if __name__ == "__main__":
    main()
