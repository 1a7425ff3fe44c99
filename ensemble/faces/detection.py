"""What a face detector is and what it finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ensemble.images import RgbImage

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels, right and down; a box may leave its image."""


@dataclass(frozen=True)
class Detection:
    """A face found.

    Attributes:
        box: In pixels of the image that was searched.
        confidence: In [0, 1].
    """

    box: Box
    confidence: float


class FaceDetector(Protocol):
    """Finds faces in a batch of images of any sizes."""

    name: str

    def detect(self, images: Sequence[RgbImage]) -> list[list[Detection]]:
        """Faces of each image, in the detector's own order; an image's faces do not depend on its neighbours."""
        ...
