"""Triton step: the pixels of the streams that see the face, and which face they show. See ensemble/faces/rows.py."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.faces.detection import Box
from ensemble.faces.localisation import FaceLocation, locate_faces
from ensemble.faces.rows import LocalFace, Row, localise
from ensemble.faces.served import choose_attempts, choose_detector, infer_in
from ensemble.images import Decoders, Limits, RgbImage
from ensemble.streams import FACE_STREAMS


class TritonPythonModel:
    """One instance of the step."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        repository = Path(args["model_repository"]).parent
        self._limits = Limits(**{key: int(parameters[key]["string_value"]) for key in ("max_bytes", "max_pixels")})
        self._decoders = Decoders()
        infer = infer_in(pb_utils)
        self._detector = choose_detector(parameters["detector"]["string_value"], "face_crop", repository, infer)
        self._attempts = choose_attempts(parameters["attempts"]["string_value"], "face_crop", repository, infer)
        pb_utils.Logger.log_info(
            f"face detector: {self._detector.name}; attempts: {', '.join(attempt.name for attempt in self._attempts)}"
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        batches = [_rows(request) for request in requests]
        faces = localise([row for batch in batches for row in batch], self._limits, self._decoders, self._locate)
        for face in faces:
            if face.message:
                pb_utils.Logger.log_verbose(f"{face.status}: {face.message}")
        ends = np.cumsum([len(batch) for batch in batches]).tolist()
        return [_response(faces[end - len(batch) : end]) for batch, end in zip(batches, ends, strict=True)]

    def finalize(self) -> None:
        self._decoders.close()

    def _locate(self, images: Sequence[RgbImage], supplied: Sequence[Box | None]) -> list[FaceLocation]:
        return locate_faces(images, supplied, self._detector, self._attempts)


def _rows(request: Any) -> list[Row]:
    columns = [
        pb_utils.get_input_tensor_by_name(request, name).as_numpy()
        for name in ("IMAGE", "DECODED", "BOX", "IMAGE_STATUS")
    ]
    return [
        Row(
            image[0],
            decoded[0],
            None if np.isnan(box).all() else tuple(box.tolist()),
            found[0].decode(errors="replace"),
        )
        for image, decoded, box, found in zip(*columns, strict=True)
    ]


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
