"""The networks alone, on pixels that are ready: no decoding, no faces, no vote. Nothing that serves can be faster."""

from pathlib import Path

import numpy as np

from benchmarks.baselines.runtime import Runtime, open_session, run_batches
from benchmarks.load.workloads import Item
from ensemble.streams import STREAMS

BATCH_SIZE = 8


class Backbones:
    """The three sessions, one after the other, in batches.

    Args:
        repository: An exported model repository.
        runtime: That of the server.
    """

    def __init__(self, repository: Path, runtime: Runtime) -> None:
        self._sessions = [(open_session(repository, stream, runtime), stream) for stream in STREAMS]
        rng = np.random.default_rng(0)
        self._pixels = {stream: rng.integers(0, 256, (stream.pixels, stream.pixels, 3), np.uint8) for stream in STREAMS}

    def score(self, images: list[Item]) -> list[float]:
        """Run as many images as are given, whatever they show; no scores."""
        for session, stream in self._sessions:
            run_batches(session, [self._pixels[stream]] * len(images), BATCH_SIZE)
        return []
