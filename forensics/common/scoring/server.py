"""Data sets through the server, resumably."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from deepfake_client import Calibration, DetectorClient, DetectorError

from ensemble.calibration import PAPER_VOTE, Vote
from ensemble.calibration_file import CalibrationError, parse_calibration
from ensemble.faces.crop import MARGIN
from forensics.common.errors import ForensicsError
from forensics.common.progress import progress
from forensics.common.scoring.store import ScoreStore, old_path

SCORES_FILE = "scores.jsonl"


@dataclass(frozen=True)
class Server:
    """What the scores of a server depend on.

    Attributes:
        provenance: Which weights it runs. None where it does not say.
        calibration: What its vote was calibrated with. None where it does not say.
    """

    provenance: dict[str, Any] | None
    calibration: Calibration | None

    @property
    def untrained(self) -> bool:
        """Whether its weights are known to be random."""
        return self.provenance is not None and bool(self.provenance["untrained"])

    @property
    def stand_in(self) -> str:
        """What its weights were trained on where they are stand-ins, good for nothing else; empty otherwise."""
        return "" if self.provenance is None else str(self.provenance.get("stand_in") or "")

    @property
    def warning(self) -> str:
        """What whoever sees its scores must know; empty for trained weights."""
        if self.untrained:
            return "UNTRAINED weights: the networks are random, and what they give means nothing"
        return f"STAND-IN weights: {self.stand_in}" if self.stand_in else ""

    @property
    def framing(self) -> tuple[str, float]:
        """What its streams look at, and the margin around a face; by `square` where it does not say."""
        provenance = self.provenance or {}
        return str(provenance.get("framing", "square")), float(provenance.get("face_margin", MARGIN))

    @property
    def vote(self) -> Vote:
        """Its vote; the method's own where it does not say.

        Raises:
            ForensicsError: Its calibration is of another version.
        """
        if self.calibration is None or self.calibration.document is None:
            return PAPER_VOTE
        try:
            return parse_calibration(json.dumps(dict(self.calibration.document))).vote
        except CalibrationError as error:
            raise ForensicsError(f"the server's calibration cannot be read: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        calibration = None if self.calibration is None else self.calibration.document
        return {"provenance": self.provenance, "calibration": None if calibration is None else dict(calibration)}


def ask_server(client: DetectorClient) -> Server:
    """Asks what the server runs, and warns where its scores mean nothing.

    Raises:
        DetectorError: No server answers, or not as the detector does.
    """
    client.server_info()  # a wrong address is told in seconds
    try:
        provenance = client.provenance()
    except DetectorError as error:
        raise DetectorError(f"it is not known which weights the server runs: {error}") from error
    server = Server(None if provenance is None else dict(provenance.document), client.calibration())
    if server.provenance is None:
        _warn("the server does not say which weights it runs; kept scores are taken for its own")
    if server.untrained:
        _warn("UNTRAINED weights: the networks are random, and every number below means nothing")
    if server.stand_in:
        _warn(f"STAND-IN weights: {server.stand_in}")
    return server


def score_images(client: DetectorClient, server: Server, images: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    """Scores images, but those that were scored before by the same server and have not changed since.

    Args:
        client: The client.
        server: What it talks to.
        images: The images.
        folder: Holds `SCORES_FILE`; it is made where it is missing.

    Returns:
        A row for each image, as `ScoreStore` keeps it.

    Raises:
        DetectorError: The server is gone; what was scored before is kept.
        ForensicsError: The file of scores is damaged or in use.
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SCORES_FILE
    with ScoreStore(path, server.to_dict()) as store:
        if store.replaced:
            kept = old_path(path)
            _warn(f"{path} held scores of other weights or another calibration, now in {kept}: all are scored again")
        rows = {image: store.get(image) for image in images}
        missing = [path for path, row in rows.items() if row is None]
        if len(missing) < len(rows):
            click.echo(f"{len(rows) - len(missing)} of {len(rows)} images were scored before ({path})", err=True)
        with (
            progress("scoring", len(rows), "images", done=len(rows) - len(missing)) as advance,
            closing(client.score_many(missing)) as verdicts,
        ):
            for image_path, verdict in zip(missing, verdicts, strict=True):
                rows[image_path] = store.keep(image_path, verdict.to_dict())
                advance()
    return [row for image in images if (row := rows[image]) is not None]


def _warn(text: str) -> None:
    click.secho(f"warning: {text}", fg="yellow", err=True)
