"""The command line `python -m export.precision`: what float32 and float16 exports do to probabilities and votes."""

import json
import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ensemble.streams import STREAMS, Stream
from ensemble.voting import score_logits
from export.errors import ExportError
from export.half import LARGEST
from export.half_arithmetic import STREAM
from export.half_study import (
    LARGEST_ALLOWED,
    P999_ALLOWED,
    StreamStudy,
    measure_change,
    random_pixels,
    study_stream,
    whole_image_pixels,
)
from export.weights import find_checkpoints
from networks import WeightsError
from networks.random_weights import MARKER

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
PRECISIONS = {"fp32": "ONNX Runtime", "fp16": "float16 arithmetic"}
_KINDS_SHOWN = 4


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
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures there.")
def main(weights: Path, images: Path | None, random: int, batch_size: int, output: Path | None) -> None:
    """Compare torch in float32, its ONNX model, and the float16 ONNX model, stream by stream.

    Told are the largest and the 99.9th percentile change of a probability, the share of votes changed, and how near
    the tensors in float16 come to its end (65504): on these images, and with activations scaled up until one does not
    fit. Float16 is computed as a GPU would, every value rounded to float16. The face stream is given whole images.
    """
    console = Console()
    try:
        checkpoints = find_checkpoints(weights)
        photographs = _read(images)
        if not photographs and not random:
            raise click.UsageError("nothing to compare on: give --images, or --random above 0")
        studies, groups = _study(console, checkpoints, photographs, random, batch_size)
    except (ExportError, WeightsError, OSError) as error:
        Console(stderr=True).print(f"[bold red]failed:[/] {str(error).replace('[', chr(92) + '[')}", soft_wrap=True)
        sys.exit(1)
    report, within = _report(studies, groups, untrained=(weights / MARKER).exists())
    _print(console, report)
    if output is not None:
        output.write_text(json.dumps(_finite(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
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
    console: Console, checkpoints: dict[Stream, Path], photographs: list[bytes], random: int, batch: int
) -> tuple[dict[Stream, StreamStudy], dict[str, slice]]:
    studies: dict[Stream, StreamStudy] = {}
    groups: dict[str, slice] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for stream, checkpoint in checkpoints.items():
            real, unreadable = whole_image_pixels(stream, photographs)
            pixels = np.concatenate((real, random_pixels(stream, random)))
            groups = {"photos": slice(0, len(real)), "random": slice(len(real), None)}
            if unreadable and not studies:
                console.print(f"[yellow]{len(unreadable)} of {len(photographs)} photographs cannot be read[/]")
            task = progress.add_task(stream.name, total=3 * len(pixels))

            def advance(way: str, count: int, task: Any = task, name: str = stream.name) -> None:
                progress.update(task, description=f"{name}: {way}", advance=count)

            # Beside the checkpoint, where there is room for gigabytes: /tmp may be memory.
            with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
                studies[stream] = study_stream(stream, checkpoint, pixels, Path(folder), batch, advance)
    return studies, {name: part for name, part in groups.items() if len(range(*part.indices(len(pixels))))}


def _report(
    studies: dict[Stream, StreamStudy], groups: dict[str, slice], untrained: bool
) -> tuple[dict[str, Any], bool]:
    within = True
    streams: dict[str, Any] = {}
    for stream, study in studies.items():
        changes: dict[str, Any] = {}
        for precision in PRECISIONS:
            changes[precision] = {}
            for group, part in groups.items():
                change = measure_change(study.logits["torch"][part], study.logits[precision][part])
                within &= change.within(precision)
                changes[precision][group] = {**asdict(change), "within": change.within(precision)}
        headroom = [{**asdict(each), "share": each.share} for each in study.ranges]
        within &= not any(each.overflows for each in study.ranges)
        gains = [
            {
                "gain": gain.gain,
                "largest": {each.kind: each.largest for each in gain.ranges},
                "overflow": gain.overflow and asdict(gain.overflow),
            }
            for gain in study.gains
        ]
        streams[stream.name] = {"changes": changes, "headroom": headroom, "scaled_up": gains}
    scores = {precision: _scores_changed(studies, precision) for precision in PRECISIONS}
    return {
        "untrained": untrained,
        "tolerances": {"largest": dict(LARGEST_ALLOWED), "p999": dict(P999_ALLOWED)},
        "float16_largest": LARGEST,
        "streams": streams,
        "scores_changed": scores,
        "within": within,
    }, within


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scores_changed(studies: dict[Stream, StreamStudy], precision: str) -> float:
    """Share of images whose vote of the three streams together is another."""

    def scores(way: str) -> NDArray[np.float32]:
        return score_logits(np.stack([studies[stream].logits[way] for stream in STREAMS], axis=1)).score

    return float((scores("torch") != scores(precision)).mean())


def _print(console: Console, report: dict[str, Any]) -> None:
    table = Table(box=SIMPLE, title="Change of the probability against torch in float32", title_justify="left")
    for column in ("stream", "", "images"):
        table.add_column(column, no_wrap=True)
    for column in ("", "largest", "99.9 %", "votes changed", ""):
        table.add_column(column, justify="right")
    for name, stream in report["streams"].items():
        for precision, groups in stream["changes"].items():
            for group, change in groups.items():
                verdict = "[green]ok[/]" if change["within"] else "[bold red]above[/]"
                figures = f"{change['largest']:.1e}", f"{change['p999']:.1e}", f"{change['votes_changed']:.1%}"
                table.add_row(name, precision, group, str(change["images"]), *figures, verdict)
    console.print(table)
    for precision, share in report["scores_changed"].items():
        console.print(f"SCORE of the three together, {precision}: changed for {share:.1%} of the images")
    for name, stream in report["streams"].items():
        nearest = [each for each in stream["headroom"] if each["kind"] != STREAM][:_KINDS_SHOWN]
        listed = "; ".join(f"{each['kind']} {each['largest']:.3g} ({each['share']:.2%})" for each in nearest)
        console.print(f"\n[bold]{name}[/], nearest to the end of float16: {listed}", highlight=False)
        *fitting, last = stream["scaled_up"]
        overflow = last["overflow"]
        if overflow is None:
            console.print(f"Activations {last['gain']} times as large still fit", highlight=False)
        elif fitting:
            fits = fitting[-1]
            console.print(
                f"Activations {fits['gain']} times as large still fit, with {fits['largest'][STREAM]:.3g} in the "
                f"residual stream; at {last['gain']} times, {overflow['kind']} reaches {overflow['largest']:.3g}",
                highlight=False,
            )
        else:
            console.print(f"[bold red]Does not fit:[/] {overflow['kind']} reaches {overflow['largest']:.3g}")
    if report["untrained"]:
        console.print(
            "\n[bold red]UNTRAINED[/]: seeded weights. How float16 rounds shows on them; how large the activations of "
            "trained weights become does not. Run this on those, on photographs, before trusting fp16."
        )


if __name__ == "__main__":
    main(prog_name="python -m export.precision")
