"""Evidence of one picture as a file, and `deepfake-client replay`."""

import json
from pathlib import Path

import click

from ..client import DetectorClient
from ..evidence import ask_deployment, bundle, collect, differences
from ..images.items import Faces
from ..results import Verdict
from ..text import printable
from .connection import Connection, connection_options

DIFFERENT = 1
"""Exit code where a verdict is not what its receipt says."""


def write_evidence(file: Path, client: DetectorClient, verdict: Verdict) -> None:
    """Writes the evidence for a verdict on a file.

    Raises:
        DetectorError: The server does not answer.
        ClickException: A package is not installed, or the file cannot be written or read.
    """
    try:
        file.write_bytes(bundle(collect(client, Path(verdict.path or "").read_bytes(), verdict)))
    except (ImportError, OSError) as error:
        raise click.ClickException(f"{file}: {error}") from error
    click.echo(f"evidence: {file}", err=True)


@click.command()
@click.argument("receipt", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@connection_options
@click.pass_context
def replay(ctx: click.Context, receipt: Path, image: Path, connection: Connection) -> None:
    """Score IMAGE again as RECEIPT says, and tell what is otherwise: file, weights, calibration, numbers.

    A receipt is in the file that --evidence writes. Probabilities are the same within 0.001: other hardware rounds
    otherwise.

    Exit codes: 0 all is the same, 1 something is not, 2 wrong command line, 3 the server cannot be reached.
    """
    try:
        known = json.loads(receipt.read_bytes())
        data = image.read_bytes()
        faces: Faces = known["faces"]
        if faces not in ("main", "all"):
            raise ValueError(f"faces is {faces!r}")
        threshold = None if known["threshold"] is None else float(known["threshold"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise click.BadParameter(f"{receipt} is no receipt of this client: {error!r}", param_hint="RECEIPT") from None
    except OSError as error:
        raise click.ClickException(str(error)) from error
    with connection.make_client() as client:
        verdict = client.score(data, faces=faces).decided_by(threshold)
        try:
            lines = differences(known, data, verdict, ask_deployment(client))
        except ValueError as error:
            raise click.BadParameter(f"{receipt}: {error}", param_hint="RECEIPT") from None
    for line in lines:
        click.echo(printable(line))
    if not lines:
        click.echo(f"the same: {verdict.verdict or verdict.status}, score {verdict.score}")
    ctx.exit(DIFFERENT if lines else 0)
