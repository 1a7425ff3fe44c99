"""The options of the command line that say which servers to ask, and how to connect to them."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from tritonclient.grpc import InferenceServerClient

from ..balancing.addresses import resolve
from ..client import DetectorClient


class _Url(click.ParamType):  # type: ignore[type-arg]  # not generic in all the releases that are allowed
    name = "HOST:PORT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            DetectorClient(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value


class _Header(click.ParamType):  # type: ignore[type-arg]
    name = "NAME=VALUE"
    envvar_list_splitter = "\n"  # a value may have spaces in it

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = value.strip().partition("=")
        if not equals:
            # What there is may be a secret, so it is not shown.
            self.fail("a header is NAME=VALUE, or NAME=@FILE for a value that is read from a file", param, ctx)
        if text.startswith("@"):
            try:
                text = Path(text[1:]).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                self.fail(f"header {name}: the file {text[1:]} cannot be read ({error})", param, ctx)
        return name, text


def _file_option(name: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        name,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        envvar=f"DEEPFAKE_CLIENT_{name.strip('-').replace('-', '_').upper()}",
        show_envvar=True,
        help=text,
    )


_OPTIONS = (
    click.option(
        "--url",
        "-u",
        "urls",
        type=_Url(),
        multiple=True,
        default=["localhost:8001"],
        show_default=True,
        show_envvar=True,
        envvar="DEEPFAKE_CLIENT_URL",
        help="gRPC port of a server. Give it several times for several servers; a name with several addresses of one"
        " kind stands for a server at each. Requests go where the fewest are under way, a server that fails is left"
        " out until it scores a test image.",
    ),
    click.option("--tls", is_flag=True, envvar="DEEPFAKE_CLIENT_TLS", show_envvar=True, help="Encrypt the connection."),
    _file_option("--ca", "PEM file of the authorities that sign the server's certificate, where these are your own."),
    _file_option("--client-cert", "PEM file of the certificate that the server asks this client for."),
    _file_option("--client-key", "PEM file of its private key."),
    click.option(
        "--header",
        "headers",
        type=_Header(),
        multiple=True,
        envvar="DEEPFAKE_CLIENT_HEADER",
        show_envvar=True,
        help="Send a header, such as a token, with each request. NAME=@FILE takes the value from a file, so that it"
        " stands on no command line; the variable holds one header a line.",
    ),
)


class Connection:
    """What the options of a command line say about the servers and how to connect to them."""

    def __init__(self, urls: tuple[str, ...], **options: Any) -> None:
        """Keeps addresses and what else `DetectorClient` needs to connect to them."""
        self.urls = urls
        self._options = options

    def each(self) -> "Iterator[Connection]":
        """The same with one address at a time."""
        return (Connection((url,), **self._options) for url in self.urls)

    def make_client(self, **options: Any) -> DetectorClient:
        """A client of these servers; further options as of `DetectorClient`.

        Raises:
            click.UsageError: The options do not fit each other, or a file is not what it should be.
        """
        try:
            return DetectorClient(self.urls, **self._options, **options)
        except ValueError as error:
            raise click.UsageError(str(error)) from error

    def connect(self) -> tuple[InferenceServerClient, dict[str, str]]:
        """tritonclient's own client of the first of these servers, secured alike, and the headers of each request.

        For what is asked of other models than the detector. Errors as `make_client`.
        """
        settings = self.make_client()._settings
        address = resolve(self.urls)[0]
        return InferenceServerClient(**settings.channel(address, pixels=True)), dict(settings.headers)


def connection_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of the connection, and their values as its argument `connection`."""

    @functools.wraps(command)
    def connected(
        *args: Any,
        urls: tuple[str, ...],
        tls: bool,
        ca: Path | None,
        client_cert: Path | None,
        client_key: Path | None,
        headers: tuple[tuple[str, str], ...],
        **options: Any,
    ) -> None:
        connection = Connection(
            urls, tls=tls, ca=ca, client_cert=client_cert, client_key=client_key, headers=dict(headers)
        )
        command(*args, connection=connection, **options)

    for option in reversed(_OPTIONS):
        connected = option(connected)
    return connected
