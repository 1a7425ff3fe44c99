"""A verdict as a row with one flat column for each field."""

from typing import Any

from .results import STREAM_NAMES, Verdict

COLUMNS: dict[str, type[str] | type[float]] = {
    "status": str,
    "score": float,
    "probability": float,
    "verdict": str,
    **{f"{name}_{field}": float for name in STREAM_NAMES for field in ("probability", "vote")},
    **dict.fromkeys(("face_x1", "face_y1", "face_x2", "face_y2", "face_confidence"), float),
    "face_source": str,
    "error": str,
}
"""The columns with their types, in the order of a CSV file, where `path` stands before them."""


def flatten(verdict: Verdict) -> dict[str, Any]:
    """The row of a verdict, `path` and `COLUMNS`; None for what is not there."""
    box = verdict.face.box or (None,) * 4
    row: dict[str, Any] = {
        "path": verdict.path,
        "status": verdict.status,
        "score": verdict.score,
        "probability": verdict.probability,
        "verdict": verdict.verdict,
        **dict(zip(("face_x1", "face_y1", "face_x2", "face_y2"), box, strict=True)),
        "face_confidence": verdict.face.confidence,
        "face_source": verdict.face.source,
        "error": verdict.error,
    }
    for name, stream in verdict.streams.items():
        row[f"{name}_probability"] = stream.probability
        row[f"{name}_vote"] = stream.vote
    return row
