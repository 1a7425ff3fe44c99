"""A small labelled set, and the tiny weights to start from."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from networks import write_random_weights
from tests.golden import IMAGES

SMALL = (
    "network.hidden=128",
    "network.blocks=2",
    "network.rank=4",
    "network.alpha=8",
    "network.head=512",
    "optimiser.batch=2",
    "optimiser.accumulation=2",
    "optimiser.epochs=2",
    "optimiser.warmup_updates=1",
    "optimiser.learning_rate=1e-3",
    "run.validations_per_epoch=1",
)


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
