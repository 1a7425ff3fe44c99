"""`python -m forensics calibrate`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from deepfake_client.cli import Connection
from rich.console import Console
from rich.text import Text

from ensemble.calibration_file import ECHO_PARAMETER, FILE_PARAMETER, Calibration
from ensemble.contract import NO_CALIBRATION, SHA256, STREAMS_KEY
from forensics.calibrate.fit import Fit, count_rounds, fit_vote
from forensics.calibrate.install import CALIBRATION_FILE, install_calibration
from forensics.calibrate.operating_points import FALSE_ALARM_RATES, find_operating_points, find_support
from forensics.calibrate.report import (
    calibration_tables,
    describe_groups,
    rules,
    why_missing,
    write_calibration_report,
)
from forensics.common.arrays import Floats
from forensics.common.dataset import read_dataset
from forensics.common.errors import ForensicsError
from forensics.common.options import data_argument, output_option, resamples_option, server_options
from forensics.common.progress import progress
from forensics.common.report import Table, headline, print_tables, write_page
from forensics.common.scoring.scores import collect
from forensics.common.scoring.server import Server, ask_server, score_images

REPORT_JSON = "calibration-report.json"
REPORT_HTML = "calibration.html"
TEMPLATE = Path(__file__).with_name("report.html.j2")


@click.command("calibrate")
@data_argument
@server_options
@output_option("evaluation", "the results, and for the scores by which a stopped run goes on")
@resamples_option
@click.option(
    "--far",
    "rates",
    multiple=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=FALSE_ALARM_RATES,
    show_default=True,
    metavar="RATE",
    help="False-alarm rate to find a threshold for; may be given several times.",
)
@click.option(
    "--install",
    "repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="REPOSITORY",
    help="Also put the calibration into this model repository; the server reads it at its next start.",
)
def command(
    data: Path,
    connection: Connection,
    batch_size: int,
    in_flight: int,
    output: Path,
    resamples: int,
    rates: tuple[float, ...],
    repository: Path | None,
) -> None:
    """Fit thresholds, and where it gains for certain the vote, on labelled images.

    DATA and the scores are as for `evaluate`: with the same output folder nothing is scored twice. The images should be
    like those to come, in the share of fake ones too, and none that the networks were trained on.

    Pictures of one person, crops of one photograph or frames of one video are not independent. Name them in the column
    group of a CSV (where it is left out, the column video counts), or put each group in a subfolder of real/ or fake/.
    Groups are held out, resampled and counted whole: many images of a group count as one. An image without a group is
    one of its own.

    By cross-validation it tries a map for each stream (temperature, Platt, isotonic), other vote weights than 2 : 1 : 2
    and other rounding steps than 0.1. The paper's choice stays wherever the interval of the gain holds 0; with fewer
    than 50 real or 50 fake groups nothing is changed, and isotonic maps are tried from 500 of each.

    Operating points are thresholds on the probability that keep false alarms (real images called fake) within a rate;
    a rate needs one over it real groups: 100 for 0.01. One with fewer is marked as not supported and is not written.
    Each is also tried on groups left out. `deepfake-client score --operating-point far=0.01` applies one.

    \b
    Written to the output folder:
      calibration.json         what the server's step `voter` reads once it is installed
      calibration.html         all that was tried, with its gain: one page that needs no other file
      calibration-report.json  the same numbers
      scores.jsonl             a row an image

    \b
    Examples:
      python -m forensics calibrate photos/
      python -m forensics calibrate photos/ --far 0.002 --far 0.02 --install model_repository
    """
    images = read_dataset(data)
    with connection.make_client(batch_size=batch_size, max_in_flight=in_flight) as client:
        server = ask_server(client)
        checkpoints = _checkpoints(server)
        rows = score_images(client, server, [image.path for image in images], output)
    scores, unscored = collect(images, rows)
    with progress("resampling", count_rounds(scores) * resamples, "resamples") as advance:
        fit = fit_vote(scores, resamples=resamples, advance=advance)
    labels, groups = scores.labels, scores.groups
    probability = _decimals(fit.vote.score(scores.streams).probability)
    points = find_operating_points(labels, probability, rates, resamples=resamples, groups=groups)
    left_out = ((held, _decimals(vote.score(scores.streams).probability)) for held, vote in fit.left_out)
    support = find_support(labels, rates, left_out, groups)
    calibration = Calibration(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        untrained=server.untrained,
        real=scores.real,
        fake=scores.fake,
        checkpoints=checkpoints,
        vote=fit.vote,
        operating_points=points,
    )
    text = calibration.to_text()
    (output / CALIBRATION_FILE).write_text(text, encoding="utf-8")
    write_calibration_report(output / REPORT_JSON, fit, calibration, support, scores)
    about = f"{headline(f'{scores.kinds} of {data}', unscored)}. {describe_groups(scores)}"
    missing = [reason for each in support if (reason := why_missing(each, scores))]
    tables = calibration_tables(fit, points, support)
    write_page(
        output / REPORT_HTML,
        TEMPLATE,
        server=server,
        headline=about,
        conclusion=fit.conclusion,
        missing=missing,
        rules=rules(),
        tables=tables,
        unscored=unscored,
        created=calibration.created,
        resamples=resamples,
    )
    _print(Console(), about, fit, tables, missing)
    click.echo(
        f"calibration: {output / CALIBRATION_FILE}; report: {output / REPORT_HTML}, {output / REPORT_JSON}", err=True
    )
    if server.warning:
        click.secho(f"warning: {server.warning}", fg="yellow", err=True)
    if repository is None:
        click.echo("no server uses it yet: give --install REPOSITORY for that", err=True)
    else:
        installed = install_calibration(repository, text)
        click.echo(f"installed: {installed}; start the server again to use it", err=True)


def _checkpoints(server: Server) -> Mapping[str, str]:
    """SHA-256 of the checkpoints behind the scores.

    Raises:
        ForensicsError: The server does not say, or its vote is calibrated already.
    """
    if server.provenance is None or server.calibration is None:
        raise ForensicsError("the server does not say which weights and which vote it has; export and serve it again")
    if server.calibration.document is not None:
        raise ForensicsError(
            f"the server has a calibration in force, of {server.calibration.document.get('created')}, and another "
            f"cannot be fitted on top; serve the method's own vote: in voter/config.pbtxt, {FILE_PARAMETER} empty and "
            f"{ECHO_PARAMETER} {NO_CALIBRATION!r}"
        )
    streams: dict[str, Any] = server.provenance[STREAMS_KEY]
    return {name: str(stream[SHA256]) for name, stream in streams.items()}


def _decimals(values: Any) -> Floats:
    """float32 as the decimals by which clients know them: a threshold among these is the same number everywhere."""
    return np.array([float(str(value)) for value in np.asarray(values, np.float32)], np.float64)


def _print(console: Console, about: str, fit: Fit, tables: Sequence[Table], missing: Sequence[str]) -> None:
    console.print(Text(about), "")
    print_tables(console, tables)
    for each in missing:
        console.print(Text(each))
    console.print(Text(f"\n{rules()}\n"))
    console.print(Text(f"Result: {fit.conclusion}.", style="bold"))
