"""The labelled set: crops of the photographs and manipulated crops, split by photograph."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from degradation import SWEEPS
from ensemble.images import SQUARE, RgbImage
from training.data.manifest import COLUMNS
from training.learn.manipulation import Mask, manipulated
from training.learn.photographs import PHOTOGRAPHS, read_photograph, split_of

MANIFEST = "manifest.csv"

LIGHT = {"blur": (0.0, 0.15), "jpeg": (40.0, 100.0), "noise": (0.0, 20.0)}
"""Levels of sweeps that training is given."""


@dataclass(frozen=True)
class Sample:
    """One image of the set.

    Attributes:
        photograph: Key of `PHOTOGRAPHS`.
        label: 0 real, 1 fake.
        image: uint8 [256, 256, 3], RGB.
        mask: Of what was manipulated, float32 [256, 256] in [0, 1]; zeros for a real one.
    """

    photograph: str
    label: int
    image: RgbImage
    mask: Mask


def draw_samples(split: str, pairs: int, seed: int) -> Iterator[Sample]:
    """Pairs of a real crop and a fake made of another crop, photograph by photograph in turn.

    Both classes are drawn the same way; in training, of crops that may have lost sharpness (`_worn`), so that a fake
    is known by what differs within it.

    Args:
        split: train, validation or test.
        pairs: How many.
        seed: Of the draws.
    """
    rng = np.random.default_rng((seed, len(split)))
    names = [name for name in PHOTOGRAPHS if split_of(name) == split]
    pictures = {name: [read_photograph(path) for path in PHOTOGRAPHS[name].files] for name in names}
    for number in range(pairs):
        name = names[number % len(names)]
        for label in (0, 1):
            image = _crop(pictures[name][int(rng.integers(len(pictures[name])))], rng)
            if split == "train":
                image = _worn(image, rng)
            mask = np.zeros(image.shape[:2], np.float32)
            if label:
                image, mask = manipulated(image, rng)
            yield Sample(name, label, image, mask)


def write_samples(folder: Path, samples: Mapping[str, Iterable[Sample]]) -> Path:
    """Writes the set as PNG files, both classes alike, with masks beside the fakes' images and a manifest.

    Args:
        folder: Where to.
        samples: By split.

    Returns:
        The manifest.
    """
    rows = []
    for split, drawn in samples.items():
        for number, sample in enumerate(drawn):
            kind = ("real", "fake")[sample.label]
            path = Path(split) / kind / f"{sample.photograph}_{number:05}.png"
            _write(folder / path, sample.image)
            if sample.label:
                _write(folder / split / "masks" / path.name, np.rint(sample.mask * 255).astype(np.uint8))
            rows.append(
                {"path": str(path), "label": kind, "group": sample.photograph, "video": str(path), "split": split}
            )
    manifest = folder / MANIFEST
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name in COLUMNS if name in rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def lightly_degraded(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Compressed, noisy or blurred like the first levels of the sweeps, in half of the cases, whatever its label.

    Training on it lets the verdict fall with the degradation instead of at its first sign.
    """
    if rng.random() < 0.5:
        return image
    name = sorted(LIGHT)[int(rng.integers(len(LIGHT)))]
    return SWEEPS[name].apply(image, rng.uniform(*LIGHT[name]), int(rng.integers(2**31)))


def _crop(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """A random square of 256 to 512 pixels as far as there are, brought to 256, perhaps mirrored."""
    short = min(image.shape[:2])
    side = int(rng.integers(SQUARE, min(2 * SQUARE, short) + 1))
    return _cut(image, side, rng)


def _cut(image: RgbImage, side: int, rng: np.random.Generator) -> RgbImage:
    height, width = image.shape[:2]
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    part = image[top : top + side, left : left + side]
    if side != SQUARE:
        method = cv2.INTER_AREA if side > SQUARE else cv2.INTER_CUBIC
        part = np.asarray(cv2.resize(part, (SQUARE, SQUARE), interpolation=method), np.uint8)
    return np.ascontiguousarray(part[:, ::-1] if rng.random() < 0.5 else part)


def _worn(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Less sharp, noisier or recompressed as a whole, in six of ten: no sign of a fake."""
    choice = rng.random()
    if choice < 0.3:
        image = _cut(image, int(rng.integers(150, SQUARE)), rng)
    elif choice < 0.45:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9)), np.uint8)
    elif choice < 0.6:
        noise = rng.standard_normal(image.shape) * rng.uniform(1, 6)
        image = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 98))])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image


def _write(path: Path, image: RgbImage) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Fast compression: the files are read many times and kept for minutes.
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
