"""Labelled photographs for tests: crops of the golden images, with labels made up."""

from pathlib import Path

import cv2
import numpy as np

from tests.golden import IMAGES


def write_photographs(folder: Path, count: int) -> Path:
    """Writes `count` JPEG files into `real/` and `fake/` of a folder, in turn; the folder."""
    rng = np.random.default_rng(0)
    for name in ("real", "fake"):
        (folder / name).mkdir(parents=True)
    images = [cv2.imread(str(path)) for path in IMAGES]
    for index in range(count):
        image = images[index % len(images)]
        height, width = image.shape[:2]
        top, left = rng.integers(height // 3), rng.integers(width // 3)
        crop = image[top : top + height * 2 // 3, left : left + width * 2 // 3]
        name = "fake" if (index // len(images)) % 2 else "real"
        cv2.imwrite(str(folder / name / f"{index:03}.jpg"), crop, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))])
    return folder
