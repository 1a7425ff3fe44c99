"""The whole method, from top to bottom, as one plain function (paper section 3).

The served ensemble computes the same in steps of its own (`model_repository/`), and is tested against this. Here
nothing is admitted, refused or batched: what an image may cost and what becomes of a bad one are the steps' affair.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.faces.crop import MARGIN
from ensemble.faces.detection import Box, FaceDetector
from ensemble.faces.localisation import FaceLocation, cut_to_face, face_square, main_faces, unless_too_small
from ensemble.faces.restoration import ATTEMPTS, Attempt
from ensemble.images import ImageFraming, RgbImage, frame, frame_whole
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
    framing: ImageFraming = "square",
    face_margin: float = MARGIN,
    vote: Vote = score_logits,
) -> Scored:
    """Score images.

    Args:
        images: N ≥ 1 decoded images, uint8 [height, width, 3], RGB, each of its own size.
        networks: By name of the stream.
        detector: Finds the faces.
        boxes: N faces, x1, y1, x2, y2 in pixels of the image, where they are known already; None to find them.
        attempts: Versions of an image to search for a face, in order.
        framing: What the streams look at of an image that is not 256×256.
        face_margin: Of the framing `face`: side of the square around the face, in longer sides of its box.
        vote: How logits become a score.
    """
    # The main face of each image, if it has one. The framing `face` cuts the image to it first.
    found = main_faces(images, boxes or [None] * len(images), detector, attempts)
    if framing == "face":
        framed = [cut_to_face(image, face, face_margin) for image, face in zip(images, found, strict=True)]
    else:
        framed = [*zip(images, found, strict=True)]

    # A face that is too small counts as none. Each stream takes its part of the whole image, or of the face.
    used = [unless_too_small(face, image) for image, face in framed]
    native = framing == "native"
    wholes = [frame_whole(image, native) for image, _ in framed]
    crops = [face_square(image, face, native) for (image, _), face in zip(framed, used, strict=True)]
    pixels = {
        stream.name: np.stack([frame(each, stream) for each in (crops if stream.sees_face else wholes)])
        for stream in STREAMS
    }

    # The face as it lies in the image that was given, not in what the framing made of it.
    faces = [face if face.box is None else main for face, main in zip(used, found, strict=True)]
    return Scored(judge(pixels, networks, vote), faces, pixels)


def judge(
    pixels: Mapping[str, npt.NDArray[np.uint8]], networks: Mapping[str, Network], vote: Vote = score_logits
) -> EnsembleScore:
    """The second half of `score`: real or fake by each stream alone, then the vote.

    Args:
        pixels: By stream, uint8 [N, S, S, 3], RGB.
        networks: By name of the stream.
        vote: How logits become a score: each stream's probability with one decimal, their weighted mean, one decimal.
    """
    return vote(np.stack([networks[stream.name](pixels[stream.name]) for stream in STREAMS], axis=1))
