"""A steady load of single images, and what the server says of its steps meanwhile."""

import asyncio
import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from deepfake_client import AsyncDetectorClient

from benchmarks.gpu.server import Endpoint
from ensemble.streams import ENSEMBLE_NAME

Item = tuple[bytes, tuple[float, float, float, float]]
"""An encoded image and the box of its face."""

_METRIC = re.compile(r'^nv_inference_(\w+){(?:[^}]*,)?model="(\w+)"[^}]*} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Level:
    """What came of one number of requests in flight.

    Attributes:
        in_flight: Requests under way at once, of one image each.
        images: Images scored.
        failed: Images not scored.
        seconds: Time that it took.
        latency_ms: Of a request, by quantile.
        steps: By step: images in a batch, and the mean time of a request in the queue and computing, ms.
    """

    in_flight: int
    images: int
    failed: int
    seconds: float
    latency_ms: dict[str, float]
    steps: dict[str, dict[str, float]]

    @property
    def images_per_second(self) -> float:
        """Images scored a second."""
        return self.images / self.seconds


def measure(endpoint: Endpoint, items: Sequence[Item], in_flight: int, seconds: float) -> Level:
    """Keep so many requests under way for some seconds, after a tenth of the time to warm up."""
    asyncio.run(_load(endpoint.url, items, in_flight, seconds / 10))
    before = _counters(endpoint.metrics_url)
    start = time.perf_counter()
    latencies, failed = asyncio.run(_load(endpoint.url, items, in_flight, seconds))
    elapsed = time.perf_counter() - start
    quantiles = np.percentile(latencies, [50, 95, 99]) * 1e3
    return Level(
        in_flight=in_flight,
        images=len(latencies) - failed,
        failed=failed,
        seconds=elapsed,
        latency_ms=dict(zip(("p50", "p95", "p99"), quantiles.tolist(), strict=True)),
        steps=step_means(before, _counters(endpoint.metrics_url)),
    )


async def _load(url: str, items: Sequence[Item], in_flight: int, seconds: float) -> tuple[list[float], int]:
    """Seconds that each request took, and how many images were not scored; each worker sends at least one."""
    latencies: list[float] = []
    failed = 0
    async with AsyncDetectorClient(url, timeout=300, retries=0) as client:
        end = time.perf_counter() + seconds

        async def worker(number: int) -> None:
            nonlocal failed
            while True:
                image, box = items[number % len(items)]
                start = time.perf_counter()
                verdict = await client.score(image, box)
                latencies.append(time.perf_counter() - start)
                failed += verdict.score is None
                number += in_flight
                if time.perf_counter() > end:
                    return

        await asyncio.gather(*[worker(number) for number in range(in_flight)])
    return latencies, failed


def step_means(before: Mapping[tuple[str, str], float], after: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """Means of each step of the ensemble between two readings of the counters (metric, model)."""
    steps = {}
    for model in sorted({model for _, model in after} - {ENSEMBLE_NAME}):
        mine = [metric for metric, name in after if name == model]
        gained = {metric: after[metric, model] - before.get((metric, model), 0) for metric in mine}
        requests, batches = gained["request_success"], gained["exec_count"]
        if not requests or not batches:
            continue
        compute = sum(gained[f"compute_{part}_duration_us"] for part in ("input", "infer", "output"))
        steps[model] = {
            "batch": gained["count"] / batches,
            "queue_ms": gained["queue_duration_us"] / requests / 1e3,
            "compute_ms": compute / requests / 1e3,
        }
    return steps


def _counters(url: str) -> dict[tuple[str, str], float]:
    with urllib.request.urlopen(url) as answer:
        return counters(answer.read().decode())


def counters(text: str) -> dict[tuple[str, str], float]:
    """The counters of Triton's metrics by metric and model, those of several GPUs added up."""
    totals: dict[tuple[str, str], float] = defaultdict(float)
    for metric, model, value in _METRIC.findall(text):
        totals[metric, model] += float(value)
    return dict(totals)
