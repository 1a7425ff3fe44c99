"""Every face of a picture as an image of its own, cut as the frames are that the method was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.faces.crop import frame_face
from ensemble.faces.detection import Box, FaceDetector
from ensemble.faces.localisation import find_faces
from ensemble.faces.restoration import Attempt
from ensemble.images import RgbImage

SMALLEST_SIDE = 48
"""Longer side of a box, in pixels, below which a face is too small to judge: its square would be enlarged more than
four times to come to 256×256, and then it shows nothing but the enlargement."""


@dataclass(frozen=True)
class FaceFrame:
    """One face as an image of its own.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the picture.
        confidence: The detector's, in [0, 1].
        frame: uint8 [256, 256, 3], RGB: the square around the face, as the method's images show it.
        frame_box: The box in pixels of the frame.
    """

    box: Box
    confidence: float
    frame: RgbImage
    frame_box: Box


@dataclass(frozen=True)
class Faces:
    """The faces of a picture.

    Attributes:
        source: Name of the attempt that found them, or `none`.
        found: How many there are, those that are too small to judge included.
        frames: Those that are large enough, by falling confidence.
    """

    source: str
    found: int
    frames: Sequence[FaceFrame]


def every_face(
    images: Sequence[RgbImage], detector: FaceDetector, attempts: Sequence[Sequence[Attempt]]
) -> list[Faces]:
    """Finds and cuts every face that is large enough to judge; arguments as `find_faces`."""
    results = []
    for image, (source, faces) in zip(images, find_faces(images, detector, attempts), strict=True):
        ranked = sorted(faces, key=lambda face: -face.confidence)
        large = [face for face in ranked if longer_side(face.box) >= SMALLEST_SIDE]
        frames = [_cut(image, face.box, face.confidence) for face in large]
        results.append(Faces(source, len(faces), frames))
    return results


def longer_side(box: Box) -> float:
    """Of a box, in pixels."""
    return max(box[2] - box[0], box[3] - box[1])


def _cut(image: RgbImage, box: Box, confidence: float) -> FaceFrame:
    frame, frame_box = frame_face(image, box)
    return FaceFrame(box, confidence, frame, frame_box)
