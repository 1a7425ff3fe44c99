"""The face frame of a picture: the method's crop around its main face."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ensemble.faces import retinaface
from ensemble.faces.crop import crop_face
from ensemble.faces.detection import Detection, FaceDetector
from ensemble.faces.haar import HaarDetector
from ensemble.faces.selection import main_face
from ensemble.images import RgbImage
from networks.errors import WeightsError
from networks.faces.retinaface_weights import load_retinaface
from networks.weights.manifest import sha256_of
from training.errors import DataError


class TorchRetinaFace:
    """RetinaFace in this process."""

    name = "retinaface"

    def __init__(self, weights: Path) -> None:
        try:
            self._network = load_retinaface(weights).eval()
        except WeightsError as error:
            raise DataError(str(error)) from error

    def detect(self, images: Sequence[RgbImage]) -> list[list[Detection]]:
        """The faces of each image, uint8 [height, width, 3], RGB."""
        return [self._detect(image) for image in images]

    def _detect(self, image: RgbImage) -> list[Detection]:
        scaled, scale = retinaface.prepare(image)
        with torch.inference_mode():
            outputs = self._network(torch.from_numpy(np.ascontiguousarray(scaled))[None])
        maps = [np.asarray(output[0].numpy(), np.float32) for output in outputs]
        return retinaface.decode(maps, (scaled.shape[0], scaled.shape[1]), scale).detections()


def make_detector(weights: Path | None) -> FaceDetector:
    """RetinaFace on its published weights; OpenCV's cascade without any."""
    return HaarDetector() if weights is None else TorchRetinaFace(weights)


def describe_detector(weights: Path | None) -> str:
    """What tells one detector from another.

    Raises:
        DataError: There is no such file.
    """
    if weights is None:
        return HaarDetector.name
    try:
        return f"{TorchRetinaFace.name} {sha256_of(weights)}"
    except OSError as error:
        raise DataError(f"{weights}: cannot be read: {error}; give retinaface.h5, or leave --retinaface out") from error


def face_frame(image: RgbImage, detector: FaceDetector) -> RgbImage | None:
    """The 256×256 square around the main face, of whatever size it is; None without a face."""
    height, width = image.shape[:2]
    face = main_face(detector.detect([image])[0], height, width)
    return None if face is None else crop_face(image, face.box)
