"""The command line `python -m export.precision`: what float32 and float16 exports do to probabilities and votes."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ensemble.contract import IMAGE_SUFFIXES
from ensemble.streams import Stream
from export.errors import ExportError
from export.half.report import describe, finite, print_report
from export.half.study import StreamStudy, random_pixels, study_stream, whole_image_pixels
from export.weights.checkpoints import find_checkpoints
from networks import WeightsError
from networks.weights.random_weights import MARKER

EXTENSIONS = frozenset(IMAGE_SUFFIXES)


@click.command(
    "export.precision",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
    epilog="""Example:

    \b
    python -m export.precision --weights weights --images photographs --json precision.json

    Exit status: 0 all within the tolerances, 1 not, or failed, 2 wrong usage.""",
)
@click.option(
    "--weights", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder with the checkpoints."
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of photographs, searched with its subfolders.",
)
@click.option("--random", default=8, type=click.IntRange(0), help="Images of random pixels to compare on, besides.")
@click.option("--batch-size", default=4, type=click.IntRange(1), help="Images computed at once.")
@click.option(
    "--fp8",
    "calibration",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Experiment: also linear layers in FP8, scaled by the photographs of this folder, which should be other ones.",
)
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures there.")
def main(
    weights: Path, images: Path | None, random: int, batch_size: int, calibration: Path | None, output: Path | None
) -> None:
    """Compare torch in float32, its ONNX model, and the float16 ONNX model, stream by stream.

    Told are the largest and the 99.9th percentile change of a probability, the share of votes changed, and how near
    the tensors in float16 come to its end (65504): on these images, and with activations scaled up until one does not
    fit. Float16 is computed as a GPU would, every value rounded to float16: `fp16` with sums in single, `fp16 sums`
    with attention that accumulates in float16, as some kernels do. `bf16` is the same for bfloat16, which has no end.
    The face stream is given whole images. `fp8` is an experiment: no tolerance judges it, votes changed do.
    """
    console = Console()
    try:
        checkpoints = find_checkpoints(weights)
        photographs = _read(images)
        if not photographs and not random:
            raise click.UsageError("nothing to compare on: give --images, or --random above 0")
        studies, groups = _study(console, checkpoints, photographs, random, batch_size, _read(calibration))
    except (ExportError, WeightsError, OSError) as error:
        Console(stderr=True).print(f"[bold red]failed:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    figures, within = describe(studies, groups, untrained=(weights / MARKER).exists())
    print_report(console, figures)
    if output is not None:
        output.write_text(json.dumps(finite(figures), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if not within:
        Console(stderr=True).print("[bold red]beyond the tolerances[/]: see the table")
        sys.exit(1)


def _read(folder: Path | None) -> list[bytes]:
    if folder is None:
        return []
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not paths:
        raise click.UsageError(f"{folder}: no photographs ({', '.join(sorted(EXTENSIONS))}) in it")
    return [path.read_bytes() for path in paths]


def _study(
    console: Console,
    checkpoints: dict[Stream, Path],
    photographs: list[bytes],
    random: int,
    batch: int,
    calibration: list[bytes],
) -> tuple[dict[Stream, StreamStudy], dict[str, slice]]:
    studies: dict[Stream, StreamStudy] = {}
    groups: dict[str, slice] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for stream, checkpoint in checkpoints.items():
            real, unreadable = whole_image_pixels(stream, photographs)
            pixels = np.concatenate((real, random_pixels(stream, random)))
            if not len(pixels):
                raise click.UsageError(f"none of the {len(photographs)} photographs of --images can be read")
            groups = {"photos": slice(0, len(real)), "random": slice(len(real), None)}
            if unreadable and not studies:
                console.print(f"[yellow]{len(unreadable)} of {len(photographs)} photographs cannot be read[/]")
            task = progress.add_task(stream.name, total=(6 if calibration else 5) * len(pixels))

            def advance(way: str, count: int, task: Any = task, name: str = stream.name) -> None:
                progress.update(task, description=f"{name}: {way}", advance=count)

            scaling = whole_image_pixels(stream, calibration)[0] if calibration else None
            if scaling is not None and not len(scaling):
                raise click.UsageError(f"none of the {len(calibration)} photographs of --fp8 can be read")
            # Beside the checkpoint, where there is room for gigabytes: /tmp may be memory.
            with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
                studies[stream] = study_stream(stream, checkpoint, pixels, Path(folder), batch, advance, scaling)
    return studies, {name: part for name, part in groups.items() if len(range(*part.indices(len(pixels))))}


if __name__ == "__main__":
    main(prog_name="python -m export.precision")
