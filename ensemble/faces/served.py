"""Face detection and restoration by networks that run elsewhere, such as models of the same server."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.faces import gfpgan, retinaface
from ensemble.faces.detection import Detection, FaceDetector
from ensemble.faces.haar import HaarDetector
from ensemble.faces.restoration import ATTEMPTS, Attempt, with_face_restoration
from ensemble.images import RgbImage

FACE_DETECTOR, FACE_ALIGNER, FACE_RESTORER = "face_detector", "face_aligner", "face_restorer"
"""The models, which a repository has where the export found their weights."""

Infer = Callable[[str, str, Sequence[str], RgbImage], Sequence[npt.NDArray[Any]]]
"""From a model's name, its input's name, its outputs' names and uint8 [batch, height, width, 3] to these outputs; empty
where the network failed."""


class ServedRetinaFace:
    """RetinaFace around a network that runs elsewhere; images of one size go together.

    Args:
        infer: Runs the network. Where it gives nothing, these images count as without a face.
    """

    name = "retinaface"

    def __init__(self, infer: Infer) -> None:
        self._infer = partial(infer, FACE_DETECTOR, retinaface.INPUT, retinaface.OUTPUTS)

    def detect(self, images: Sequence[RgbImage]) -> list[list[Detection]]:
        """Faces of each image, in pixels of that image."""
        prepared = [retinaface.prepare(image) for image in images]
        found: list[list[Detection]] = [[] for _ in images]
        for indices in _chunks([pixels.shape for pixels, _ in prepared], retinaface.MAX_BATCH_SIZE):
            outputs = self._infer(np.stack([prepared[index][0] for index in indices]))
            for index, *maps in zip(indices, *outputs, strict=True) if outputs else ():
                scaled, scale = prepared[index]
                found[index] = retinaface.decode(maps, scaled.shape[:2], scale).detections()
        return found


def infer_in(backend: Any) -> Infer:
    """How a step runs a model of the server that it is part of.

    A network that fails is logged and gives nothing: these images then count as without a face. An error must not leave
    a step that runs beside others, for its request would never be answered.

    Args:
        backend: The module `triton_python_backend_utils`, which there is only inside the server.
    """

    def infer(model: str, input_name: str, output_names: Sequence[str], pixels: RgbImage) -> list[npt.NDArray[Any]]:
        request = backend.InferenceRequest(
            model_name=model,
            requested_output_names=list(output_names),
            inputs=[backend.Tensor(input_name, np.ascontiguousarray(pixels))],
            preferred_memory=backend.PreferredMemory(backend.TRITONSERVER_MEMORY_CPU),
        )
        response = request.exec()
        if response.has_error():
            backend.Logger.log_error(f"{model} failed, no face is assumed: {response.error().message()}")
            return []
        return [backend.get_output_tensor_by_name(response, name).as_numpy() for name in output_names]

    return infer


def choose_detector(setting: str, step: str, repository: Path, infer: Infer) -> FaceDetector:
    """The detector that a step's parameter `detector` asks for.

    Args:
        setting: The parameter: `auto` (RetinaFace where the repository has it), or a detector's name.
        step: The step's name, for the error.
        repository: The model repository.
        infer: Runs its models.

    Raises:
        ValueError: No such detector, or the repository does not have it.
    """
    served = (repository / FACE_DETECTOR).is_dir()
    if setting == "auto":
        setting = ServedRetinaFace.name if served else HaarDetector.name
    if setting == HaarDetector.name:
        return HaarDetector()
    if setting != ServedRetinaFace.name:
        choices = f"{ServedRetinaFace.name} or {HaarDetector.name}"
        raise ValueError(f"parameter detector of {step} is {setting!r}; it must be auto, {choices}")
    if not served:
        raise ValueError(
            f"parameter detector of {step} is {setting!r}, and {repository / FACE_DETECTOR} is missing; "
            "put retinaface.h5 into the weights folder and export again, or set the parameter to auto"
        )
    return ServedRetinaFace(infer)


def choose_attempts(setting: str, step: str, repository: Path, infer: Infer) -> Sequence[Attempt]:
    """The attempts that a step's parameter `attempts` asks for: `all`, or their number; arguments as above.

    Raises:
        ValueError: There are not so many.
    """
    restores = (repository / FACE_ALIGNER).is_dir() and (repository / FACE_RESTORER).is_dir()
    attempts = with_face_restoration(partial(_restore_faces, infer)) if restores else ATTEMPTS
    if setting == "all":
        return attempts
    if not (setting.isdecimal() and 1 <= int(setting) <= len(attempts)):
        raise ValueError(f"parameter attempts of {step} is {setting!r}; it must be all, or 1 to {len(attempts)}")
    return attempts[: int(setting)]


def _restore_faces(infer: Infer, image: RgbImage) -> RgbImage:
    return gfpgan.restore_faces(
        image,
        partial(infer, FACE_ALIGNER, gfpgan.ALIGNER_INPUT, gfpgan.ALIGNER_OUTPUTS),
        partial(infer, FACE_RESTORER, gfpgan.RESTORER_INPUT, gfpgan.RESTORER_OUTPUTS),
    )


def _chunks(shapes: Sequence[tuple[int, ...]], size: int) -> Iterator[list[int]]:
    """Indices of equal shapes, at most `size` together."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(index)
    for indices in by_shape.values():
        yield from (indices[start : start + size] for start in range(0, len(indices), size))
