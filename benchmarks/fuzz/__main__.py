"""`python -m benchmarks.fuzz`: mutated images through the real server, each in one request with a good one."""

import asyncio
import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import cv2
import numpy as np
import psutil
from deepfake_client import AsyncDetectorClient
from rich.console import Console
from rich.progress import track

from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.common.serving import PHOTOGRAPHS, Endpoint, export, serve
from benchmarks.fuzz.mutations import mutated
from benchmarks.soak import SAMPLES
from server.supervision.process import SHARED_MEMORY

ENCODINGS: dict[str, tuple[str, tuple[int, ...]]] = {
    "JPEG": (".jpg", ()),
    "JPEG progressive": (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "JPEG restarts": (".jpg", (cv2.IMWRITE_JPEG_RST_INTERVAL, 4)),
    "PNG": (".png", ()),
    "WebP": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 80)),
    "WebP lossless": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 101)),
    "BMP": (".bmp", ()),
    "TIFF LZW": (".tiff", ()),
    "TIFF raw": (".tiff", (cv2.IMWRITE_TIFF_COMPRESSION, 1)),
    "TIFF deflate": (".tiff", (cv2.IMWRITE_TIFF_COMPRESSION, 8)),
    "TIFF packed": (".tiff", (cv2.IMWRITE_TIFF_COMPRESSION, 32773)),
}
PARTS = 20
"""After each of which memory is looked at."""
WARM = 200
"""Images before the first measurement of memory: processes and caches have what they need then."""


@dataclass
class Counts:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong_neighbours: int = 0
    seconds: list[float] = field(default_factory=list)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--images", default=20_000, type=click.IntRange(min=1), help="Mutated images.")
@click.option("--in-flight", default=4, type=click.IntRange(min=1), help="Requests under way at once.")
@click.option("--seed", default=0, help="Of the mutations.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(images: int, in_flight: int, seed: int, output: Path | None) -> None:
    """Send mutated images of every format, each in a request with a good one, and watch what they do to the server.

    Exit code 1 where a neighbour has a wrong score, or a process of the server ended.
    """
    begun = circumstances("benchmarks.fuzz")
    with serve(export("tiny")) as server:
        files = _files(seed)
        asyncio.run(_load(server.url, itertools.islice(files, WARM), Counts(), in_flight))
        held, counts = [_holdings(server)], Counts()
        for part in track(np.array_split(range(images), PARTS), "images", console=Console(stderr=True), transient=True):
            asyncio.run(_load(server.url, itertools.islice(files, len(part)), counts, in_flight))
            held.append(_holdings(server))
    before, after = held[0], held[-1]
    died = sorted(before.processes - after.processes)
    labels: dict[str, str | int | float] = {"load": "fuzz"}
    result = Result(
        benchmark="fuzz",
        measures="what mutated images do to their neighbours and to the server",
        circumstances=begun,
        settings={"images": images, "in_flight": in_flight, "seed": seed},
        figures=[
            Figure(labels, "time of a request, median", "ms", "lower", [1e3 * statistics.median(counts.seconds)]),
            Figure(labels, "time of a request, longest", "ms", "lower", [1e3 * max(counts.seconds)]),
            Figure(labels, "memory gained", "MiB", "lower", [(after.memory - before.memory) / 2**20]),
            Figure(labels, "shared memory gained", "MiB", "lower", [(after.shared - before.shared) / 2**20]),
            Figure(labels, "file descriptors gained", "", "lower", [after.files - before.files]),
        ],
        details={
            "wrong_neighbours": counts.wrong_neighbours,
            "processes_died": len(died),
            "memory_mib": [round(each.memory / 2**20) for each in held],
            "statuses": dict(counts.statuses.most_common()),
        },
    )
    console = Console()
    for figure in result.figures:
        console.print(f"{figure.metric}: {figure.median:.4g} {figure.unit}", highlight=False)
    console.print_json(data=result.details)
    if output:
        write(output, result)
    if counts.wrong_neighbours or died:
        raise SystemExit(1)


def _files(seed: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    photographs = [np.asarray(cv2.imread(str(path)), np.uint8)[60:200, 50:180] for path in PHOTOGRAPHS]
    whole = [
        cv2.imencode(extension, photograph, parameters)[1].tobytes()
        for photograph in photographs
        for extension, parameters in ENCODINGS.values()
    ]
    for data in itertools.cycle(whole):
        yield mutated(data, chance)


async def _load(url: str, files: Iterator[bytes], counts: Counts, in_flight: int) -> None:
    chance = random.Random(0)

    async def worker() -> None:
        async with AsyncDetectorClient(url, batch_size=2, timeout=300, retries=0) as client:
            for data in files:
                sample = chance.choice(SAMPLES)
                start = time.perf_counter()
                pair = [(data, None), (sample.data, sample.box)]
                verdict, neighbour = [verdict async for verdict in client.score_many(pair)]
                counts.seconds.append(time.perf_counter() - start)
                counts.statuses[verdict.status] += 1
                counts.wrong_neighbours += not sample.has(neighbour)

    await asyncio.gather(*[worker() for _ in range(in_flight)])


@dataclass(frozen=True)
class _Holdings:
    processes: frozenset[int]
    memory: int
    shared: int
    files: int


def _holdings(server: Endpoint) -> _Holdings:
    """Of the server; processes without those that decode, which may come and go."""
    tree = [server.process, *server.process.children(recursive=True)]
    templates = {each.pid for each in tree if "ensemble.images.worker" in " ".join(each.cmdline())}
    lasting = [each for each in tree if each.ppid() not in templates]
    return _Holdings(
        processes=frozenset(each.pid for each in lasting),
        memory=server.resident(),
        shared=sum(
            path.stat().st_blocks * 512 for path in SHARED_MEMORY.glob(f"deepfake_detector_{server.process.pid}_*")
        ),
        files=sum(psutil.Process(each.pid).num_fds() for each in lasting),
    )


if __name__ == "__main__":
    main()
