"""The same functions called in one process, without a server: what serving is measured against."""

import os
from pathlib import Path

import cv2

from benchmarks.baselines.runtime import Runtime, open_session
from benchmarks.load.workloads import Item
from ensemble.faces.haar import HaarDetector
from ensemble.images import Limits, read_image
from ensemble.pipeline import score
from ensemble.streams import STREAMS

BATCH_SIZE = 8


class OneProcess:
    """Preprocessing, face crop, three sessions and the vote, one batch after the other; every step on all cores.

    Args:
        repository: An exported model repository.
        runtime: That of the server.
    """

    def __init__(self, repository: Path, runtime: Runtime) -> None:
        cv2.setNumThreads(os.cpu_count() or 1)
        self._networks = {stream.name: open_session(repository, stream, runtime) for stream in STREAMS}
        self._detector = HaarDetector()

    def score(self, images: list[Item]) -> list[float]:
        """The weighted mean of each image that can be scored."""
        starts = range(0, len(images), BATCH_SIZE)
        return [mean for start in starts for mean in self._score_batch(images[start : start + BATCH_SIZE])]

    def _score_batch(self, batch: list[Item]) -> list[float]:
        images = [read_image(item.data, Limits()) for item in batch]
        scored = score(images, self._networks, self._detector, boxes=[item.box for item in batch])
        return [float(each) for each in scored.result.probability]
