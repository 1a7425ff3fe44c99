"""A small labelled set, the tiny weights to start from, and a run that nothing disturbed."""

import csv
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from networks import write_random_weights
from tests.golden import IMAGES
from tests.unit.training.fits import options, run
from training import metrics


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and four validation images, real and fake in turn; every picture once."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(16):
        noise = cv2.resize(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8), (256, 256), interpolation=cv2.INTER_CUBIC)
        image = cv2.addWeighted(cv2.imread(str(IMAGES[number % 8])), 0.5, noise, 0.5, 0)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        label = ("real", "fake")[number % 2]
        rows.append(
            {
                "path": f"{number}.png",
                "label": label,
                "dataset": "noise" if number % 4 < 2 else "more",
                "group": f"person {number}",
                "split": "train" if number < 12 else "validation",
            }
        )
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """The card's intervals would take most of the time of a run this small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def straight(few_resamples: None, data: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed: two epochs of six micro-batches, three updates each."""
    folder = tmp_path_factory.mktemp("straight")
    assert run(options(data, tiny, folder)) == "finished"
    return folder
