"""Triton step: the pixels of the streams that see the face, and which face they show. See ensemble/faces/rows.py."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from ensemble.faces import gfpgan, retinaface
from ensemble.faces.detection import Box, Detection, FaceDetector
from ensemble.faces.haar import HaarDetector
from ensemble.faces.localisation import FaceLocation, locate_faces
from ensemble.faces.restoration import ATTEMPTS, Attempt, with_face_restoration
from ensemble.faces.rows import LocalFace, Row, localise
from ensemble.images import Decoders, Limits, RgbImage
from ensemble.streams import FACE_STREAMS

FACE_DETECTOR, FACE_ALIGNER, FACE_RESTORER = "face_detector", "face_aligner", "face_restorer"


class TritonPythonModel:
    """One instance of the step."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        repository = Path(args["model_repository"]).parent
        self._limits = Limits(**{key: int(parameters[key]["string_value"]) for key in ("max_bytes", "max_pixels")})
        self._decoders = Decoders()
        self._detector = _detector(parameters["detector"]["string_value"], repository)
        self._attempts = _attempts(parameters["attempts"]["string_value"], repository)
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


class TritonRetinaFace:
    """RetinaFace as the model `face_detector` of the same server; images of one size go together."""

    name = "retinaface"

    def detect(self, images: Sequence[RgbImage]) -> list[list[Detection]]:
        prepared = [retinaface.prepare(image) for image in images]
        found: list[list[Detection]] = [[] for _ in images]
        for indices in _chunks([pixels.shape for pixels, _ in prepared], retinaface.MAX_BATCH_SIZE):
            pixels = np.stack([prepared[index][0] for index in indices])
            outputs = _infer(FACE_DETECTOR, retinaface.INPUT, retinaface.OUTPUTS, pixels)
            if not outputs:
                continue
            for index, *maps in zip(indices, *outputs, strict=True):
                scaled, scale = prepared[index]
                found[index] = retinaface.decode(maps, scaled.shape[:2], scale).detections()
        return found


def _restore_faces(image: RgbImage) -> RgbImage:
    """GFPGAN as the models `face_aligner` and `face_restorer` of the same server."""
    return gfpgan.restore_faces(
        image,
        partial(_infer, FACE_ALIGNER, gfpgan.ALIGNER_INPUT, gfpgan.ALIGNER_OUTPUTS),
        partial(_infer, FACE_RESTORER, gfpgan.RESTORER_INPUT, gfpgan.RESTORER_OUTPUTS),
    )


def _infer(model: str, input_name: str, output_names: Sequence[str], pixels: RgbImage) -> list[npt.NDArray[Any]]:
    """A network's outputs for a batch. Empty where it failed: then these images count as without a face.

    An error must not leave this step, which runs beside others: the request would never be answered.
    """
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=list(output_names),
        inputs=[pb_utils.Tensor(input_name, np.ascontiguousarray(pixels))],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
    )
    response = request.exec()
    if response.has_error():
        pb_utils.Logger.log_error(f"{model} failed, no face is assumed: {response.error().message()}")
        return []
    return [pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in output_names]


def _detector(setting: str, repository: Path) -> FaceDetector:
    if setting == "auto":
        setting = TritonRetinaFace.name if (repository / FACE_DETECTOR).is_dir() else HaarDetector.name
    detectors: dict[str, type[FaceDetector]] = {
        TritonRetinaFace.name: TritonRetinaFace,
        HaarDetector.name: HaarDetector,
    }
    if setting not in detectors:
        raise ValueError(f"parameter detector of face_crop is {setting!r}; it must be auto, {' or '.join(detectors)}")
    if setting == TritonRetinaFace.name and not (repository / FACE_DETECTOR).is_dir():
        raise ValueError(
            f"parameter detector of face_crop is {setting!r}, and {repository / FACE_DETECTOR} is missing; "
            "put retinaface.h5 into the weights folder and export again, or set the parameter to auto"
        )
    return detectors[setting]()


def _attempts(setting: str, repository: Path) -> Sequence[Attempt]:
    restores = (repository / FACE_ALIGNER).is_dir() and (repository / FACE_RESTORER).is_dir()
    attempts = with_face_restoration(_restore_faces) if restores else ATTEMPTS
    if setting == "all":
        return attempts
    if not (setting.isdecimal() and 1 <= int(setting) <= len(attempts)):
        raise ValueError(f"parameter attempts of face_crop is {setting!r}; it must be all, or 1 to {len(attempts)}")
    return attempts[: int(setting)]


def _chunks(shapes: Sequence[tuple[int, ...]], size: int) -> Iterator[list[int]]:
    """Indices of equal shapes, at most `size` together."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(index)
    for indices in by_shape.values():
        yield from (indices[start : start + size] for start in range(0, len(indices), size))


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
