"""What an export says to people."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from export.difference import Difference
from export.exporters.exporter import ModelExport
from export.exporters.stream_export import StreamExport
from export.half.arithmetic import STREAM, Range, widest
from export.half.conversion import LARGEST
from export.weights.base_weights import BaseComparison, compare_bases
from export.weights.checkpoints import FACE_DETECTOR_FILE
from networks.faces import DETECTOR

_RANGES_SHOWN = 3
_TENSORS_SHOWN = 3


def print_differences(console: Console, title: str, differences: Sequence[Difference]) -> None:
    """Print each output's largest difference beside its tolerance, under a title that says what is compared."""
    console.print(title, highlight=False)
    table = Table(box=SIMPLE)
    for column in ("pixels", "batch", "output", "largest difference", "tolerance", ""):
        table.add_column(column, justify="left" if column in ("pixels", "output", "") else "right")
    for each in differences:
        verdict = "[green]ok[/]" if each.within else "[bold red]above[/]"
        table.add_row(
            each.pixels, str(each.batch), each.output, f"{each.largest:.1e}", f"{each.tolerance:.1e}", verdict
        )
    console.print(table)


def print_ranges(console: Console, ranges: Sequence[Range]) -> None:
    """Print the kinds of tensor that come nearest to the end of float16; bfloat16 ends where float32 does."""
    if ranges and ranges[0].limit == LARGEST:
        nearest = [each for each in widest(ranges) if each.kind != STREAM][:_RANGES_SHOWN]
        listed = "; ".join(f"{each.kind} {each.largest:.3g}, {each.share:.2%}" for each in nearest)
        console.print(f"Nearest to the end of float16 ({LARGEST:.0f}): {listed}\n", highlight=False)


def print_report(
    console: Console, repository: Path, exports: Sequence[StreamExport], face_models: Sequence[ModelExport]
) -> None:
    """Print what was exported, and plainly where it is untrained."""
    console.print(f"Exported to [bold]{repository}[/]\n", highlight=False)
    table = Table(box=SIMPLE, show_edge=False, collapse_padding=True)
    for column in ("model", "weights"):
        table.add_column(column, no_wrap=True)
    for column in ("size", "time", "largest difference, in tolerances"):
        table.add_column(column, justify="right")
    for export in (*exports, *face_models):
        worst = max(each.largest / each.tolerance for each in export.differences)
        size, seconds = f"{export.size / 1e6:,.0f} MB", f"{export.seconds:.1f} s"
        table.add_row(export.name, export.weights[0].name, size, seconds, f"{worst:.3f}")
    console.print(table)
    if DETECTOR in {each.name for each in face_models}:
        console.print("Faces are found by RetinaFace", highlight=False)
    else:
        console.print(
            f"Faces are found by OpenCV's cascade; for the paper's RetinaFace, put {FACE_DETECTOR_FILE} "
            "into the weights folder and export again",
            highlight=False,
        )
    for first, second in combinations(exports, 2):
        if first.sha256 == second.sha256:
            console.print(f"[yellow]{first.checkpoint.name} and {second.checkpoint.name} are the same file[/]")
    with_base = [export for export in exports if export.base]
    if len(with_base) > 1:
        bases = compare_bases({export.checkpoint.name: export.base for export in with_base})
        console.print(describe_bases(bases, seeded=all(export.untrained for export in with_base)), highlight=False)
    untrained = [export.name for export in (*exports, *face_models) if export.untrained]
    if untrained:
        console.print(
            Panel(
                f"UNTRAINED: the weights of {', '.join(untrained)} are random. Nothing was learnt, "
                "and every verdict computed with them is meaningless.",
                style="bold red",
            )
        )
    if note := next((export.stand_in for export in exports if export.stand_in), ""):
        console.print(Panel(f"STAND-IN weights: {note}.", style="bold yellow"))


def describe_bases(bases: BaseComparison, seeded: bool) -> str:
    """Say whether the checkpoints have one base network, as the published ones should."""
    if bases.identical:
        digest = next(iter(bases.sha256.values()))[:12]
        return f"All checkpoints have the same base DINOv2 ({bases.tensors} tensors, sha256 {digest}…)"
    if seeded:
        return (
            "The checkpoints have different base networks: seeded weights do, each file has its own seed. "
            "The published ones should share theirs"
        )
    listed = ", ".join(bases.different[:_TENSORS_SHOWN]) + (" …" if len(bases.different) > _TENSORS_SHOWN else "")
    return (
        f"[yellow]{len(bases.different)} of {bases.tensors} tensors of the base DINOv2 are not the same in all "
        f"checkpoints ({listed}): only LoRA and heads were trained, so one may be of another training[/]"
    )
