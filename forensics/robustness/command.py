"""`python -m forensics robustness`."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
from deepfake_client.cli import Connection
from rich.console import Console

from degradation import SWEEPS, Sweep
from ensemble import status
from forensics.common.dataset import LabelledImage, find_images, read_dataset
from forensics.common.errors import ForensicsError
from forensics.common.inspection import Inspector
from forensics.common.options import data_argument, output_option, resamples_option, seed_option, server_options
from forensics.common.progress import progress
from forensics.common.scoring.scores import Unscored, group_numbers, reason
from forensics.common.scoring.server import ask_server
from forensics.common.scoring.store import ScoreStore
from forensics.robustness.measures import SweepMeasures, analyse
from forensics.robustness.report import (
    REPORT_HTML,
    REPORT_JSON,
    RobustnessReport,
    print_report,
    write_html,
    write_json,
)
from forensics.robustness.rows import Degrade, measure

Rows = dict[Path, dict[str, Any]]


@click.command("robustness")
@data_argument
@server_options
@click.option(
    "--sweep",
    "-s",
    "chosen",
    multiple=True,
    type=click.Choice(list(SWEEPS)),
    help="Run this sweep; may be given several times.  [default: all]",
)
@seed_option
@click.option(
    "--degrade",
    type=click.Choice(get_args(Degrade)),
    default="file",
    show_default=True,
    help="What is degraded: the file, as a user would see it; or each stream's own pixels, as the paper's scripts do.",
)
@click.option(
    "--keep-face",
    is_flag=True,
    help="Of --degrade file: use the face of the clean image at every level.",
)
@output_option("robustness", "the results, and for the rows by which a stopped run goes on")
@resamples_option
def command(
    data: Path,
    connection: Connection,
    batch_size: int,
    in_flight: int,
    chosen: tuple[str, ...],
    seed: int,
    degrade: Degrade,
    keep_face: bool,
    output: Path,
    resamples: int,
) -> None:
    """Measure what blur, noise, compression and the like do to the verdicts.

    DATA is a folder whose subfolders real/ and fake/ hold images, or a CSV file with the columns path and label: then
    ROC AUC over severity is measured. Or it is a folder of any other images: then how far scores move and how often
    calls flip. Groups are as for `evaluate`, and intervals are over groups.

    Every image is degraded at each level of the sweeps below, with the same random choices at every level, and walked
    through the models of the running server. By default the file is degraded, as a user would see it: faces are found
    anew in each degraded image; --keep-face holds them still. With --degrade streams the pixels of each stream are
    degraded instead, after framing, and the face crop is the clean image's: this is what the paper's scripts do.

    Measured for each stream, the unrounded weighted mean and the vote: ROC AUC (labels),
    shift and flips against the clean image. For each stream: the cosine of its DINOv2 feature with the clean one, and
    the entropy of its last attention. Files of more than a megapixel are reduced to one first.

    \b
    Sweeps:
      compound     all fifteen operations of the method, strength 0 … 1
      jpeg         quality 100 … 5
      noise        Gaussian, σ 0 … 60 of 255
      blur         Gaussian or box, strength 0 … 1
      motion_blur  strength 0 … 1
      mix          JPEG and eight operations at random, strength 0 … 1

    \b
    Written to the output folder:
      robustness.html      tables and plots, one page that needs no other file
      robustness.json      the same numbers
      rows-SWEEP.jsonl     a row an image; a stopped run goes on where it was

    \b
    Examples:
      python -m forensics robustness photos/
      python -m forensics robustness labels.csv --sweep jpeg --sweep blur --output june
      python -m forensics robustness labels.csv --degrade streams
    """
    if keep_face and degrade == "streams":
        raise click.UsageError("--keep-face is for --degrade file; with --degrade streams the face is always kept")
    images, labelled = read_images(data)
    sweeps = [sweep for name, sweep in SWEEPS.items() if name in chosen or not chosen]
    output.mkdir(parents=True, exist_ok=True)
    with connection.make_client() as client, Inspector(connection, batch_size) as inspector:
        server = ask_server(client)
        study = partial(measure, seed=seed, degrade=degrade, keep_face=keep_face, inspector=inspector)
        settings = server.to_dict() | {"seed": seed, "degrade": degrade, "keep_face": keep_face}
        rows = {
            sweep.name: _run(sweep, images, output, settings | _of_sweep(sweep), in_flight, study) for sweep in sweeps
        }
    failed = {path: row for each in rows.values() for path, row in each.items() if row["status"] != status.OK}
    scored = [image for image in images if image.path not in failed]
    labels = np.array([image.fake for image in scored], np.bool_)
    groups = group_numbers(scored)
    _require_scored(labels, labelled, failed)
    measured: list[SweepMeasures] = []
    with progress("resampling", resamples * len(sweeps) if labelled else 0, "resamples") as advance:
        for sweep in sweeps:
            kept = [rows[sweep.name][image.path] for image in scored]
            known = labels if labelled else None
            measured.append(analyse(sweep, kept, known, resamples=resamples, advance=advance, groups=groups))
    report = RobustnessReport(
        data=data,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        server=server,
        real=int((~labels).sum()) if labelled else None,
        fake=int(labels.sum()) if labelled else None,
        images=len(scored),
        seed=seed,
        degrade=degrade,
        keep_face=keep_face,
        resamples=resamples,
        unscored=[Unscored(str(path), row["status"], reason(row)) for path, row in failed.items()],
        sweeps=measured,
    )
    print_report(Console(), report)
    write_json(output / REPORT_JSON, report)
    write_html(output / REPORT_HTML, report)
    click.echo(f"report: {output / REPORT_HTML}, {output / REPORT_JSON}", err=True)


def read_images(data: Path) -> tuple[list[LabelledImage], bool]:
    """The images of a data set, and whether their labels mean anything.

    Raises:
        ForensicsError: There is no such data set, or no image in it.
    """
    if not data.is_dir() or any((data / name).is_dir() for name in ("real", "fake")):
        return read_dataset(data), True
    return [LabelledImage(path, False) for path in find_images(data)], False


def _of_sweep(sweep: Sweep) -> dict[str, Any]:
    return {"sweep": {"name": sweep.name, "levels": list(sweep.levels)}}


def _run(
    sweep: Sweep, images: Sequence[LabelledImage], output: Path, settings: dict[str, Any], in_flight: int, study: Any
) -> Rows:
    """The rows of one sweep; those that the folder holds are not measured again."""
    path = output / f"rows-{sweep.name}.jsonl"
    with ScoreStore(path, settings) as store:
        if store.replaced:
            click.secho(
                f"warning: {path} held rows of another server or other settings: all anew", fg="yellow", err=True
            )
        rows = {image.path: store.get(image.path) for image in images}
        missing = [path for path, row in rows.items() if row is None]
        if len(missing) < len(rows):
            click.echo(f"{sweep.title}: {len(rows) - len(missing)} of {len(rows)} images were done before", err=True)
        with progress(sweep.title, len(rows), "images", done=len(rows) - len(missing)) as advance:
            for image_path, measured in _ordered(missing, partial(study, sweep=sweep), in_flight):
                rows[image_path] = store.keep(image_path, measured)
                advance()
    return {path: row for path, row in rows.items() if row is not None}


def _ordered(paths: Sequence[Path], study: Any, workers: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Paths with their rows, in order; on the way out, work that has not begun is dropped."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="robustness")
    pending: deque[tuple[Path, Future[dict[str, Any]]]] = deque()
    try:
        for path in paths:
            pending.append((path, pool.submit(study, path)))
            if len(pending) > 2 * workers:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        # Not waiting for what is under way: the connection, which is closed next, ends it.
        pool.shutdown(wait=False, cancel_futures=True)


def _require_scored(labels: Any, labelled: bool, failed: Rows) -> None:
    if len(labels) and not (labelled and (labels.all() or not labels.any())):
        return
    kinds = "of real or of fake images none was scored" if labelled else "no image was scored"
    path, row = next(iter(failed.items()))
    raise ForensicsError(f"{kinds} ({len(failed)} were not): {path}: {reason(row)}")
