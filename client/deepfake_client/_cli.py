"""The command line: `deepfake-client score` and `deepfake-client info`."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console

from ._client import DetectorClient
from ._connection import Connection, connection_options
from ._errors import DetectorError
from ._files import IMAGE_EXTENSIONS, find_images
from ._operating_point import describe_vote, find_operating_point, operating_point_option
from ._output import Sink, csv_rows, jsonl, table
from ._progress import ProgressBar
from ._results import Provenance
from ._tally import Tally

SOME_FAILED = 1
SERVER_UNREACHABLE = 3
INTERRUPTED = 130
"""Exit codes; click exits with 2 where the command line is wrong."""

_TEST_IMAGE_SECONDS = 60.0

FORMATS = {".jsonl": jsonl, ".csv": csv_rows}


class _Commands(click.Group):
    """A group whose commands end with a line and an exit code, never with a traceback, on what users can run into."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DetectorError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(SERVER_UNREACHABLE)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


def _check_output(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is None:
        return None
    if value.suffix.lower() not in FORMATS:
        raise click.BadParameter(f"{value}: the name must end in .jsonl or .csv, such as scores.csv")
    if not value.absolute().parent.is_dir():
        raise click.BadParameter(f"{value}: the folder {value.parent} does not exist; create it first")
    return value


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deepfake-client")
def main() -> None:
    """Ask a deepfake detector on NVIDIA Triton about images.

    \b
    deepfake-client score photo.jpg                     a table on the terminal
    deepfake-client score photos/ --output scores.csv   a folder, into a file
    deepfake-client info                                what the server runs
    """


@main.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@connection_options
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=_check_output,
    metavar="FILE",
    help="Write a row an image to FILE, which ends in .jsonl or .csv; an existing one is replaced.",
)
@click.option(
    "--format",
    "printed",
    type=click.Choice(["table", "jsonl", "csv"]),
    help="What to print where no FILE is given.  [default: a table on a terminal, JSONL elsewhere]",
)
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1), help="Most images in one request.")
@click.option(
    "--in-flight",
    default=16,
    show_default=True,
    type=click.IntRange(1),
    help="Most requests at the same time at each server; fewer are where it answers slowly or is overloaded.",
)
@click.option(
    "--timeout",
    default=600.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Deadline of one request, its time in the server's queue included.",
)
@operating_point_option
@click.pass_context
def score(
    ctx: click.Context,
    paths: tuple[str, ...],
    connection: Connection,
    output: Path | None,
    printed: str | None,
    batch_size: int,
    in_flight: int,
    timeout: float,
    far: float | None,
) -> None:
    """Score images and whole folders of them.

    PATH is an image, a folder (searched with its subfolders for .jpg .jpeg .png .webp .bmp .tif .tiff), or - for a list
    of paths on standard input, one a line. Every image gets a row, those that could not be scored too: their status
    says why.

    The score is the ensemble's vote, a probability of being fake in steps of 0.1; the verdict is "fake" above 0.5,
    "real" below, "uncertain" at 0.5. To rank images, use the probability.

    Where false alarms cost more than misses, or less, --operating-point decides the verdict by a threshold on the
    probability instead, which `python -m forensics calibrate` chose on labelled images: "fake" above it, else "real".

    A request that fails is sent again for about a minute, so the server may restart meanwhile. Ctrl-C finishes what is
    in flight; a second one stops at once.

    \b
    Exit codes:
      0    all images were scored
      1    some could not be scored
      2    wrong command line
      3    the server cannot be reached, or went away for good
      130  stopped by Ctrl-C

    \b
    Examples:
      deepfake-client score photo.jpg
      deepfake-client score photos/ --url gpu-box:8001 --output scores.csv
      deepfake-client score photos/ --url gpu-1:8001 --url gpu-2:8001
      deepfake-client score photos/ --url gpu-box:8001 --ca authority.pem --header triton-grpc-protocol-token=@token
      find /data -name '*.jpg' | deepfake-client score - --batch-size 32 > scores.jsonl
    """
    tally = Tally()
    with connection.make_client(timeout=timeout, max_in_flight=in_flight, batch_size=batch_size) as client:
        client.server_info()  # a wrong address is told in seconds, and before a file is replaced
        _warn_if_different(connection)
        _warn_if_untrained(client)
        point = None if far is None else find_operating_point(client, far)
        with _stoppable() as stop:
            images = takewhile(lambda _: not stop.is_set(), find_images(paths))
            try:
                with (
                    ProgressBar(paths) as bar,
                    _sink(output, printed, bar.console) as write,
                    closing(client.score_many(images)) as verdicts,
                ):
                    for each in verdicts:
                        verdict = each if point is None else point.apply(each)
                        write(verdict)
                        tally.add(verdict)
                        bar.advance()
            except KeyboardInterrupt:
                pass  # the second Ctrl-C
            except BrokenPipeError:
                raise  # the reader of a pipe has what it wants; click ends quietly
            except OSError as error:
                raise click.ClickException(f"{output or 'standard output'}: {error.strerror}") from error
            finally:
                click.echo(tally.summary(), err=True)
    if stop.is_set():
        ctx.exit(INTERRUPTED)
    if tally.total == 0:
        click.echo(f"no images found (in folders: {' '.join(IMAGE_EXTENSIONS)})", err=True)
    ctx.exit(SOME_FAILED if tally.failed else 0)


@main.command()
@connection_options
@click.option(
    "--wait",
    default=0.0,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Wait so long for a server that is starting.  [default: do not wait]",
)
@click.pass_context
def info(ctx: click.Context, connection: Connection, wait: float) -> None:
    """Show what each server runs and whether it scores a test image.

    Exit codes: 0 they all do, 2 wrong command line, 3 one cannot be reached or scores nothing.
    """
    failed = False
    for one in connection.each():
        try:
            _show_server(one, wait)
        except DetectorError as error:
            click.echo(f"error: {error}", err=True)
            failed = True
    ctx.exit(SERVER_UNREACHABLE if failed else 0)


def _show_server(connection: Connection, wait: float) -> None:
    with connection.make_client() as client:
        if wait:
            client.wait_ready(wait)
        server = client.server_info()
        _show("server", f"{server.name} {server.version} at {', '.join(connection.urls)}")
        _show("model", f"{server.model}, at most {server.max_batch_size} images a request")
        for name, value in _describe(client.provenance()):
            _show(name, value)
        _show("vote", describe_vote(client.calibration()))
        _warn_if_untrained(client)
        started = time.monotonic()
        client.wait_ready(_TEST_IMAGE_SECONDS)
        _show("ready", f"yes, it scored a test image after {time.monotonic() - started:.2f} s")


def _describe(provenance: Provenance | None) -> Iterator[tuple[str, str]]:
    if provenance is None:
        yield "weights", "unknown: the server has no provenance model"
        return
    document = dict(provenance.document)
    yield "weights", "UNTRAINED" if document.pop("untrained") else "trained"
    for name, stream in dict(document.pop("streams", {})).items():
        yield name, ", ".join(f"{key} {value}" for key, value in dict(stream).items())
    for name, value in document.items():
        yield name.replace("_", " "), str(value)


def _show(name: str, value: str) -> None:
    click.echo(f"{name:<16}{value}")


def _warn_if_untrained(client: DetectorClient) -> None:
    try:
        provenance = client.provenance()
    except DetectorError as error:
        click.echo(f"warning: it is not known which weights the server runs: {error}", err=True)
        return
    if provenance is not None and provenance.untrained:
        click.secho("warning: UNTRAINED weights: these scores mean nothing", fg="yellow", err=True)


def _warn_if_different(connection: Connection) -> None:
    """Verdicts of servers with different weights do not compare; a server that is absent is not asked."""
    if len(connection.urls) == 1:
        return
    weights: dict[str, list[str]] = {}
    for one in connection.each():
        with suppress(DetectorError), one.make_client() as client:
            provenance = client.provenance()
            document = None if provenance is None else {**provenance.document, "created": None}
            weights.setdefault(repr(document), []).extend(one.urls)
    if len(weights) > 1:
        groups = " / ".join(", ".join(urls) for urls in weights.values())
        click.secho(f"warning: the servers run different weights or face detectors: {groups}", fg="yellow", err=True)


@contextmanager
def _sink(output: Path | None, printed: str | None, beside_bar: Console | None) -> Iterator[Sink]:
    # A file name that is not valid UTF-8 is written as the escape by which JSON can carry it.
    encoding, errors = "utf-8", "backslashreplace"
    if output is not None:
        with output.open("w", newline="", encoding=encoding, errors=errors) as file:
            yield FORMATS[output.suffix.lower()](file)
    elif printed == "table" or (printed is None and sys.stdout.isatty()):
        yield table(beside_bar or Console())
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding=encoding, errors=errors)
        yield FORMATS[f".{printed or 'jsonl'}"](sys.stdout)


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Within it the first Ctrl-C only sets the event; the second raises KeyboardInterrupt as usual."""
    stop = threading.Event()

    def first(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # print() might be what was interrupted, and it cannot be entered twice.
        os.write(2, b"\nfinishing the requests in flight; Ctrl-C again stops at once\n")

    previous = signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
