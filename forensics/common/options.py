"""Options that the commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from deepfake_client import DetectorClient

Command = Callable[..., None]


def check_url(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse what is not HOST:PORT, as an option's callback."""
    try:
        DetectorClient(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


def _options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


data_argument = click.argument("data", type=click.Path(path_type=Path))

server_options = _options(
    click.option(
        "--url",
        default="localhost:8001",
        show_default=True,
        metavar="HOST:PORT",
        callback=check_url,
        help="gRPC port of the server.",
    ),
    click.option(
        "--batch-size", default=8, show_default=True, type=click.IntRange(1), help="Most images in one request."
    ),
    click.option(
        "--in-flight", default=4, show_default=True, type=click.IntRange(1), help="Most requests at the same time."
    ),
)

output_option = click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("evaluation"),
    show_default=True,
    help="Folder for the results, and for the scores by which a stopped run goes on.",
)

resamples_option = click.option(
    "--resamples",
    default=1000,
    show_default=True,
    type=click.IntRange(100, 100_000),
    help="Bootstrap resamples for the intervals.",
)
