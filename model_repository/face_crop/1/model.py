"""Triton step: the Localized Facial stream's pixels and the face they show. See ensemble/faces/localisation.py."""

from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble import status
from ensemble.faces.haar import HaarDetector
from ensemble.faces.localisation import NONE, FaceLocation, local_pixels, locate_faces
from ensemble.images import decode
from ensemble.streams import LOCAL_FACIAL

BLANK = np.zeros((LOCAL_FACIAL.pixels, LOCAL_FACIAL.pixels, 3), np.uint8)
NOWHERE = FaceLocation(None, None, NONE)


class TritonPythonModel:
    """One instance of the step."""

    def initialize(self, args: dict[str, str]) -> None:
        self._detector = HaarDetector()
        pb_utils.Logger.log_info(f"face detector: {self._detector.name} (OpenCV {cv2.__version__})")

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        images, boxes, statuses = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("IMAGE", "BOX", "IMAGE_STATUS")
        )
        faces = [
            self._face(image, box) if image_status == status.OK.encode() else (BLANK, NOWHERE)
            for image, box, image_status in zip(images[:, 0], boxes, statuses[:, 0], strict=True)
        ]
        pixels = np.stack([pixels for pixels, _ in faces])
        locations = [location for _, location in faces]
        boxes = np.array([location.box or (np.nan,) * 4 for location in locations], np.float32)
        confidences = np.array([[location.confidence] for location in locations], np.float32)  # None becomes NaN.
        sources = np.array([[location.source] for location in locations], np.object_)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(f"{LOCAL_FACIAL.name.upper()}_PIXELS", pixels),
                pb_utils.Tensor("FACE", boxes),
                pb_utils.Tensor("FACE_CONFIDENCE", confidences),
                pb_utils.Tensor("FACE_SOURCE", sources),
            ]
        )

    def _face(self, data: bytes, box: Any) -> tuple[Any, FaceLocation]:
        image = decode(data)
        [location] = locate_faces([image], [None if np.isnan(box).all() else tuple(box.tolist())], self._detector)
        return local_pixels(image, location), location
