"""Triton model: every face of an image, cut out for the ensemble to score. See ensemble/faces/every.py."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from ensemble import status
from ensemble.admission import RequestExecutor, StepAdmission
from ensemble.contract import FACE_NONE
from ensemble.faces.every import FaceFrame, Faces, every_face
from ensemble.faces.restoration import ATTEMPTS
from ensemble.faces.served import choose_detector, infer_in
from ensemble.images import ImageError, Limits, read_image

NOBODY = Faces(FACE_NONE, 0, [])
FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class TritonPythonModel:
    """The only instance; images are searched one after the other, so that one decoded image is in memory at a time.

    Requests are admitted or refused as they come, by the first step's limits.
    """

    def initialize(self, args: dict[str, str]) -> None:
        parameters = {
            name: each["string_value"] for name, each in json.loads(args["model_config"])["parameters"].items()
        }
        self._limits = Limits(int(parameters["max_bytes"]), int(parameters["max_pixels"]))
        attempts = parameters["attempts"]
        if attempts != "all" and not (attempts.isdecimal() and 1 <= int(attempts) <= len(ATTEMPTS)):
            raise ValueError(
                f"parameter attempts of face_finder is {attempts!r}; it must be all, or 1 to {len(ATTEMPTS)}"
            )
        self._attempts = len(ATTEMPTS) if attempts == "all" else int(attempts)
        repository = Path(args["model_repository"]).parent
        self._detector = choose_detector(parameters["detector"], "face_finder", repository, infer_in(pb_utils))
        self._executor = RequestExecutor("face_finder", StepAdmission(), 1, pb_utils)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._begin(request) for request in requests]

    def finalize(self) -> None:
        self._executor.close()

    def _begin(self, request: Any) -> Any:
        """Queues an admitted request, and gives None; gives the others their refusal at once."""
        images = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()[:, 0]
        return self._executor.admit(
            request, len(images), sum(map(len, images)), lambda _: self._search(request, images)
        )

    def _search(self, request: Any, images: npt.NDArray[np.object_]) -> Any:
        wanted = pb_utils.get_input_tensor_by_name(request, "ATTEMPTS")
        attempts = [0] * len(images) if wanted is None else wanted.as_numpy()[:, 0].tolist()
        return _response([self._find(*each) for each in zip(images, attempts, strict=True)])

    def _find(self, data: bytes, attempts: int) -> tuple[str, Faces]:
        try:
            image = read_image(data, self._limits)
        except ImageError as error:
            return error.status, NOBODY
        most = min(attempts, self._attempts) if attempts > 0 else self._attempts
        return status.OK, every_face([image], self._detector, [ATTEMPTS[:most]])[0]


def _response(results: Sequence[tuple[str, Faces]]) -> Any:
    most = max(1, *(len(faces.frames) for _, faces in results))  # a tensor without elements is none to some clients
    shape = (len(results), most)
    boxes, frame_boxes = (np.full((*shape, 4), np.nan, np.float32) for _ in range(2))
    confidences = np.full(shape, np.nan, np.float32)
    frames = np.full(shape, b"", np.object_)
    for row, (_, faces) in enumerate(results):
        for column, face in enumerate(faces.frames):
            boxes[row, column], frame_boxes[row, column] = face.box, face.frame_box
            confidences[row, column] = face.confidence
            frames[row, column] = _png(face)
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("FACES", boxes),
            pb_utils.Tensor("CONFIDENCES", confidences),
            pb_utils.Tensor("FRAMES", frames),
            pb_utils.Tensor("FRAME_BOXES", frame_boxes),
            pb_utils.Tensor("FOUND", np.array([[faces.found] for _, faces in results], np.int32)),
            pb_utils.Tensor("FACE_SOURCE", np.array([[faces.source] for _, faces in results], np.object_)),
            pb_utils.Tensor("STATUS", np.array([[state] for state, _ in results], np.object_)),
        ]
    )


def _png(face: FaceFrame) -> bytes:
    encoded, data = cv2.imencode(".png", cv2.cvtColor(face.frame, cv2.COLOR_RGB2BGR), FAST)
    assert encoded
    return data.tobytes()
