"""How doctor and launcher get into a secured server: the options and the environment of the client's command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click
import grpc  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Credentials:
    """What a connection needs.

    Attributes:
        tls: Whether it is encrypted; so it is as well where one of the files is given.
        ca: Authorities that sign the server's certificate, PEM; None for those of this machine.
        client_cert: The certificate that the server asks for, PEM.
        client_key: Its private key, PEM.
        headers: Sent with each call.
    """

    tls: bool = False
    ca: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """For gRPC; None where the connection is not encrypted."""
        if not (self.tls or self.ca or self.client_cert):
            return None
        ca, cert, key = (path and path.read_bytes() for path in (self.ca, self.client_cert, self.client_key))
        return grpc.ssl_channel_credentials(ca, key, cert)


def parse_header(text: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME=@FILE for a value from a file.

    Raises:
        click.BadParameter: It is neither, or the file cannot be read.
    """
    name, equals, value = text.strip().partition("=")
    if not equals:
        raise click.BadParameter("a header is NAME=VALUE, or NAME=@FILE for a value from a file")
    if value.startswith("@"):
        try:
            value = Path(value[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"header {name}: {value[1:]} cannot be read ({error})") from error
    return name.lower(), value


def certificate_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options `ca`, `client_cert` and `client_key`, named as the client's."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    texts = {
        "--client-key": "PEM file of the private key of --client-cert.",
        "--client-cert": "PEM file of the certificate that the server asks for.",
        "--ca": "PEM file of the authorities that sign the server's certificate, where these are your own.",
    }
    for name, text in texts.items():
        variable = f"DEEPFAKE_CLIENT_{name.strip('-').replace('-', '_').upper()}"
        command = click.option(name, type=file, envvar=variable, show_envvar=True, help=text)(command)
    return command


def credential_options(command: Callable[..., None]) -> Callable[..., None]:
    """As `certificate_options`, with `tls` and `header`."""
    command = click.option(
        "--header",
        multiple=True,
        metavar="NAME=VALUE",
        help="Send a header, such as a token. NAME=@FILE takes it from a file; the variable DEEPFAKE_CLIENT_HEADER "
        "holds one a line.",
    )(command)
    command = certificate_options(command)
    return click.option("--tls", is_flag=True, envvar="DEEPFAKE_CLIENT_TLS", help="Encrypt the connection.")(command)
