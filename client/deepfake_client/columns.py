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
    "threshold": float,
    "weights": str,
}
"""The columns with their types, in the order of a CSV file, where `path` stands before them. `weights` is the identity
of the weights that gave the verdict, after the word "untrained" or "stand-in" where that is what they are."""


FILE_COLUMNS: dict[str, type[str] | type[float]] = {
    "face_count": float,
    "time": float,
    **{
        f"video_{field}": float
        for field in ("duration", "frames", "frames_failed", "mean", "fake_share", "worst_start", "worst_end")
    },
    "video_warning": str,
    "sha256": str,
}
"""What files have beyond that, empty where it does not apply: the number of faces where all were asked for, the second
of a frame, and what is said of a video."""


EARLY_COLUMNS: dict[str, type[str] | type[float]] = {
    **dict.fromkeys(("score_low", "score_high", "probability_low", "probability_high"), float),
    "streams_run": str,
}
"""What files have beyond `COLUMNS` where verdicts alone are asked for: see `EarlyVerdict`."""


def file_row(verdict: Verdict) -> dict[str, Any]:
    """The row of a verdict in a file: `path`, `COLUMNS`, `FILE_COLUMNS` and `EARLY_COLUMNS`."""
    row = dict.fromkeys(FILE_COLUMNS | EARLY_COLUMNS) | flatten(verdict)
    row["sha256"] = verdict.sha256
    row["face_count"] = None if verdict.faces is None else len(verdict.faces)
    return row | verdict.extra_columns()


def _weights(verdict: Verdict) -> str | None:
    if verdict.untrained:
        return f"untrained {verdict.weights}"
    return f"stand-in {verdict.weights}" if verdict.stand_in else verdict.weights


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
        "threshold": verdict.threshold,
        "weights": _weights(verdict),
    }
    for name, stream in verdict.streams.items():
        row[f"{name}_probability"] = stream.probability
        row[f"{name}_vote"] = stream.vote
    return row
