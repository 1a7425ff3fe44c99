"""RetinaFace whose network runs elsewhere, such as a model of the same server."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.faces import retinaface
from ensemble.faces.detection import Detection
from ensemble.images import RgbImage

Infer = Callable[[RgbImage], Sequence[npt.NDArray[Any]]]
"""From uint8 [batch, height, width, 3] to the outputs `retinaface.OUTPUTS`; empty where the network failed."""


class ServedRetinaFace:
    """RetinaFace around a network that runs elsewhere; images of one size go together.

    Args:
        infer: Runs the network. Where it gives nothing, these images count as without a face.
    """

    name = "retinaface"

    def __init__(self, infer: Infer) -> None:
        self._infer = infer

    def detect(self, images: Sequence[RgbImage]) -> list[list[Detection]]:
        """Faces of each image, in pixels of that image."""
        prepared = [retinaface.prepare(image) for image in images]
        found: list[list[Detection]] = [[] for _ in images]
        for indices in _chunks([pixels.shape for pixels, _ in prepared], retinaface.MAX_BATCH_SIZE):
            outputs = self._infer(np.stack([prepared[index][0] for index in indices]))
            for index, *maps in zip(indices, *outputs, strict=True) if outputs else ():
                scaled, scale = prepared[index]
                found[index] = retinaface.decode(maps, scaled.shape[:2], scale).detections()
        return found


def _chunks(shapes: Sequence[tuple[int, ...]], size: int) -> Iterator[list[int]]:
    """Indices of equal shapes, at most `size` together."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(index)
    for indices in by_shape.values():
        yield from (indices[start : start + size] for start in range(0, len(indices), size))
