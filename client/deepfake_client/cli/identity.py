"""Which weights and which calibration score, and whether the rows of two runs may stand together."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from ..bulk.inputs import Inputs
from ..calibration import Calibration, OperatingPoint
from ..client import DetectorClient
from ..errors import DetectorError
from ..images.items import Faces
from ..results import Provenance
from ..video import VideoOptions
from .connection import Connection


def ask_provenance(client: DetectorClient, *, needed: bool = False) -> Provenance | None:
    """What is known of the weights; warnings where that is nothing, or that they are untrained.

    Where it is needed, to go on with rows from before, it is an error that the server does not answer.
    """
    try:
        provenance = client.provenance()
    except DetectorError as error:
        if needed:
            raise
        click.echo(f"warning: it is not known which weights the server runs: {error}", err=True)
        return None
    if provenance is not None and provenance.untrained:
        click.secho("warning: UNTRAINED weights: these scores mean nothing", fg="yellow", err=True)
    if provenance is not None and provenance.stand_in:
        click.secho(f"warning: STAND-IN weights: {provenance.stand_in}", fg="yellow", err=True)
    return provenance


def warn_if_different(connection: Connection) -> None:
    """Verdicts of servers with different weights do not compare; a server that is absent is not asked."""
    if len(connection.urls) == 1:
        return
    weights: dict[str, list[str]] = {}
    for one in connection.each():
        with suppress(DetectorError), one.make_client() as client:
            weights.setdefault(repr(_undated(client.provenance())), []).extend(one.urls)
    if len(weights) > 1:
        groups = " / ".join(", ".join(urls) for urls in weights.values())
        click.secho(f"warning: the servers run different weights or face detectors: {groups}", fg="yellow", err=True)


def identity(
    inputs: Inputs,
    client: DetectorClient,
    provenance: Provenance | None,
    point: OperatingPoint | None,
    faces: Faces,
    videos: VideoOptions,
    *,
    verdict_only: bool = False,
) -> dict[str, Any]:
    """What a run must share with an earlier one, for their rows to stand in one file."""
    return {
        "inputs": [*inputs.paths, *inputs.lists],
        "columns": inputs.columns.names,
        "current folder": None if inputs.are_absolute else str(Path.cwd()),
        "weights": _undated(provenance),
        "calibration": _undated(client.calibration()),
        "faces": [faces, videos.faces],
        "verdict only": verdict_only,
        "frames": [videos.sampling.fps, videos.sampling.frames, videos.keep_frames, videos.digest],
        "operating point": None if point is None else [point.far, point.threshold],
    }


def _undated(known: Provenance | Calibration | None) -> dict[str, Any] | None:
    """The same weights, exported or calibrated a second time, are the same weights."""
    document = None if known is None else known.document
    return None if document is None else {name: value for name, value in document.items() if name != "created"}
