"""OpenCV's bundled frontal-face cascade: the detector that needs no download. The method's own is RetinaFace."""

import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import cv2.data
import numpy as np

from ensemble.faces.detection import Detection
from ensemble.images import RgbImage

_CASCADE = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
_LONGEST_SIDE = 640  # Bounds the cost of an image.
_SMALLEST_FACE = 0.1  # Of the shorter side. Faces too small to count end the search too, as in the method.


class HaarDetector:
    """Viola-Jones detection on the grey image, several images at a time.

    Confidences are the logistic of the cascade's last stage weight: an order, not a calibrated probability.

    Raises:
        FileNotFoundError: Where the OpenCV build lacks the cascade.
    """

    name = "haar"

    def __init__(self) -> None:
        if not _CASCADE.is_file():
            raise FileNotFoundError(f"{_CASCADE} is missing; install opencv-python-headless from PyPI, which holds it")
        self._of_thread = threading.local()  # OpenCV's classifier must not be shared between threads.
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="haar")

    def detect(self, images: Sequence[RgbImage]) -> list[list[Detection]]:
        """Faces of each image, in pixels of that image."""
        return list(self._pool.map(self._detect, images))

    def _detect(self, image: RgbImage) -> list[Detection]:
        if not hasattr(self._of_thread, "cascade"):
            self._of_thread.cascade = cv2.CascadeClassifier(str(_CASCADE))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        scale = min(1.0, _LONGEST_SIDE / max(grey.shape))
        if scale < 1.0:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        smallest = max(1, int(min(grey.shape) * _SMALLEST_FACE))
        boxes, _, weights = self._of_thread.cascade.detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest), outputRejectLevels=True
        )
        return [
            Detection(
                (float(x / scale), float(y / scale), float((x + w) / scale), float((y + h) / scale)),
                1 / (1 + math.exp(-float(weight))),
            )
            for (x, y, w, h), weight in zip(np.reshape(boxes, (-1, 4)), np.ravel(weights), strict=True)
        ]
