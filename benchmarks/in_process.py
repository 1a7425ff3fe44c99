"""The same functions called in one process, without a server: what a user would otherwise write."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ensemble.faces.haar import HaarDetector
from ensemble.faces.localisation import local_pixels, locate_faces
from ensemble.images import Limits, centre, read_image, shrink, square
from ensemble.streams import GLOBAL_TEXTURE, SEMANTIC_FUSION, STREAMS
from ensemble.voting import cast_ballot


class InProcessDetector:
    """Preprocessing, face crop, three ONNX Runtime sessions and the vote, one batch after the other.

    Args:
        repository: An exported model repository.
        threads: Of each session; the sessions run one at a time.
    """

    def __init__(self, repository: Path, threads: int) -> None:
        cv2.setNumThreads(threads)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._sessions = [
            ort.InferenceSession(repository / stream.name / "1" / "model.onnx", options) for stream in STREAMS
        ]
        self._detector = HaarDetector()

    def score(self, files: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """The votes of a batch of images that can be scored, float32 [N]."""
        images = [read_image(data, Limits()) for data in files]
        squares = [square(image) for image in images]
        locations = locate_faces(images, [None] * len(images), self._detector)
        pixels = (
            [centre(image, GLOBAL_TEXTURE.pixels) for image in squares],
            [local_pixels(image, location) for image, location in zip(images, locations, strict=True)],
            [shrink(image, SEMANTIC_FUSION.pixels) for image in squares],
        )
        logits = [
            session.run(["LOGITS"], {"PIXELS": np.stack(batch)})[0]
            for session, batch in zip(self._sessions, pixels, strict=True)
        ]
        return cast_ballot(np.stack(logits, axis=1)).score

    def score_many(self, files: Iterable[bytes], batch_size: int) -> Iterator[float]:
        """The votes of any number of images, in order."""
        iterator = iter(files)
        while batch := list(islice(iterator, batch_size)):
            yield from (round(score, 1) for score in self.score(batch).tolist())
