"""`python -m benchmarks`: what serving costs, as a ratio in one run."""

import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import onnxruntime as ort
import psutil
from deepfake_client import DetectorClient
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.in_process import InProcessDetector

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = sorted((ROOT / "tests" / "golden" / "images").glob("*.png"))
PORTS = {"grpc": 18101, "http": 18100, "metrics": 18102}


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
    repository = _export(preset)
    files = [path.read_bytes() for path in PHOTOGRAPHS]
    work = [files[index % len(files)] for index in range(images)]
    local = InProcessDetector(repository, psutil.cpu_count() or 1)
    with _server(repository) as url, DetectorClient(url, batch_size=batch_size, max_in_flight=in_flight) as client:
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
        **_circumstances(),
    }
    _print(result, console)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")


def _rate(score: Callable[[Iterable[bytes]], Iterator[float | None]], work: list[bytes]) -> float:
    start = time.perf_counter()
    count = sum(1 for _ in score(work))
    return count / (time.perf_counter() - start)


def _export(preset: str) -> Path:
    folder = ROOT / "build" / "benchmarks" / preset
    repository = folder / "model_repository"
    if not (repository / "provenance" / "1" / "provenance.json").exists():
        options = ["--random-weights", preset, "--weights", str(folder / "weights"), "--repository", str(repository)]
        subprocess.run([sys.executable, "-m", "export", *options], check=True)
    return repository


@contextmanager
def _server(repository: Path) -> Iterator[str]:
    ports = [word for name, port in PORTS.items() for word in (f"--{name}-port", str(port))]
    log = repository.parent / "server.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "server", "--model-repository", str(repository), *ports]
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        url = f"localhost:{PORTS['grpc']}"
        with DetectorClient(url) as client:
            client.wait_ready(timeout=300)
        if process.poll() is not None:
            raise click.ClickException(f"the server ended; its log: {log}")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _circumstances() -> dict[str, Any]:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{_processor()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "versions": {"python": platform.python_version(), "onnxruntime": ort.__version__, "tritonserver": "2.51.0"},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _print(result: dict[str, Any], console: Console) -> None:
    table = Table("way", "images/s (median)", "least", "most", title=f"preset {result['preset']}, {result['machine']}")
    for name, rates in result["images_per_second"].items():
        table.add_row(name, *(f"{value:.1f}" for value in (statistics.median(rates), min(rates), max(rates))))
    console.print(table)
    console.print(f"gRPC reaches {result['ratio_of_medians']:.2f} of one process")


if __name__ == "__main__":
    main()
