"""`python -m benchmarks.soak`: thousands of requests of random batch sizes, each answer checked."""

import asyncio
import json
import random
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import click
import psutil
from deepfake_client import AsyncDetectorClient
from rich.console import Console
from rich.progress import Progress

from benchmarks.serving import METRICS_URL, ROOT, circumstances, export, serve

GOLDEN = ROOT / "tests" / "golden"
ROWS: list[dict[str, Any]] = json.loads((GOLDEN / "tiny" / "expected.json").read_text())["rows"]
IMAGES = [((GOLDEN / "images" / row["image"]).read_bytes(), row["box"], row["vote"]) for row in ROWS]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--requests", default=10_000, help="Requests sent in all.")
@click.option("--in-flight", default=64, help="Requests under way at once.")
@click.option(
    "--largest-batch", default=3, type=click.IntRange(1, 32), help="Images in a request: 1 to this, at random."
)
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(requests: int, in_flight: int, largest_batch: int, output: Path | None) -> None:
    """Send requests to the real server and check every score against the authors' (preset tiny, faces supplied)."""
    shared_before = _shared_memory()
    with serve(export("tiny")) as url:
        memory = {"start": _resident()}
        start = time.perf_counter()
        images, wrong = asyncio.run(_load(url, requests, in_flight, largest_batch, memory))
        seconds = time.perf_counter() - start
        pending, failed = _pending(), _failed()
        memory["end"] = _resident()
        stopping = time.perf_counter()
    result = {
        "measures": "requests answered rightly under load, and what they leave behind",
        "requests": requests,
        "images": images,
        "in_flight": in_flight,
        "wrong": wrong,
        "failed_in_server": failed,
        "pending_afterwards": pending,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "server_memory_mib": {when: round(size / 2**20) for when, size in memory.items()},
        "shutdown_seconds": time.perf_counter() - stopping,
        "left_in_shared_memory": sorted(_shared_memory() - shared_before),
        **circumstances("benchmarks.soak"),
    }
    Console().print_json(data=result)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")
    if wrong or failed or pending or result["left_in_shared_memory"]:
        raise SystemExit(1)


async def _load(url: str, requests: int, in_flight: int, largest_batch: int, memory: dict[str, int]) -> tuple[int, int]:
    """Images scored, and scores that differ from the authors'; a request that fails ends the run.

    The server's memory after a tenth of the requests goes into `memory`: from there on it should not grow.
    """
    rng = random.Random(0)
    batches = iter([rng.choices(IMAGES, k=rng.randint(1, largest_batch)) for _ in range(requests)])
    images = wrong = 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("requests", total=requests)

        async def worker() -> None:
            nonlocal images, wrong
            # A client each: one shared by all would send less at once than is asked for here, when the server is full.
            async with AsyncDetectorClient(url, batch_size=largest_batch, timeout=300, retries=0) as client:
                for batch in batches:
                    scores = [v.score async for v in client.score_many([(image, box) for image, box, _ in batch])]
                    images += len(batch)
                    wrong += scores != [vote for _, _, vote in batch]
                    progress.advance(task)
                    if progress.tasks[task].completed == max(1, requests // 10):
                        memory["after a tenth"] = _resident()

        await asyncio.gather(*[worker() for _ in range(in_flight)])
    return images, wrong


def _metric(name: str) -> float:
    with urllib.request.urlopen(METRICS_URL) as response:
        text = response.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE))


def _pending() -> int:
    return int(_metric("nv_inference_pending_request_count"))


def _failed() -> int:
    return int(_metric("nv_inference_request_failure"))


def _resident() -> int:
    """Bytes of memory of the server and its steps."""
    return sum(process.memory_info().rss for process in psutil.Process().children(recursive=True))


def _shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


if __name__ == "__main__":
    main()
