"""Triton step: the pixels of the streams that see the face, and which face they show. See ensemble/faces/rows.py."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.admission import RequestExecutor, StepAdmission
from ensemble.faces.detection import Box, FaceDetector
from ensemble.faces.localisation import FaceLocation, locate_faces
from ensemble.faces.rows import LocalFace, Row, localise
from ensemble.faces.served import choose_attempts, choose_detector, infer_in
from ensemble.images import Decoders, Limits, RgbImage
from ensemble.streams import FACE_STREAMS


@dataclass(frozen=True, eq=False)
class Call:
    """A request as it came."""

    request: Any
    permit: int
    rows: list[Row]

    @property
    def encoded(self) -> int:
        """Bytes of its encoded images."""
        return sum(len(row.data) for row in self.rows)

    @property
    def size(self) -> int:
        """Bytes that its images take, encoded and decoded."""
        return self.encoded + sum(len(row.decoded) for row in self.rows)


class TritonPythonModel:
    """One instance of the step.

    What the first step has admitted is answered at once. Whoever calls this step past the first one is admitted here,
    or refused, and waits in a queue of its own.
    """

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        repository = Path(args["model_repository"]).parent
        self._limits = Limits(**{key: int(parameters[key]["string_value"]) for key in ("max_bytes", "max_pixels")})
        self._decoders = Decoders()
        self._admission = StepAdmission()
        self._direct = RequestExecutor("face_crop", self._admission, 1, pb_utils)
        infer = infer_in(pb_utils)
        setting = parameters["detector"]["string_value"]
        # One for each queue: a detector takes one batch after the other.
        self._detector, self._direct_detector = (
            choose_detector(setting, "face_crop", repository, infer) for _ in range(2)
        )
        self._attempts = choose_attempts(parameters["attempts"]["string_value"], "face_crop", repository, infer)
        pb_utils.Logger.log_info(
            f"face detector: {self._detector.name}; attempts: {', '.join(attempt.name for attempt in self._attempts)}"
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        calls = [_call(request) for request in requests]
        admitted = [call for call in calls if self._admission.enter(call.permit, len(call.rows), call.encoded)]
        answers = iter(self._answer(admitted, self._detector))
        return [next(answers) if call in admitted else self._let_in(call) for call in calls]

    def finalize(self) -> None:
        self._direct.close()
        self._decoders.close()

    def _answer(self, calls: Sequence[Call], detector: FaceDetector) -> list[Any]:
        def locate(images: Sequence[RgbImage], supplied: Sequence[Box | None]) -> list[FaceLocation]:
            return locate_faces(images, supplied, detector, self._attempts)

        faces = localise([row for call in calls for row in call.rows], self._limits, self._decoders, locate)
        for face in faces:
            if face.message:
                pb_utils.Logger.log_verbose(f"{face.status}: {face.message}")
        ends = np.cumsum([len(call.rows) for call in calls]).tolist()
        return [_response(faces[end - len(call.rows) : end]) for call, end in zip(calls, ends, strict=True)]

    def _let_in(self, call: Call) -> Any:
        def answer(_permit: int) -> Any:
            return self._answer([call], self._direct_detector)[0]

        return self._direct.admit(call.request, len(call.rows), call.size, answer)


def _call(request: Any) -> Call:
    columns = [
        pb_utils.get_input_tensor_by_name(request, name).as_numpy()
        for name in ("IMAGE", "DECODED", "BOX", "IMAGE_STATUS")
    ]
    rows = [
        Row(
            image[0],
            decoded[0],
            None if np.isnan(box).all() else tuple(box.tolist()),
            found[0].decode(errors="replace"),
        )
        for image, decoded, box, found in zip(*columns, strict=True)
    ]
    permits = pb_utils.get_input_tensor_by_name(request, "PERMIT")
    return Call(request, 0 if permits is None else int(permits.as_numpy()[0, 0]), rows)


def _response(faces: Sequence[LocalFace]) -> Any:
    locations = [face.location for face in faces]
    boxes = np.array([location.box or (np.nan,) * 4 for location in locations], np.float32)
    confidences = np.array([[location.confidence] for location in locations], np.float32)  # None becomes NaN.
    sources = np.array([[location.source] for location in locations], np.object_)
    return pb_utils.InferenceResponse(
        [
            *(
                pb_utils.Tensor(stream.pixels_name, np.stack([face.pixels[stream.name] for face in faces]))
                for stream in FACE_STREAMS
            ),
            pb_utils.Tensor("FACE", boxes),
            pb_utils.Tensor("FACE_CONFIDENCE", confidences),
            pb_utils.Tensor("FACE_SOURCE", sources),
            pb_utils.Tensor("STATUS", np.array([[face.status] for face in faces], np.object_)),
        ]
    )
