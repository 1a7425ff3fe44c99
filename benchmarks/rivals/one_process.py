"""The same functions called in one process, without a server: what serving is measured against."""

import os
from pathlib import Path

import cv2
import numpy as np

from benchmarks.load.workloads import Item
from benchmarks.rivals.runtime import Runtime, open_session
from ensemble.faces.haar import HaarDetector
from ensemble.faces.localisation import local_pixels, locate_faces
from ensemble.images import Limits, centre, read_image, shrink, square
from ensemble.streams import GLOBAL_TEXTURE, SEMANTIC_FUSION, STREAMS
from ensemble.voting import score_logits

BATCH_SIZE = 8


class OneProcess:
    """Preprocessing, face crop, three sessions and the vote, one batch after the other; every step on all cores.

    Args:
        repository: An exported model repository.
        runtime: That of the server.
    """

    def __init__(self, repository: Path, runtime: Runtime) -> None:
        cv2.setNumThreads(os.cpu_count() or 1)
        self._sessions = [open_session(repository, stream, runtime) for stream in STREAMS]
        self._detector = HaarDetector()

    def score(self, images: list[Item]) -> list[float]:
        """The weighted mean of each image that can be scored."""
        starts = range(0, len(images), BATCH_SIZE)
        return [score for start in starts for score in self._score_batch(images[start : start + BATCH_SIZE])]

    def _score_batch(self, batch: list[Item]) -> list[float]:
        images = [read_image(item.data, Limits()) for item in batch]
        squares = [square(image) for image in images]
        locations = locate_faces(images, [item.box for item in batch], self._detector)
        pixels = (
            [centre(image, GLOBAL_TEXTURE.pixels) for image in squares],
            [local_pixels(image, location) for image, location in zip(images, locations, strict=True)],
            [shrink(image, SEMANTIC_FUSION.pixels) for image in squares],
        )
        logits = [session(np.stack(stack)) for session, stack in zip(self._sessions, pixels, strict=True)]
        return [float(each) for each in score_logits(np.stack(logits, axis=1)).probability]
