"""Photographs of two people, as they are and manipulated, which the stand-in weights of `samples/` judge.

One person is in photographs that these weights never saw; the other's they were trained on. The manipulation is that of
`training/learn`, over the face.
"""

from typing import Literal

import cv2
import numpy as np

from training.learn.manipulation import manipulated
from training.learn.photographs import PHOTOGRAPHS, read_photograph

Person = Literal["astronaut", "hopper"]

_BOXES: dict[Person, tuple[int, int, int, int]] = {"astronaut": (177, 66, 272, 161), "hopper": (155, 105, 377, 327)}
"""Where the face detector finds the faces."""

_AROUND = 2.2
"""Side of a picture, in sides of its face."""


def picture(person: Person, moment: int = 0, *, fake: bool = False) -> np.ndarray:
    """A person as an unsteady hand films them, uint8 [256, 256, 3], RGB; what is manipulated stays the same."""
    whole = read_photograph(PHOTOGRAPHS[person].files[0])
    x1, y1, x2, y2 = _BOXES[person]
    side = round(_AROUND * (x2 - x1))
    left = (x1 + x2 - side) / 2 + 0.03 * (x2 - x1) * np.sin(moment / 7)
    top = (y1 + y2 - side) / 2 + 0.02 * (x2 - x1) * np.cos(moment / 5)
    left, top = (int(np.clip(at, 0, size - side)) for at, size in ((left, whole.shape[1]), (top, whole.shape[0])))
    method = cv2.INTER_AREA if side > 256 else cv2.INTER_CUBIC
    shown = cv2.resize(whole[top : top + side, left : left + side], (256, 256), interpolation=method)
    return manipulated(shown, np.random.default_rng(3))[0] if fake else shown


def encode(image: np.ndarray) -> bytes:
    """A PNG file of uint8 [height, width, 3], RGB."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
