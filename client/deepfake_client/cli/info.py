"""`deepfake-client info`: what a server runs."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from ..contract import contract
from ..errors import DetectorError
from ..results import Provenance
from ..text import printable
from .connection import Connection, connection_options
from .group import SERVER_UNREACHABLE
from .identity import ask_provenance
from .operating_point import describe_vote

_TEST_IMAGE_SECONDS = 60.0


@click.command()
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
    """Show what the server at each address runs and whether it scores a test image.

    Exit codes: 0 they all do, 2 wrong command line, 3 one cannot be reached or scores nothing.
    """
    failed = False
    for one in connection.each():
        try:
            _show_server(one, wait)
        except DetectorError as error:
            click.echo(f"error: {printable(str(error), keep=chr(10))}", err=True)
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
        ask_provenance(client)
        started = time.monotonic()
        client.wait_ready(_TEST_IMAGE_SECONDS)
        _show("ready", f"yes, it scored a test image after {time.monotonic() - started:.2f} s")


_STATES = {"untrained": "UNTRAINED", "stand-in": "STAND-IN", "unknown": "of unknown origin"}


def _describe(provenance: Provenance | None) -> Iterator[tuple[str, str]]:
    if provenance is None:
        yield "weights", "unknown: the server has no provenance model"
        return
    document = dict(provenance.document)
    for name in (contract.UNTRAINED, contract.STATE, "stand_in"):
        document.pop(name, None)
    state = _STATES.get(provenance.state, provenance.state)
    yield "weights", f"{state}{': ' * bool(provenance.stand_in)}{provenance.stand_in}, {provenance.identity}"
    streams = document.pop(contract.STREAMS_KEY, {})
    for name, value in (streams if isinstance(streams, Mapping) else {"streams": streams}).items():
        yield name, _words(value)
    for name, value in document.items():
        yield name.replace("_", " "), _words(value)


def _words(value: Any) -> str:
    """A value of JSON as people write it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case None | Mapping() | list() if not value:
            return "none"
        case Mapping():
            return ", ".join(f"{str(name).replace('_', ' ')} {_words(each)}" for name, each in value.items())
        case list():
            return ", ".join(map(_words, value))
        case _:
            return str(value)


def _show(name: str, value: str) -> None:
    click.echo(f"{printable(name):<18}{printable(value)}")
