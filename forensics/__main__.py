"""`python -m forensics`: evidence on the deployed ensemble, from labelled images of your own."""

from importlib import import_module
from typing import Any

import click
from click.exceptions import NoSuchCommand
from deepfake_client import DetectorError

from forensics.common.errors import ForensicsError

FAILED = 1
SERVER_UNREACHABLE = 3
INTERRUPTED = 130
"""Exit codes; click exits with 2 where the command line is wrong."""

COMMANDS = {
    "evaluate": "forensics.evaluate.command",
    "calibrate": "forensics.calibrate.command",
    "robustness": "forensics.robustness.command",
    "explain": "forensics.explain.command",
    "submission": "forensics.submission.command",
}
"""Name of each command, and the module whose `command` it is; imported only when it is used."""


class _Commands(click.Group):
    """Commands end with a line and an exit code, never with a traceback, on what users can run into."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            command: click.Command = import_module(COMMANDS[cmd_name]).command
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"{cmd_name} needs the package {error.name}, which is not installed: pip install '.[forensics]'"
            ) from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:  # click suggests only commands that are imported already
            raise NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DetectorError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(SERVER_UNREACHABLE)
        except ForensicsError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(FAILED)
        except BrokenPipeError:
            raise  # the reader of a pipe has what it wants; click ends quietly
        except OSError as error:
            click.echo(f"error: {error.filename or 'a file'}: {error.strerror or error}", err=True)
            ctx.exit(FAILED)
        except KeyboardInterrupt:
            click.echo("\nstopped; the same command goes on with the images that were not scored yet", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Evidence on the deployed ensemble, from images of your own, through the running server.

    \b
    python -m forensics evaluate photos/       how well it ranks and decides, with intervals; an HTML report
    python -m forensics calibrate photos/      thresholds for false-alarm rates; what a fitted vote would gain
    python -m forensics robustness photos/     the same under blur, noise, compression and the like
    python -m forensics explain photo.jpg      where each stream looked, and how the votes add up
    python -m forensics submission images/     a folder's scores in the form of the NTIRE challenge

    \b
    Exit codes: 0 done · 1 the data or a file is wrong · 2 wrong command line · 3 no server, or it went away ·
    130 stopped by Ctrl-C.
    """


if __name__ == "__main__":
    main(prog_name="python -m forensics")
