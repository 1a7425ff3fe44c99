"""`python -m benchmarks.exporting`: what the export of each stream takes of time and memory."""

import multiprocessing
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.common.machine import ROOT, circumstances
from benchmarks.common.result import Figure, Result, write
from ensemble.streams import STREAMS, Stream
from export.exporters.stream_export import export_stream
from networks import write_random_weights

LIMIT = 1.3
"""Peak memory over the checkpoint, as the project set it."""

LEAST_JUDGED = 10**9
"""Checkpoints from this size on are held to the limit, bytes: below, Python and PyTorch alone are more."""


@dataclass(frozen=True)
class Exported:
    """What the export of one stream took.

    Attributes:
        stream: Its name.
        seconds: With validation in ONNX Runtime.
        peak: Most memory that the process had at once, mapped files included, bytes.
        checkpoint: Size of the file, bytes.
    """

    stream: str
    seconds: float
    peak: int
    checkpoint: int

    @property
    def ratio(self) -> float:
        """Peak memory over the checkpoint."""
        return self.peak / self.checkpoint

    @property
    def within(self) -> bool | None:
        """Whether the limit is kept; None where the checkpoint is too small to tell."""
        return None if self.checkpoint < LEAST_JUDGED else self.ratio <= LIMIT


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--preset", type=click.Choice(["tiny", "small", "giant"]), default="giant", help="Size of the networks.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the result as JSON to this file."
)
def main(preset: str, output: Path | None) -> None:
    """Export each stream in float32 in a process of its own, validation included; tell time and peak memory.

    Seeded weights are kept in build/benchmarks/PRESET/weights, models are thrown away (giant: 15 GB and 6 GB). Exit
    code 1 where an export of a checkpoint over 1 GB takes more than 1.3 times its size of memory.
    """
    begun = circumstances("benchmarks.exporting")
    weights = ROOT / "build" / "benchmarks" / preset / "weights"
    write_random_weights(weights, preset)
    console = Console()
    found = []
    for stream in STREAMS:
        console.print(f"{stream.name} …", highlight=False)
        # A process each: the peak of one must not hold what another left behind. Spawned, to begin with nothing.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found.append(pool.submit(_export, stream, weights / stream.checkpoint).result())
    result = Result(
        benchmark="exporting",
        measures="time and peak memory of the export of each stream, float32, validation included",
        circumstances=begun,
        settings={"preset": preset},
        figures=[figure for each in found for figure in _figures(preset, each)],
        details={"limit": LIMIT, "within_limit": {each.stream: each.within for each in found}},
    )
    _print(console, preset, found)
    if output:
        write(output, result)
    if any(each.within is False for each in found):
        raise SystemExit(1)


def peak_of(status: str) -> int:
    """The most memory that a process had at once, bytes, from its /proc/PID/status.

    Not getrusage's: that begins with what the parent had when it started the process.
    """
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    assert found, status
    return int(found[1]) * 1024


def _export(stream: Stream, checkpoint: Path) -> Exported:
    with tempfile.TemporaryDirectory(dir=checkpoint.parent.parent) as folder:
        start = time.monotonic()
        export_stream(stream, checkpoint, Path(folder))
        seconds = time.monotonic() - start
    peak = peak_of(Path("/proc/self/status").read_text())
    return Exported(stream.name, seconds, peak, checkpoint.stat().st_size)


def _figures(preset: str, exported: Exported) -> list[Figure]:
    labels: dict[str, str | int | float] = {"preset": preset, "stream": exported.stream}
    return [
        Figure(labels, "time", "s", "lower", [exported.seconds]),
        Figure(labels, "peak memory", "GB", "lower", [exported.peak / 1e9]),
        Figure(labels, "checkpoint", "GB", "neither", [exported.checkpoint / 1e9]),
        Figure(labels, "peak memory / checkpoint", "", "lower", [exported.ratio]),
    ]


def _print(console: Console, preset: str, found: list[Exported]) -> None:
    table = Table("stream", "time s", "peak GB", "checkpoint GB", "ratio", f"limit {LIMIT}", title=f"preset {preset}")
    words = {True: "kept", False: "exceeded", None: "too small to tell"}
    for each in found:
        sizes = (f"{each.peak / 1e9:.2f}", f"{each.checkpoint / 1e9:.3f}")
        table.add_row(each.stream, f"{each.seconds:.1f}", *sizes, f"{each.ratio:.2f}", words[each.within])
    console.print(table)


if __name__ == "__main__":
    main()
