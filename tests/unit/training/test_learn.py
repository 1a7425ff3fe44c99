"""The stand-in set, and what the repository keeps of it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from networks import write_random_weights
from networks.weights.stand_in import write_marker
from training.errors import RunError
from training.learn.keep import keep
from training.learn.photographs import TEST
from training.learn.samples import lightly_degraded


def test_half_of_the_images_are_lightly_degraded() -> None:
    image = np.random.default_rng(0).integers(0, 256, (126, 126, 3)).astype(np.uint8)
    rng = np.random.default_rng(1)
    made = [lightly_degraded(image, rng) for _ in range(200)]
    assert {(each.shape, each.dtype) for each in made} == {(image.shape, image.dtype)}
    assert 70 < sum(np.array_equal(each, image) for each in made) < 140
    again = np.random.default_rng(1)
    assert all(np.array_equal(each, lightly_degraded(image, again)) for each in made)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like what `make_stand_ins` leaves: weights, and three test images of each photograph and kind."""
    folder = tmp_path_factory.mktemp("made")
    write_random_weights(folder / "weights", "tiny")
    write_marker(folder / "weights", 12, 11)
    for kind in ("real", "fake"):
        (folder / "data" / "test" / kind).mkdir(parents=True)
        for name in TEST:
            for number in range(3):
                path = folder / "data" / "test" / kind / f"{name}_{number:05}.png"
                cv2.imwrite(str(path), np.full((4, 4, 3), number, np.uint8))
    return folder


def test_the_first_image_judged_rightly_is_kept(made: Path, tmp_path: Path) -> None:
    right = {
        f"{kind}/{name}_{number:05}.png": number > 0
        for kind in ("real", "fake")
        for name in TEST
        for number in range(3)
    }
    keep(made, tmp_path / "samples", right)
    images = sorted((tmp_path / "samples" / "images").iterdir())
    assert len(images) == 2 * len(TEST)
    assert {int(cv2.imread(str(path))[0, 0, 0]) for path in images} == {1}
    text = (tmp_path / "samples" / "README.md").read_text()
    assert "trained on 12 manipulations of 11 sample photographs, good for nothing else" in text
    assert "Of all 24 crops" in text
    assert "right on 16" in text


def test_nothing_is_replaced_where_a_kind_is_never_right(made: Path, tmp_path: Path) -> None:
    right = {f"{kind}/{name}_00000.png": kind == "real" for kind in ("real", "fake") for name in TEST}
    with pytest.raises(RunError, match="none of the 1 fake images of astronaut"):
        keep(made, tmp_path / "samples", right)
    assert not (tmp_path / "samples").exists()
