"""`python -m benchmarks.gpu`: the whole ensemble at full size on an NVIDIA GPU, in one command."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
from deepfake_client import DetectorClient, DetectorError, Verdict
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from benchmarks.common.machine import ROOT, circumstances
from benchmarks.common.serving import export, sources
from benchmarks.gpu.arithmetic import peak_of, tflop_per_image
from benchmarks.gpu.load import Item, measure
from benchmarks.gpu.parity import compare, variants, verdicts
from benchmarks.gpu.sampling import Gpu, Sampler, open_gpu
from benchmarks.gpu.server import CONTAINER, SERVERS, STAND_IN, Endpoint, require_gpu, runtimes, serving, without_gpu

GOAL = {"images_per_second": 190.0, "share_of_peak": 0.55}
"""On an H200, as the project set it."""

IN_FLIGHT = (1, 8, 32, 128)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="""Examples:

    \b
    make image && python -m benchmarks.gpu --output benchmarks/results/gpu.json
    python -m benchmarks.gpu --device cpu --preset tiny --seconds 2     # a dry run without a GPU

    Exit status: 0 measured, 1 failed or an image was not scored, 2 wrong usage.""",
)
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the published checkpoints.  [default: seeded ones of the preset]",
)
@click.option("--preset", type=click.Choice(["tiny", "small", "giant"]), default="giant", help="Size of the networks.")
@click.option("--device", type=click.Choice(["gpu", "cpu"]), default="gpu", help="cpu: a dry run of all but the GPU.")
@click.option(
    "--precision",
    type=click.Choice(["fp16", "fp32"]),
    help="Of the models that are measured.  [default: fp16 on a GPU, else fp32]",
)
@click.option(
    "--server",
    type=click.Choice(SERVERS),
    help="NVIDIA's container (make image), or this repository's server without Docker, which needs onnxruntime-gpu "
    "and runs no engines.  [default: container on a GPU, else stand-in]",
)
@click.option("--in-flight", type=click.IntRange(min=1), multiple=True, default=IN_FLIGHT, help="May be repeated.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=30.0, help="Of each measurement.")
@click.option("--parity-images", type=click.IntRange(min=0), default=64, help="Images compared with FP32 on the CPU.")
@click.option("--gpu", "index", default=0, help="Number of the GPU that is used and watched.")
@click.option("--peak", type=float, help="Its dense FP16 TFLOP/s.  [default: by its name]")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(
    weights: Path | None,
    preset: str,
    device: str,
    precision: str | None,
    server: str | None,
    in_flight: tuple[int, ...],
    seconds: float,
    parity_images: int,
    index: int,
    peak: float | None,
    output: Path | None,
) -> None:
    """Measure images/s and latencies of the whole ensemble on a GPU, and compare its verdicts with FP32 on the CPU.

    Requests hold one image each, with the box of its face: what is measured are the networks, not the search for
    faces. ONNX Runtime is measured, and TensorRT where the repository has engines (make engines). Each figure comes
    with the GPU's load and memory, and with the share of its peak that the arithmetic comes to.
    """
    begun = circumstances("benchmarks.gpu")
    console = Console()
    gpu = open_gpu(index) if device == "gpu" else None
    peak = peak or (peak_of(gpu.name) if gpu else None)
    if gpu and peak is None:
        raise click.ClickException(f"the peak of {gpu.name} is not known: give its dense FP16 TFLOP/s by --peak")
    precision = precision or ("fp16" if gpu else "fp32")
    server = server or (CONTAINER if gpu else STAND_IN)
    reference = _repository(weights, preset, "fp32")
    repository = _repository(weights, preset, precision)
    if gpu and "tensorrt" not in runtimes(repository, server):
        if server == CONTAINER:
            _build_engines(console, weights or reference.parent / "weights", repository)
        else:
            console.print("TensorRT is not measured: it is in the container alone (--server container)")
    items = _items()
    compared = variants(items, parity_images)
    expected: list[Verdict] = []
    if compared:
        with without_gpu(), serving(reference, STAND_IN, "onnxruntime") as endpoint:
            expected = verdicts(endpoint.url, compared)
    tflop = tflop_per_image("giant" if weights else preset)
    told = asdict(begun)
    setups: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    result = {
        "measures": "images/s and latencies of single-image requests, and parity with FP32 on the CPU",
        "weights": "published layout, from a folder" if weights else f"seeded, preset {preset}",
        "precision": precision,
        "device": _described(gpu),
        "server": server,
        "tflop_per_image": tflop,
        "peak_tflops": peak,
        "goal": GOAL,
        "setups": setups,
        "failures": failures,
        **told,
    }
    for runtime in runtimes(repository, server):
        try:
            with serving(repository, server, runtime, index) as endpoint:
                if gpu:
                    require_gpu(endpoint.url)
                with DetectorClient(endpoint.url) as client:
                    result["versions"] = {**told["versions"], "tritonserver": client.server_info().version}
                levels = _measure(console, runtime, endpoint, items, in_flight, seconds, gpu)
                actual = verdicts(endpoint.url, compared)
        except (click.ClickException, DetectorError, OSError) as error:
            failures[runtime] = error.format_message() if isinstance(error, click.ClickException) else str(error)
            console.print(f"[red]{runtime} was not measured: {failures[runtime]}[/]", soft_wrap=True)
        else:
            for level in levels:
                level["tflops"] = level["images_per_second"] * tflop
                level["share_of_peak"] = level["tflops"] / peak if peak else None
            setups[runtime] = {"levels": levels, "parity": compare(expected, actual) if compared else None}
        if output:  # After each runtime: a GPU that is rented by the minute may be gone before the next one is done.
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(result, indent=2) + "\n")
    _print(console, result)
    if failures:
        raise click.ClickException(f"not measured: {', '.join(failures)}; the reason stands above")
    if any(level["failed"] for setup in setups.values() for level in setup["levels"]):
        raise click.ClickException("images were not scored; the server's log says why")


def _measure(
    console: Console,
    runtime: str,
    endpoint: Endpoint,
    items: Sequence[Item],
    in_flight: Sequence[int],
    seconds: float,
    gpu: Gpu | None,
) -> list[dict[str, Any]]:
    levels = []
    for count in track(in_flight, runtime, console=Console(stderr=True), disable=not console.is_terminal):
        with Sampler(gpu) as sampler:
            level = measure(endpoint, items, count, seconds)
        levels.append(asdict(level) | {"images_per_second": level.images_per_second, "gpu": sampler.summary()})
    return levels


def _repository(weights: Path | None, preset: str, precision: str) -> Path:
    """The exported models, made where they are not there or older than what they are made from."""
    if weights is None and precision == "fp32":
        return export(preset)
    made_from = weights or export(preset).parent / "weights"
    source = f"weights-{sha256(bytes(made_from.resolve())).hexdigest()[:8]}" if weights else preset
    folder = ROOT / "build" / "benchmarks" / f"gpu-{source}-{precision}"
    repository = folder / "model_repository"
    made = repository / "provenance" / "1" / "provenance.json"
    newest = max(path.stat().st_mtime for path in (*made_from.iterdir(), *sources()))
    if not made.exists() or made.stat().st_mtime < newest:
        options = ["--weights", str(made_from), "--repository", str(repository), "--precision", precision]
        subprocess.run([sys.executable, "-m", "export", *options], check=True)
    return repository


def _build_engines(console: Console, weights: Path, repository: Path) -> None:
    command = ["make", "engines", f"WEIGHTS={weights}", f"REPOSITORY={repository}"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        told = "TensorRT engines were not built: ONNX Runtime is measured alone. Try again by"
        console.print(f"[yellow]{told} {' '.join(command)}[/]", soft_wrap=True)


def _items() -> list[Item]:
    """The sample photographs with the boxes of their faces."""
    golden = ROOT / "tests" / "golden"
    rows = json.loads((golden / "tiny" / "expected.json").read_text())["rows"]
    return [((golden / "images" / row["image"]).read_bytes(), row["box"]) for row in rows]


def _described(gpu: Gpu | None) -> dict[str, Any] | None:
    return {"gpu": gpu.name, "driver": gpu.driver, "memory_bytes": gpu.memory_bytes} if gpu else None


def _print(console: Console, result: dict[str, Any]) -> None:
    title = f"{(result['device'] or {}).get('gpu', 'no GPU')}, {result['precision']}, {result['weights']}"
    table = Table(Column("runtime", min_width=11), "in flight", "images/s", title=title)
    for column in ("p50 ms", "p95 ms", "p99 ms", "of peak", "GPU"):
        table.add_column(column)
    for runtime, setup in result["setups"].items():
        for level in setup["levels"]:
            share, gpu = level["share_of_peak"], level["gpu"]
            table.add_row(
                runtime,
                str(level["in_flight"]),
                f"{level['images_per_second']:.1f}",
                *(f"{level['latency_ms'][name]:.0f}" for name in ("p50", "p95", "p99")),
                "-" if share is None else f"{share:.0%}",
                "-" if gpu is None else f"{gpu['utilisation']:.0%}, {gpu['memory_peak_bytes'] / 2**30:.1f} GiB",
            )
    console.print(table)
    for runtime, setup in result["setups"].items():
        if parity := setup["parity"]:
            whole = parity["ensemble"]
            console.print(
                f"{runtime}: {whole['votes_changed']:.1%} of {parity['images']} scores differ from FP32 on the CPU, "
                f"probabilities by {whole['largest']:.1e} at most",
                highlight=False,
            )


if __name__ == "__main__":
    main()
