"""The rows of a robustness study on disk, a file for each sweep, so that an interrupted study goes on where it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forensics.score_store import ScoreStore, _fingerprint

_TRANSIENT = frozenset({"unreadable_file"})
"""Statuses that another try may mend: they are not kept."""


class SweepStore(ScoreStore):
    """As its base, with the rows of `robustness_rows.measure`."""

    def keep(self, path: Path, measured: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps what was measured of an image, unless another try may give something better; its row."""
        fingerprint = _fingerprint(path)
        row = {"path": str(path), **measured}
        if fingerprint is not None and measured["status"] not in _TRANSIENT:
            row |= {"size": fingerprint[0], "mtime_ns": fingerprint[1]}
            self._rows[str(path)] = row
            self._write(row)
        return row
