"""`python -m benchmarks.soak`: requests of random batch sizes for long, each answer checked, memory watched."""

import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import click
import numpy as np
import psutil
from deepfake_client import AsyncDetectorClient, Verdict
from rich.console import Console
from rich.progress import Progress

from benchmarks.common.machine import ROOT, circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.common.serving import Endpoint, counter, export, resident, serve
from benchmarks.report.plots import memory_plot
from ensemble.voting import WEIGHTS
from server.supervision.process import SHARED_MEMORY

GOLDEN = ROOT / "tests" / "golden"
ROWS: list[dict[str, Any]] = json.loads((GOLDEN / "tiny" / "expected.json").read_text())["rows"]
STREAMS = ("global", "local", "semantic")
TOLERANCE = 0.005
"""Of a probability: runtimes in float32 agree within 1e-5, and no two of the images are nearer than 0.013."""

SAMPLES_EVERY = 5.0


@dataclass(frozen=True)
class Sample:
    """An image with what the authors' code makes of it.

    Attributes:
        data: The encoded file.
        box: Of the face.
        score: The vote.
        probability: Before any rounding. Votes are in steps of 0.1, and images share them.
    """

    data: bytes
    box: tuple[float, float, float, float]
    score: float
    probability: float

    def has(self, verdict: Verdict) -> bool:
        """Whether this is the verdict on it, rather than on another of the images."""
        found = verdict.probability
        return verdict.score == self.score and found is not None and abs(found - self.probability) < TOLERANCE


SAMPLES = [
    Sample(
        (GOLDEN / "images" / row["image"]).read_bytes(),
        row["box"],
        row["vote"],
        float(np.average([row[stream]["prob_fake"] for stream in STREAMS], weights=WEIGHTS)),
    )
    for row in ROWS
]


@dataclass
class Memory:
    """Memory of server and client over time, MiB."""

    minutes: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)

    def growth(self, values: list[float]) -> float:
        """Last tenth over the second tenth: after the first, caches and arenas have what they need."""
        tenth = max(1, len(values) // 10)
        return statistics.median(values[-tenth:]) / statistics.median(values[tenth : 2 * tenth] or values)


@dataclass
class Counts:
    """What came back."""

    requests: int = 0
    images: int = 0
    wrong: int = 0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--requests", default=10_000, type=click.IntRange(min=1), help="Requests sent in all.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Go on for so long instead.")
@click.option("--in-flight", default=64, type=click.IntRange(min=1), help="Requests under way at once.")
@click.option(
    "--largest-batch", default=3, type=click.IntRange(1, 32), help="Images in a request: 1 to this, at random."
)
@click.option("--model-config-name", help="Serve each model's configs/NAME.pbtxt where it has one.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the result as JSON to this file, and memory over time as PNG beside it.",
)
def main(
    requests: int,
    minutes: float | None,
    in_flight: int,
    largest_batch: int,
    model_config_name: str | None,
    output: Path | None,
) -> None:
    """Send requests to the real server and check every score against the authors' (preset tiny, faces supplied).

    Exit code 1 where an answer is wrong, the server counts a failure, or something is left in flight or in shared
    memory. With another runtime than ONNX Runtime a probability may round to another vote, which counts as wrong.
    """
    begun = circumstances("benchmarks.soak")
    with serve(export("tiny"), model_config_name) as server:
        start = time.monotonic()
        deadline = start + minutes * 60 if minutes else None
        with _sampled(server) as memory:
            counts = asyncio.run(
                _load(server.url, requests if deadline is None else None, deadline, in_flight, largest_batch)
            )
        seconds = time.monotonic() - start
        pending, failed = _pending(server), counter(server.metrics_url, "nv_inference_request_failure")
        stopping = time.monotonic()
    shutdown = time.monotonic() - stopping
    left = sorted(path.name for path in SHARED_MEMORY.glob(f"deepfake_detector_{server.process.pid}_*"))
    result = Result(
        benchmark="soak",
        measures="requests answered rightly under load, and what they leave behind",
        circumstances=begun,
        settings={
            "requests": None if minutes else requests,
            "minutes": minutes,
            "in_flight": in_flight,
            "largest_batch": largest_batch,
            "model_config_name": model_config_name,
        },
        figures=[
            Figure({"load": "soak"}, "throughput", "images/s", "higher", [counts.images / seconds]),
            Figure({"load": "soak"}, "server memory", "MiB", "lower", [memory.server[-1]]),
            Figure({"load": "soak"}, "server memory growth", "", "lower", [memory.growth(memory.server)]),
            Figure({"load": "soak"}, "client memory", "MiB", "lower", [memory.client[-1]]),
            Figure({"load": "soak"}, "client memory growth", "", "lower", [memory.growth(memory.client)]),
            Figure({"load": "soak"}, "shutdown", "s", "lower", [shutdown]),
        ],
        details={
            "seconds": seconds,
            "requests": counts.requests,
            "images": counts.images,
            "wrong": counts.wrong,
            "failed_in_server": failed,
            "pending_afterwards": pending,
            "left_in_shared_memory": left,
            "memory_mib": {"minutes": memory.minutes, "server": memory.server, "client": memory.client},
        },
    )
    console = Console()
    for figure in result.figures:
        console.print(f"{figure.metric}: {figure.median:.4g} {figure.unit}", highlight=False)
    console.print_json(data={name: value for name, value in result.details.items() if name != "memory_mib"})
    if output:
        write(output, result)
        output.with_suffix(".png").write_bytes(
            memory_plot(memory.minutes, {"server and its steps": memory.server, "client": memory.client})
        )
    if counts.wrong or failed or pending or left:
        raise SystemExit(1)


async def _load(url: str, requests: int | None, deadline: float | None, in_flight: int, largest_batch: int) -> Counts:
    """Send a number of requests, or until a deadline; one that fails ends the run."""
    rng = random.Random(0)
    numbers = itertools.count() if requests is None else iter(range(requests))
    counts = Counts()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("requests", total=requests)

        async def worker() -> None:
            # A client each: one shared by all would send less at once than is asked for here, when the server is full.
            async with AsyncDetectorClient(url, batch_size=largest_batch, timeout=300, retries=0) as client:
                for _ in numbers:
                    if deadline and time.monotonic() > deadline:
                        return
                    batch = rng.choices(SAMPLES, k=rng.randint(1, largest_batch))
                    verdicts = [v async for v in client.score_many([(each.data, each.box) for each in batch])]
                    counts.requests += 1
                    counts.images += len(batch)
                    counts.wrong += not all(each.has(v) for each, v in zip(batch, verdicts, strict=True))
                    progress.advance(task)

        await asyncio.gather(*[worker() for _ in range(in_flight)])
    return counts


@contextmanager
def _sampled(server: Endpoint) -> Iterator[Memory]:
    """Memory while the block runs, and once at its end."""
    memory, done, start = Memory(), Event(), time.monotonic()

    def sample() -> None:
        memory.minutes.append((time.monotonic() - start) / 60)
        memory.server.append(server.resident() / 2**20)
        memory.client.append(resident(psutil.Process()) / 2**20)

    def watch() -> None:
        while not done.wait(SAMPLES_EVERY):
            sample()

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()
    sample()


def _pending(server: Endpoint) -> int:
    """Requests that no answer follows; a health probe of the launcher may be under way for a moment."""
    for _ in range(50):
        if not (pending := counter(server.metrics_url, "nv_inference_pending_request_count")):
            return 0
        time.sleep(0.1)
    return pending


if __name__ == "__main__":
    main()
