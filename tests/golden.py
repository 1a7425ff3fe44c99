"""The golden data: inputs with the outputs that the authors' code gives for them (see golden/README.md)."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ensemble.images import RgbImage

ROOT = Path(__file__).parent.parent
"""The repository."""

GOLDEN = ROOT / "tests" / "golden"
CASES = ROOT.parent / "shared" / "cases"
"""Reported files; they are no part of the project."""
IMAGES = sorted((GOLDEN / "images").glob("*.png"))
BOXES: dict[str, tuple[float, float, float, float]] = {
    name: tuple(box) for name, box in json.loads((GOLDEN / "images" / "boxes.json").read_text()).items()
}
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "tiny" / "expected.json").read_text())
ROWS: list[dict[str, Any]] = EXPECTED["rows"]


def read_rgb(path: Path) -> RgbImage:
    """An image file as the authors' code reads it, RGB."""
    return np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8)
