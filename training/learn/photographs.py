"""The sample photographs that the installed libraries ship, and which of them are kept for the test."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import matplotlib
import numpy as np
import skimage
import sklearn.datasets

from ensemble.images import RgbImage

SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.datasets.__file__).parent / "images"
MATPLOTLIB = Path(matplotlib.__file__).parent / "mpl-data" / "sample_data"


@dataclass(frozen=True)
class Photograph:
    """One subject: the pictures of it are never in two splits.

    Attributes:
        files: Its pictures; two of a stereo pair are one subject.
        credit: Who made it, and its licence.
    """

    files: tuple[Path, ...]
    credit: str


_DOMAIN = "public domain or CC0, from scikit-image"

PHOTOGRAPHS: Mapping[str, Photograph] = MappingProxyType(
    {
        "astronaut": Photograph((SKIMAGE / "astronaut.png",), "NASA, public domain"),
        "brick": Photograph((SKIMAGE / "brick.png",), "CC0Textures, CC0"),
        "camera": Photograph((SKIMAGE / "camera.png",), "Lav Varshney, CC0"),
        "chelsea": Photograph((SKIMAGE / "chelsea.png",), "Stefan van der Walt, CC0"),
        "china": Photograph((SKLEARN / "china.jpg",), "danielbuechele, CC BY 2.0, from scikit-learn"),
        "coffee": Photograph((SKIMAGE / "coffee.png",), "Rachel Michetti, CC0"),
        "coins": Photograph((SKIMAGE / "coins.png",), _DOMAIN),
        "flower": Photograph((SKLEARN / "flower.jpg",), "vultilion, CC BY 2.0, from scikit-learn"),
        "grass": Photograph((SKIMAGE / "grass.png",), "linolafett, CC0"),
        "gravel": Photograph((SKIMAGE / "gravel.png",), "CC0Textures, CC0"),
        "hopper": Photograph((MATPLOTLIB / "grace_hopper.jpg",), "US Navy, public domain, from matplotlib"),
        "hubble": Photograph((SKIMAGE / "hubble_deep_field.jpg",), "NASA, public domain"),
        "ihc": Photograph((SKIMAGE / "ihc.png",), _DOMAIN),
        "moon": Photograph((SKIMAGE / "moon.png",), _DOMAIN),
        "motorcycle": Photograph(
            (SKIMAGE / "motorcycle_left.png", SKIMAGE / "motorcycle_right.png"),
            "Middlebury stereo data set (Scharstein et al. 2014), CC0, from scikit-image",
        ),
        "retina": Photograph((SKIMAGE / "retina.jpg",), "Mikael Häggström, CC0"),
        "rocket": Photograph((SKIMAGE / "rocket.jpg",), "SpaceX, CC0"),
    }
)
"""What ships inside the packages that the project installs anyway, at 256 pixels or more a side."""

TEST = ("astronaut", "china", "coffee", "motorcycle")
"""Kept for the test; nothing else is judged on. They are colour photographs of different kinds: a face, a
building, a still life, a garage."""

VALIDATION = ("flower", "rocket")
"""Which the checkpoints are chosen on."""


def split_of(name: str) -> str:
    """The split of a photograph."""
    return "test" if name in TEST else "validation" if name in VALIDATION else "train"


def read_photograph(path: Path) -> RgbImage:
    """uint8 [height, width, 3], RGB."""
    return np.asarray(cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)
