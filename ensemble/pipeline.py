"""The whole method, from top to bottom, as one plain function (paper section 3).

The served ensemble computes the same in steps of its own (`model_repository/`), and is tested against this. Here
nothing is admitted, refused or batched: what an image may cost and what becomes of a bad one are the steps' affair.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.faces.detection import Box, FaceDetector
from ensemble.faces.localisation import FaceLocation, face_square, locate_faces
from ensemble.faces.restoration import ATTEMPTS, Attempt
from ensemble.images import RgbImage, frame, square
from ensemble.streams import STREAMS
from ensemble.voting import EnsembleScore, score_logits

Network = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""A stream's network: uint8 [N, S, S, 3], RGB, to logits float32 [N, 2], real and fake."""

Vote = Callable[[npt.NDArray[np.float32]], EnsembleScore]
"""As `score_logits`: logits float32 [N, streams, 2] to scores."""


@dataclass(frozen=True)
class Scored:
    """The verdicts on N images and how they came about.

    Attributes:
        result: The vote.
        faces: N, which face each image was looked at for.
        pixels: By stream, uint8 [N, S, S, 3], what its network was shown.
    """

    result: EnsembleScore
    faces: Sequence[FaceLocation]
    pixels: Mapping[str, npt.NDArray[np.uint8]]


def score(
    images: Sequence[RgbImage],
    networks: Mapping[str, Network],
    detector: FaceDetector,
    *,
    boxes: Sequence[Box | None] | None = None,
    attempts: Sequence[Attempt] = ATTEMPTS,
    vote: Vote = score_logits,
) -> Scored:
    """Score images.

    Args:
        images: N ≥ 1 decoded images, uint8 [height, width, 3], RGB, each of its own size.
        networks: By name of the stream.
        detector: Finds the faces.
        boxes: N faces, x1, y1, x2, y2 in pixels of the image, where they are known already; None to find them.
        attempts: Versions of an image to search for a face, in order.
        vote: How logits become a score.
    """
    # The main face of each image, if it has one that is large enough.
    faces = locate_faces(images, boxes or [None] * len(images), detector, attempts)

    # Squares of 256 pixels, of the whole image and of the face; each stream takes its part of one of them.
    image_squares = [square(image) for image in images]
    face_squares = [face_square(image, face) for image, face in zip(images, faces, strict=True)]
    pixels = {
        stream.name: np.stack([frame(each, stream) for each in (face_squares if stream.sees_face else image_squares)])
        for stream in STREAMS
    }

    # Real or fake, by each stream alone.
    logits = [networks[stream.name](pixels[stream.name]) for stream in STREAMS]

    # Each stream's probability with one decimal, their weighted mean, one decimal.
    return Scored(vote(np.stack(logits, axis=1)), faces, pixels)
