"""The forecast of a run, told to whoever asked for it."""

import json

import click

from ..bulk.inputs import IMAGE_EXTENSIONS, Inputs, find_images
from .connection import Connection
from .group import NO_IMAGES
from .identity import ask_provenance
from .operating_point import find_operating_point
from .output.forecast import NothingScoredError, forecast, is_here


def tell_forecast(
    connection: Connection,
    inputs: Inputs,
    far: float | None,
    printed: str | None,
    batch_size: int,
    in_flight: int,
    timeout: float,
) -> int:
    """Prints it; the exit code. Arguments as of `deepfake-client score`."""
    with connection.make_client(timeout=timeout) as client:
        client.server_info()
        ask_provenance(client, needed=False)
        threshold = None if far is None else find_operating_point(client, far).threshold
    try:
        found = forecast(
            connection, find_images(inputs), threshold, batch_size=batch_size, in_flight=in_flight, timeout=timeout
        )
    except NothingScoredError as error:
        click.echo(str(error), err=True)
        return NO_IMAGES
    if found is None:
        click.echo(f"no images found (in folders: {' '.join(IMAGE_EXTENSIONS)})", err=True)
        return NO_IMAGES
    if printed == "jsonl":
        click.echo(json.dumps(found.to_dict()))
    else:
        why = "no meters of processors or GPUs can be read" if is_here(connection) else "the server is another machine"
        click.echo(found.text(why))
    return 0
