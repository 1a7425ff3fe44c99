"""The command line: `python -m export.tensorrt`, the check of engines without a GPU."""

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ensemble.streams import STREAMS
from export.errors import ExportError
from export.half.conversion import PRECISIONS
from export.tensorrt.check import CAPABILITIES, Built, build_ahead, builder_version, weights_beyond_half
from export.tensorrt.faults import refusals
from export.tensorrt.subjects import Subject, face_subjects, smallest_half_stream, stream_subjects
from networks import PRESETS
from networks.faces import FACE_MODELS

_STREAMS = {stream.name: stream for stream in STREAMS}


@dataclass(frozen=True)
class Row:
    """One engine.

    Attributes:
        title: Of the model.
        attentions: How many had to be fused; None where it does not matter.
        built: What came of it.
        problems: What is not as it should be.
    """

    title: str
    attentions: int | None
    built: Built
    problems: list[str]


@dataclass(frozen=True)
class Job:
    """Work of one process: a network in all its precisions, or the models with a fault (no name).

    Attributes:
        name: Of a stream, of `FACE_MODELS`, or empty.
        preset: Size of the streams.
        precisions: Of a stream.
        capabilities: To build for.
    """

    name: str
    preset: str
    precisions: tuple[str, ...]
    capabilities: tuple[int, ...]


@click.command(
    "export.tensorrt",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
    epilog="Exit status: 0 all as it should be, 1 not.",
)
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="tiny", help="Size of the streams; giant takes long."
)
@click.option("--only", type=click.Choice([*_STREAMS, *FACE_MODELS]), multiple=True,
              help="Build this network alone; may be given several times.  [default: all]")  # fmt: skip
@click.option("--precision", "precisions", type=click.Choice(PRECISIONS), multiple=True,
              help="Of the streams; may be given several times.  [default: all]")  # fmt: skip
@click.option("--capability", "capabilities", type=click.Choice([str(each) for each in CAPABILITIES]), multiple=True,
              help="Compute capability to build for; may be given several times.  [default: all]")  # fmt: skip
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures there, as JSON.")
def main(
    preset: str, only: tuple[str, ...], precisions: tuple[str, ...], capabilities: tuple[str, ...], output: Path | None
) -> None:
    """Build engines of all networks ahead of time with TensorRT for RTX, which needs no GPU.

    Seeded networks are traced, parsed and built for each kind of GPU. Each graph has to stay in one piece, every
    attention but the last block's has to become one kernel, and no kernel may only cast or reorder. Then follow
    models that have to be refused. No kernel is run: results and speed are not seen here.
    """
    targets = tuple(map(int, capabilities)) or CAPABILITIES
    names = only or (*_STREAMS, *FACE_MODELS)
    jobs = [Job(name, preset, precisions or PRECISIONS, targets) for name in (*names, "")]
    console = Console()
    try:
        with console.status("tracing and building"):
            found = list(_run(jobs, one_by_one=preset == "giant"))
    except ExportError as error:
        Console(stderr=True).print(f"[bold red]failed:[/] {error}", soft_wrap=True, markup=False)
        sys.exit(1)
    rows = [each for each in found if isinstance(each, Row)]
    refused = dict(each for each in found if not isinstance(each, Row))
    _print(console, rows, refused)
    if output:
        output.write_text(json.dumps(_record(preset, rows, refused), indent=2, ensure_ascii=False) + "\n", "utf-8")
    sys.exit(0 if all(not row.problems for row in rows) and all(refused.values()) else 1)


def work(job: Job) -> list[Row | tuple[str, bool]]:
    """Do a job: rows for engines; for the models with a fault, what it is and whether it was noticed.

    Raises:
        ExportError: A network cannot be traced, parsed or built.
    """
    with tempfile.TemporaryDirectory(prefix="engines-") as folder:
        if not job.name:
            return list(refusals(smallest_half_stream(Path(folder)), job.capabilities[0]))
        if job.name in FACE_MODELS:
            subjects = face_subjects(job.name, Path(folder))
        else:
            subjects = stream_subjects(_STREAMS[job.name], job.preset, job.precisions, Path(folder))
        return [_build(subject, capability) for subject in subjects for capability in job.capabilities]


def _run(jobs: Sequence[Job], *, one_by_one: bool) -> Iterable[Row | tuple[str, bool]]:
    if one_by_one or len(jobs) <= 2:
        for job in jobs:
            yield from work(job)
        return
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for found in pool.map(work, jobs):
            yield from found


def _build(subject: Subject, capability: int) -> Row:
    built = build_ahead(subject.model, subject.profile, capability)
    problems = built.problems(subject.attentions)
    problems += [f"beyond float16: {name}" for name in weights_beyond_half(subject.model)]
    return Row(subject.title, subject.attentions, built, problems)


def _print(console: Console, rows: Sequence[Row], refused: dict[str, bool]) -> None:
    table = Table(box=SIMPLE)
    for column in ("model", "for", "engine", "memory", "time", "kernels", "fused attention", ""):
        table.add_column(column, justify="left" if column in ("model", "for", "") else "right")
    for row in rows:
        built = row.built
        table.add_row(
            row.title,
            f"SM{built.capability}",
            f"{built.size / 1e6:,.0f} MB",
            f"{built.activations / 1e6:,.0f} MB",
            f"{built.seconds:.0f} s",
            str(len(built.layers)),
            "" if row.attentions is None else f"{built.fused_attentions} of {row.attentions}",
            "; ".join(row.problems) or "[green]ok[/]",
        )
    console.print(table)
    for title, noticed in refused.items():
        console.print(f"{title}: {'[green]refused[/]' if noticed else '[bold red]not noticed[/]'}")
    console.print(f"Built ahead of time by TensorRT for RTX {builder_version()}; no kernel was run")


def _record(preset: str, rows: Sequence[Row], refused: dict[str, bool]) -> dict[str, Any]:
    engines = [
        {
            "model": row.title,
            **{name: value for name, value in asdict(row.built).items() if name != "layers"},
            "seconds": round(row.built.seconds, 1),
            "kernels": len(row.built.layers),
            "fused_attentions": row.built.fused_attentions,
            "attentions_to_fuse": row.attentions,
            "problems": row.problems,
        }
        for row in rows
    ]
    return {
        "measures": "engines built ahead of time by TensorRT for RTX, of seeded networks; no kernel was run",
        "builder": builder_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "preset": preset,
        "engines": engines,
        "refused": refused,
    }


if __name__ == "__main__":
    main(prog_name="python -m export.tensorrt")
