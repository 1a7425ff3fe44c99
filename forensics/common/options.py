"""Options that the commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from deepfake_client.cli import connection_options

Command = Callable[..., None]


def _options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


data_argument = click.argument("data", type=click.Path(path_type=Path))

server_options = _options(
    connection_options,
    click.option(
        "--batch-size", default=8, show_default=True, type=click.IntRange(1), help="Most images in one request."
    ),
    click.option(
        "--in-flight", default=4, show_default=True, type=click.IntRange(1), help="Most requests at the same time."
    ),
)


def output_option(default: str, holds: str) -> Callable[[Command], Command]:
    """Where a command writes, and for help what that folder holds."""
    return click.option(
        "--output",
        "-o",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(default),
        show_default=True,
        help=f"Folder for {holds}.",
    )


seed_option = click.option(
    "--seed", default=1024, show_default=True, type=click.IntRange(0, 2**63), help="Of the degradations."
)

resamples_option = click.option(
    "--resamples",
    default=1000,
    show_default=True,
    type=click.IntRange(100, 100_000),
    help="Bootstrap resamples for the intervals.",
)
