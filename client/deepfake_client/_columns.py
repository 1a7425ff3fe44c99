"""Verdicts as a table with one flat column for each field, for engines that work on columns."""

from collections.abc import Iterable, Iterator
from math import isnan
from typing import Any

from ._client import DetectorClient
from ._items import FaceBox, Image, ImageItem
from ._results import STREAM_NAMES, Verdict

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
"""The columns with their types, in the order of the command line's CSV files (which have `path` before them)."""


def score_columns(
    client: DetectorClient, images: Iterable[Any], boxes: Iterable[FaceBox | None] | None = None
) -> dict[str, list[Any]]:
    """Scores the cells of a column.

    Args:
        client: Scores them.
        images: Bytes or paths. A missing one (None or NaN) is sent as an empty file, so its status is "empty_image".
        boxes: For each image the box of its face, or None.

    Returns:
        For each of `COLUMNS` a value for each image, in order: None where there is none.

    Raises:
        TypeError: A cell is neither bytes nor a path.
        DetectorError: As `DetectorClient.score_many`.
    """
    rows = [_flatten(verdict) for verdict in client.score_many(_items(images, boxes))]
    return {name: [row[name] for row in rows] for name in COLUMNS}


def _items(images: Iterable[Any], boxes: Iterable[FaceBox | None] | None) -> Iterator[ImageItem]:
    present: Iterator[Image] = (b"" if _missing(image) else image for image in images)
    yield from present if boxes is None else zip(present, boxes, strict=True)


def _missing(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and isnan(cell))


def _flatten(verdict: Verdict) -> dict[str, Any]:
    box = verdict.face.box or (None,) * 4
    row: dict[str, Any] = {
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
