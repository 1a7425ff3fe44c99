"""`python -m forensics evaluate`."""

from datetime import UTC, datetime
from pathlib import Path

import click
from deepfake_client.cli import Connection
from deepfake_client.video import DEFAULT_FPS
from rich.console import Console

from forensics.common.dataset import read_dataset
from forensics.common.options import data_argument, output_option, resamples_option, server_options
from forensics.common.progress import progress
from forensics.common.scoring.scores import collect
from forensics.common.scoring.server import ask_server, score_images
from forensics.evaluate.measures import evaluate
from forensics.evaluate.report import REPORT_HTML, REPORT_JSON, Report, print_report, write_html, write_json


@click.command("evaluate")
@data_argument
@server_options
@output_option("evaluation", "the results, and for the scores by which a stopped run goes on")
@resamples_option
@click.option(
    "--frame-rate",
    default=DEFAULT_FPS,
    show_default=True,
    type=click.FloatRange(0, 1000, min_open=True),
    help="Frames a second, where the images are frames of videos.",
)
def command(
    data: Path,
    connection: Connection,
    batch_size: int,
    in_flight: int,
    output: Path,
    resamples: int,
    frame_rate: float,
) -> None:
    """Measure the ensemble on labelled images.

    DATA is a folder whose subfolders real/ and fake/ hold images at any depth, or a CSV file with the columns path
    (relative to the CSV, or absolute) and label (real or fake, 0 or 1). Where images are frames of videos, those of
    one video lie in one subfolder of real/ or fake/, by time in the order of their names, or the CSV names it in the
    column video: then videos are measured too, by the client's rule, the worst three seconds, and by others beside it.
    Images that are not independent for another reason share a value of the column group (person, photograph); a video
    is a group too. All intervals are over groups.

    The images are scored by the running server. Scores are kept in scores.jsonl of the output folder: a run that was
    stopped goes on where it was, and one that was done takes new images only. A server with other weights or another
    calibration starts afresh. Images that cannot be scored are listed and left out of every number.

    For each stream, the unrounded weighted mean and the vote: ROC AUC with intervals, average precision, equal error
    rate, accuracy and confusion at 0.5 and at the best threshold, calibration error, Brier score, the challenge's
    numbers. For the ensemble: what each stream adds, what rounding costs, every subset of streams and other weights,
    how far streams agree.

    \b
    Written to the output folder:
      report.html   tables and plots, one page that needs no other file
      report.json   the same numbers
      scores.jsonl  a row an image

    \b
    Examples:
      python -m forensics evaluate photos/
      python -m forensics evaluate labels.csv --url gpu-box:8001 --batch-size 32 --output june
    """
    images = read_dataset(data)
    with connection.make_client(batch_size=batch_size, max_in_flight=in_flight) as client:
        server = ask_server(client)
        rows = score_images(client, server, [image.path for image in images], output)
    scores, unscored = collect(images, rows)
    vote = server.vote
    with progress("resampling", resamples, "resamples") as advance:
        evaluation = evaluate(
            scores, vote.weights, vote.rounding_step, frame_rate=frame_rate, resamples=resamples, advance=advance
        )
    report = Report(data, datetime.now(UTC).isoformat(timespec="seconds"), server, scores, unscored, evaluation)
    write_json(output / REPORT_JSON, report)
    write_html(output / REPORT_HTML, report)
    print_report(Console(), report)
    click.echo(f"report: {output / REPORT_HTML}, {output / REPORT_JSON}", err=True)
