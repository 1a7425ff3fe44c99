"""What every command has in common: how it ends."""

import os
from typing import Any

import click

from ..errors import DetectorError
from ..text import printable

SOME_FAILED = 1
SERVER_UNREACHABLE = 3
NO_IMAGES = 5
INTERRUPTED = 130
"""Exit codes; click exits with 2 where the command line is wrong, and 4 says that rows cannot be written."""


class Commands(click.Group):
    """A group whose commands end with a line and an exit code, never with a traceback, on what users can run into."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs a command. A standard stream that is closed is opened on nothing: no file must get its number."""
        for number in range(3):
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; its errors are shown without what would act on a terminal."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = printable(error.message, keep="\n")  # type: ignore[misc]
            raise
        except DetectorError as error:
            click.echo(f"error: {printable(str(error), keep=chr(10))}", err=True)
            ctx.exit(SERVER_UNREACHABLE)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
