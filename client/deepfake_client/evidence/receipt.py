"""Receipts: what was scored by what, so that it can be scored again and compared; pure but for asking the client."""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..calibration import Calibration
from ..client import DetectorClient
from ..results import Provenance, ServerInfo, Verdict

VERSION = 1
"""Of the receipt's layout."""

TOLERANCE = 1e-3
"""Difference of a probability that other hardware or another release of a runtime may make."""


@dataclass(frozen=True)
class Deployment:
    """What gives the verdicts.

    Attributes:
        server: Name, version and limits of the server.
        provenance: Its weights; None where it does not say.
        calibration: Of its vote; None where it does not say.
    """

    server: ServerInfo
    provenance: Provenance | None
    calibration: Calibration | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "client": client_version(),
            "server": {"name": self.server.name, "version": self.server.version, "model": self.server.model},
            "weights": {
                "identity": None if self.provenance is None else self.provenance.identity,
                "state": "unknown" if self.provenance is None else self.provenance.state,
                "document": None if self.provenance is None else dict(self.provenance.document),
            },
            "calibration": calibration_document(self.calibration),
        }


def ask_deployment(client: DetectorClient) -> Deployment:
    """What gives the verdicts of a client; errors as `DetectorClient.server_info`."""
    return Deployment(client.server_info(), client.provenance(), client.calibration())


def client_version() -> str:
    """Of this package."""
    try:
        return importlib.metadata.version("deepfake-client")
    except importlib.metadata.PackageNotFoundError:  # used from a folder that was not installed
        return "unknown"


def calibration_document(calibration: Calibration | None) -> Any:
    """The calibration in force as plain values; a word where there is none."""
    if calibration is None:
        return "unknown"
    return "the published method's own" if calibration.document is None else dict(calibration.document)


def make_receipt(data: bytes, verdict: Verdict, deployment: Deployment) -> dict[str, Any]:
    """The receipt of one scored image.

    Args:
        data: The image's file.
        verdict: On it.
        deployment: What gave it.
    """
    return {
        "receipt": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "image": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        "faces": "main" if verdict.faces is None else "all",
        "threshold": verdict.threshold,
        "row": verdict.to_dict(),
        **deployment.to_dict(),
    }


def differences(receipt: Mapping[str, Any], data: bytes, verdict: Verdict, deployment: Deployment) -> list[str]:
    """What is otherwise than a receipt says, a line each; none where all is the same.

    Raises:
        ValueError: It is no receipt.
    """
    new = make_receipt(data, verdict, deployment)
    try:
        if receipt["receipt"] != VERSION:
            raise ValueError(f"a receipt of layout {receipt['receipt']!r}; this client reads {VERSION}")
        lines = []
        if receipt["image"]["sha256"] != new["image"]["sha256"]:
            lines.append(
                f"the image is another file: SHA-256 {new['image']['sha256']}, not {receipt['image']['sha256']}"
            )
        for what in ("server", "weights", "calibration"):
            old_part, new_part = _undated(receipt[what]), _undated(new[what])
            if old_part != new_part:
                old_word, new_word = (
                    part.get("identity") or part if isinstance(part, dict) else part for part in (old_part, new_part)
                )
                lines.append(f"{what}: {new_word}, was {old_word}")
        lines += _rows_differ("", _comparable(receipt["row"]), _comparable(new["row"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a receipt of this client: {error!r}") from error
    return lines


def _comparable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("path", "weights", "sha256")}


def _rows_differ(where: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [*old, *(name for name in new if name not in old)]
        return [line for name in names for line in _rows_differ(f"{where}{name} ", old.get(name), new.get(name))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for place, (one, other) in enumerate(zip(old, new, strict=True))
            for line in _rows_differ(f"{where}{place} ", one, other)
        ]
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (old, new))
    same = abs(old - new) <= TOLERANCE if numbers else old == new
    return [] if same else [f"{where.strip()}: {new}, was {old}"]


def _undated(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {name: _undated(value) for name, value in part.items() if name != "created"}
    return part
