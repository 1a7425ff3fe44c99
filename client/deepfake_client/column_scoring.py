"""Verdicts as a table with one flat column for each field, for engines that work on columns."""

from collections.abc import Iterable, Iterator
from math import isnan
from typing import Any

from .client import DetectorClient
from .columns import COLUMNS, flatten
from .images.items import FaceBox, ImageItem, ImageSource


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
    rows = [flatten(verdict) for verdict in client.score_many(_items(images, boxes))]
    return {name: [row[name] for row in rows] for name in COLUMNS}


def _items(images: Iterable[Any], boxes: Iterable[FaceBox | None] | None) -> Iterator[ImageItem]:
    present: Iterator[ImageSource] = (b"" if _missing(image) else image for image in images)
    yield from present if boxes is None else zip(present, boxes, strict=True)


def _missing(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and isnan(cell))
