"""What the commands of `python -m server` share: options, and the command that need not be named."""

import difflib
from collections.abc import Callable
from pathlib import Path

import click

from server.defaults import PORTS

repository_option = click.option(
    "--model-repository",
    "repository",
    type=click.Path(path_type=Path),
    default=Path("model_repository"),
    show_default=True,
    help="Folder with the exported models.",
)


config_option = click.option(
    "--model-config-name",
    "config_name",
    default="",
    metavar="NAME",
    help="Serve each model by its configs/NAME.pbtxt, where it has one: openvino (a CPU, in bfloat16 where it has it: "
    "faster, not exact) or tensorrt (engines). Without: ONNX Runtime.",
)


def listen_options(command: Callable[..., None]) -> Callable[..., None]:
    """The address and the three ports, as every command that needs them has them."""
    for name, title in (("metrics", "metrics"), ("http", "HTTP"), ("grpc", "gRPC")):
        option = click.option(
            f"--{name}-port",
            type=click.IntRange(1, 65535),
            default=PORTS[name],
            show_default=True,
            help=f"Port for {title}.",
        )
        command = option(command)
    return click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")(command)


class ServeByDefault(click.Group):
    """A group whose command `serve` need not be named: `python -m server --grpc-port 9001` serves."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `serve` in front of arguments that name no command; refuse a word that is none."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            near = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(self.commands)}"
            raise click.UsageError(f"no command {args[0]!r}; {hint}", ctx)
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options of `serve` as the group's own."""
        serve_command = self.commands["serve"]
        serve_command.format_options(click.Context(serve_command, parent=ctx), formatter)
        self.format_commands(ctx, formatter)
