"""`python -m benchmarks`: what serving costs, as a ratio in one run."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import psutil
from deepfake_client import DetectorClient
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.in_process import InProcessDetector
from benchmarks.serving import PHOTOGRAPHS, circumstances, export, serve


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--preset", type=click.Choice(["tiny", "small", "giant"]), default="small", help="Size of the networks.")
@click.option("--images", default=160, help="Images scored in each round.")
@click.option("--rounds", default=5, help="Rounds; in each, both ways score the same images, in turn.")
@click.option("--batch-size", default=8, help="Images in a request, and in a batch of the single process.")
@click.option("--in-flight", default=4, help="Requests under way at once.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(preset: str, images: int, rounds: int, batch_size: int, in_flight: int, output: Path | None) -> None:
    """Measure images/s of the whole ensemble over gRPC against the same functions called in one process.

    Seeded weights of the preset are exported once to build/benchmarks and served on ports 18100 to 18102 of loopback.
    Both ways run on the same cores, in turn; the result is the ratio of their medians.
    """
    console = Console()
    repository = export(preset)
    files = [path.read_bytes() for path in PHOTOGRAPHS]
    work = [files[index % len(files)] for index in range(images)]
    local = InProcessDetector(repository, psutil.cpu_count() or 1)
    with serve(repository) as url, DetectorClient(url, batch_size=batch_size, max_in_flight=in_flight) as client:
        ways: dict[str, Callable[[Iterable[bytes]], Iterator[float | None]]] = {
            "gRPC": lambda items: (verdict.score for verdict in client.score_many(items)),
            "one process": lambda items: local.score_many(items, batch_size),
        }
        scores = {name: list(score(work[: 2 * batch_size])) for name, score in ways.items()}  # Also the warm-up.
        if scores["gRPC"] != scores["one process"]:
            raise click.ClickException(f"the two ways disagree: {scores}")
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in track(range(rounds), "rounds", console=Console(stderr=True)):
            for name, score in ways.items():
                rates[name].append(_rate(score, work))
    result = {
        "measures": "images/s of the ensemble over gRPC against the same functions in one process",
        "preset": preset,
        "images": images,
        "batch_size": batch_size,
        "in_flight": in_flight,
        "images_per_second": rates,
        "ratio_of_medians": statistics.median(rates["gRPC"]) / statistics.median(rates["one process"]),
        **circumstances("benchmarks"),
    }
    _print(result, console)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")


def _rate(score: Callable[[Iterable[bytes]], Iterator[float | None]], work: list[bytes]) -> float:
    start = time.perf_counter()
    count = sum(1 for _ in score(work))
    return count / (time.perf_counter() - start)


def _print(result: dict[str, Any], console: Console) -> None:
    table = Table("way", "images/s (median)", "least", "most", title=f"preset {result['preset']}, {result['machine']}")
    for name, rates in result["images_per_second"].items():
        table.add_row(name, *(f"{value:.1f}" for value in (statistics.median(rates), min(rates), max(rates))))
    console.print(table)
    console.print(f"gRPC reaches {result['ratio_of_medians']:.2f} of one process")


if __name__ == "__main__":
    main()
