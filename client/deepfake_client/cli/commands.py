"""The command line: `deepfake-client score` and `deepfake-client info`."""

import csv
import sys
from contextlib import closing
from pathlib import Path

import click

from ..bulk.inputs import IMAGE_EXTENSIONS, Inputs, find_images, is_video
from ..bulk.lists import STDIN, Columns, check_list
from ..bulk.output.text_rows import CSV_COLUMNS, VERDICT_COLUMNS, WIDE_COLUMNS
from ..images.items import Faces, Item
from ..text import printable
from ..video import Sampling, VideoOptions, VideoVerdict
from .connection import Connection
from .evidence import replay, write_evidence
from .forecast import tell_forecast
from .group import INTERRUPTED, NO_IMAGES, SOME_FAILED, Commands
from .identity import ask_provenance, identity, warn_if_different
from .info import info
from .operating_point import find_operating_point
from .output.destination import check_standard_output, errors_told, open_destination, score_missing
from .output.progress import ProgressBar
from .output.sidecar import CountedImages, Sidecar, describe_run
from .output.summary import RunSummary
from .output.timelines import save_timeline
from .score_options import score_options
from .stopping import stoppable
from .web import web


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deepfake-client")
def main() -> None:
    """Ask a deepfake detector on NVIDIA Triton about images.

    \b
    deepfake-client score photo.jpg                     a table on the terminal
    deepfake-client score photos/ --output scores.csv   a folder, into a file
    deepfake-client info                                what the server runs
    """


@main.command()
@score_options
@click.pass_context
def score(
    ctx: click.Context,
    paths: tuple[str, ...],
    lists: tuple[str, ...],
    column: str,
    face_boxes: bool,
    follow_links: bool,
    connection: Connection,
    output: Path | None,
    overwrite: bool,
    retry_failed: bool,
    faces: Faces | None,
    fps: float | None,
    frame_count: int | None,
    frame_rows: bool,
    timelines: Path | None,
    evidence: Path | None,
    digest: bool,
    unordered: bool,
    printed: str | None,
    batch_size: int,
    in_flight: int,
    timeout: float,
    verdict_only: bool,
    once: bool,
    is_forecast: bool,
    far: float | None,
) -> None:
    """Score images and videos: single ones, folders, tar shards, lists; any number of them.

    PATH is an image (.jpg .jpeg .png .webp .bmp .tif .tiff, or any other name); a video (.mp4 .mov .webm .mkv .avi and
    more); a folder, searched with its subfolders for both; a shard (.tar .tar.gz .tgz, whose images are called
    SHARD/MEMBER); a quoted pattern such as 'shards/*.tar'; or - for a list of paths on standard input. Relative paths
    in lists start at the current folder. Every image gets a row,
    those that could not be scored too: their status says why.

    The score is the ensemble's vote, a probability of being fake in steps of 0.1; the verdict is "fake" above 0.5,
    "real" below, "uncertain" at 0.5. To rank images, use the probability.

    A video gets one row, by the worst three seconds of one face: --fps or --frames say which frames are scored,
    --frame-rows gives each of them a row as well, --timelines draws them. A table has columns for videos and the number
    of faces where one of these options, --faces or a video is given.

    Where false alarms cost more than misses, or less, --operating-point decides the verdict by a threshold on the
    probability instead, which `python -m forensics calibrate` chose on labelled images: "fake" above it, else "real".

    With --verdict-only the server asks a stream only about images whose verdict it could change. The verdicts are those
    of a run without it; rows have the range that the score could be in, and the streams that ran.

    With --once, one of several images with equal content is sent, and all get its verdict, or its failure. The journal
    keeps the verdicts, so that a run which goes on sends none of them again. Videos are scored each for itself.

    With --forecast, images drawn at random from all are scored for half a minute, by turns by all streams and with
    --verdict-only, past the answers that a server keeps. It says hours, images a second and energy of both runs, as far
    as this machine's meters can be read, and which images could not be scored.

    A run with --output that was stopped, in whatever way, goes on where it was when the same command is given again; a
    run that was not stopped scores what is new. FILE.journal keeps account of that (inside the folder, with Parquet).
    A path that is listed twice has two rows. Other inputs, weights or operating point are refused, unless --overwrite.

    A request that fails is sent again for about a minute, so the server may restart meanwhile. Ctrl-C finishes what is
    in flight; a second one stops at once.

    \b
    Exit codes:
      0    all images were scored
      1    some could not be scored
      2    wrong command line
      3    the server cannot be reached, or went away for good
      4    rows cannot be written (a full disk): the run has not come to its end
      5    no images were found, or none that a forecast could be made from
      130  stopped by Ctrl-C

    \b
    Examples:
      deepfake-client score photo.jpg
      deepfake-client score photos/ --url gpu-box:8001 --output scores.csv
      deepfake-client score clips/ --fps 4 --output clips.jsonl --timelines timelines/
      deepfake-client score group.jpg --faces all
      deepfake-client score photos/ --url gpu-1:8001 --url gpu-2:8001
      deepfake-client score photos/ --url gpu-box:8001 --ca authority.pem --header triton-grpc-protocol-token=@token
      deepfake-client score 'shards/*.tar' --batch-size 32 --unordered --output scores.parquet
      deepfake-client score photos/ --forecast
      deepfake-client score --list images.csv --column file --output scores.jsonl
      find /data -name '*.jpg' | deepfake-client score - --batch-size 32 > scores.jsonl
    """
    if not paths and not lists:
        raise click.UsageError("Missing argument 'PATH...' or option '--list'.", ctx)
    if output is None and (overwrite or retry_failed):
        raise click.UsageError("--overwrite and --retry-failed are about a file: name it with --output.", ctx)
    if evidence is not None and (len(paths) != 1 or lists or not Path(paths[0]).is_file() or is_video(Item(paths[0]))):
        raise click.UsageError("--evidence is for one picture: give one image file.", ctx)
    if fps is not None and frame_count is not None:
        raise click.UsageError("--fps and --frames both say which frames of a video are scored: give one.", ctx)
    if verdict_only and (faces == "all" or fps or frame_count or frame_rows or timelines):
        raise click.UsageError("--verdict-only is for images and their main faces; leave out what is about more.", ctx)
    if is_forecast and (output is not None or evidence is not None):
        raise click.UsageError("--forecast writes no rows: leave out --output and --evidence.", ctx)
    if is_forecast and faces == "all":
        raise click.UsageError("--forecast is for images and their main faces: leave out --faces all.", ctx)
    inputs = Inputs(paths, lists, Columns(column, face_boxes), follow_links)
    _check_lists(inputs)
    if is_forecast:
        ctx.exit(tell_forecast(connection, inputs, far, printed, batch_size, in_flight, timeout))
    if output is None:
        check_standard_output()
    links: list[str] = []
    summary = RunSummary()
    with connection.make_client(timeout=timeout, max_in_flight=in_flight, batch_size=batch_size) as client:
        client.server_info()  # a wrong address is told in seconds, and before a file is replaced
        warn_if_different(connection)
        provenance = ask_provenance(client, needed=output is not None)
        point = None if far is None else find_operating_point(client, far)
        videos = VideoOptions(
            Sampling(fps, frame_count), faces or "all", frame_rows, None if point is None else point.threshold, digest
        )
        wide = faces is not None or any((fps, frame_count, frame_rows, digest, *map(is_video, map(Item, paths))))
        columns = VERDICT_COLUMNS if verdict_only else WIDE_COLUMNS if wide else CSV_COLUMNS
        faces = faces or "main"
        run = {}
        if output is not None:
            run = identity(inputs, client, provenance, point, faces, videos, verdict_only=verdict_only)
        sidecar = Sidecar(output, {} if output is None else describe_run(client, point, faces, videos))
        found = CountedImages(find_images(inputs, links.append))
        scoring = client.deciding(None if point is None else point.threshold) if verdict_only else client
        bar = ProgressBar(inputs)
        with (
            errors_told(output),
            open_destination(
                output, printed, bar.console, run, columns=columns, overwrite=overwrite, retry_failed=retry_failed
            ) as rows,
            stoppable() as stop,
        ):
            sidecar.write()
            if rows.earlier:
                click.echo(
                    f"{output} has {rows.earlier} rows from before: going on (--overwrite begins anew)", err=True
                )
            scored = score_missing(
                scoring,
                found,
                rows,
                faces=faces,
                videos=None if verdict_only else videos,
                ordered=not unordered,
                once=once,
                stop=stop,
                passed=bar.advance,
                copied=summary.add_copy,
            )
            try:
                with bar, closing(scored):
                    for key, each in scored:
                        verdict = each if point is None else point.apply(each)
                        if timelines is not None and isinstance(verdict, VideoVerdict):
                            save_timeline(timelines, verdict)
                        if evidence is not None:
                            write_evidence(evidence, client, verdict)
                        rows.write(key, verdict)
                        summary.add(verdict)
                        bar.advance()
            except KeyboardInterrupt:
                pass  # the second Ctrl-C
            finally:
                click.echo(summary.text(client.servers), err=True)
            failed_before = rows.count_failed() > summary.failed
            there = rows.earlier + summary.total
            sidecar.write(inputs=found.count, rows=there, ended=not stop.is_set())
            click.echo(f"  {found.count} inputs, {there} rows", err=True)
    if stop.is_set():
        if output is not None:
            without = " without --overwrite" if overwrite else ""
            click.echo(f"the same command{without} goes on from here", err=True)
        ctx.exit(INTERRUPTED)
    if links:
        told = f"{len(links)} links to folders were not followed, such as {printable(links[0])}: see --follow-links"
        click.echo(told, err=True)
    if failed_before:
        click.echo(f"{output} has rows from before of images that could not be scored: see --retry-failed", err=True)
    if not summary.total:
        if not rows.earlier:
            click.echo(f"no images found (in folders: {' '.join(IMAGE_EXTENSIONS)})", err=True)
            ctx.exit(NO_IMAGES)
        click.echo("every image has its row from before", err=True)
    lost = found.count > there
    if lost:
        click.echo(f"error: {found.count} inputs have {there} rows: give the same command again", err=True)
    ctx.exit(SOME_FAILED if summary.failed or failed_before or lost else 0)


main.add_command(info)
main.add_command(replay)
main.add_command(web)


def _check_lists(inputs: Inputs) -> None:
    if STDIN in inputs.paths and sys.stdin is None:
        raise click.UsageError("standard input is closed; open it, or give the list as a file: --list FILE")
    for source in inputs.lists:
        try:
            check_list(source, inputs.columns)
        except (OSError, ValueError, csv.Error) as error:
            raise click.BadParameter(str(error), param_hint="--list") from None
