"""What the tests of the adapters for Ray and Spark share."""

import re
import runpy
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from deepfake_client import DetectorClient, Verdict

from tests.golden import IMAGES, ROOT
from tests.hostile import CASES

README = ROOT / "client" / "README.md"


@dataclass(frozen=True)
class Cell:
    """An image in a column, and the status that its row must get."""

    name: str
    image: bytes | None
    status: str


CELLS = [
    *(Cell(path.name, path.read_bytes(), "ok") for path in IMAGES),
    *(Cell(case.name, case.data, case.status) for case in CASES if case.status != "ok" and len(case.data) < 1 << 20),
    Cell("null", None, "empty_image"),
]


def write_files(folder: Path) -> dict[str, str]:
    """The images of `CELLS` as files, and two paths that cannot be read: the status that each must get, by its path."""
    statuses = {str(folder / "gone.png"): "unreadable_file", str(folder): "unreadable_file"}
    for cell in CELLS:
        if cell.image is not None:
            path = folder / cell.name
            path.write_bytes(cell.image)
            statuses[str(path)] = cell.status
    return statuses


def readme_example(word: str, replacements: dict[str, str]) -> str:
    """The example of the README with a word in it, with other addresses."""
    (text,) = (each for each in re.findall(r"^```py\n(.*?)^```$", README.read_text(), re.S | re.M) if word in each)
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return text


def run_example(name: str, folder: Path, url: str, *options: str) -> list[dict[str, Any]]:
    """Runs the example that scores a folder, here, where a cluster is up: the rows that it writes.

    The folder holds one photograph with a face.
    """
    (images := folder / "images").mkdir()
    shutil.copy(IMAGES[0], images)
    arguments = [name, str(images), str(folder / "verdicts"), "--url", url, *options]
    with patch.object(sys, "argv", arguments):
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    parquet = pytest.importorskip("pyarrow.parquet", reason=f"{name} writes Parquet")
    return [row for path in (folder / "verdicts").rglob("*.parquet") for row in parquet.read_table(path).to_pylist()]


def check_against_the_client(rows: dict[str, dict[str, Any]], url: str, images: Sequence[Path] = IMAGES) -> None:
    """Holds the rows of golden images, by file name, against what the client itself says."""
    with DetectorClient(url) as client:
        for path, verdict in zip(images, client.score_many(images), strict=True):
            assert {name: rows[path.name][name] for name in flat(verdict)} == flat(verdict)


def flat(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a row of a table."""
    row = {name: getattr(verdict, name) for name in ("status", "score", "probability", "verdict", "error")}
    for name, stream in verdict.streams.items():
        row |= {f"{name}_probability": stream.probability, f"{name}_vote": stream.vote}
    corners = verdict.face.box or (None, None, None, None)
    row |= {f"face_{corner}": value for corner, value in zip(("x1", "y1", "x2", "y2"), corners, strict=True)}
    return row | {"face_confidence": verdict.face.confidence, "face_source": verdict.face.source}
