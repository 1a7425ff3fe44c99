"""Triton step: encoded image to the whole-image streams' pixels and a status. See ensemble/preparation.py."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble import status
from ensemble.admission import Door
from ensemble.images import Limits
from ensemble.preparation import Prepared, prepare
from ensemble.streams import GLOBAL_TEXTURE, SEMANTIC_FUSION


class TritonPythonModel:
    """One instance of the step; images of a batch are prepared side by side."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._limits = Limits(**{key: int(parameters[key]["string_value"]) for key in ("max_bytes", "max_pixels")})
        self._door = Door(int(parameters["max_pending"]["string_value"]))
        cv2.setNumThreads(1)  # The pool below is the parallelism.
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def execute(self, requests: list[Any]) -> list[Any]:
        batches = [self._submit(request) for request in requests]
        return [batch() for batch in batches]

    def finalize(self) -> None:
        self._door.close()
        self._pool.shutdown()

    def _submit(self, request: Any) -> Callable[[], Any]:
        """Starts the work on a request that is let in; calling the result gives its response."""
        images = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()[:, 0]
        boxes = pb_utils.get_input_tensor_by_name(request, "FACE_BOX")
        supplied = [None] * len(images) if boxes is None else [tuple(box) for box in boxes.as_numpy().tolist()]
        ticket = self._door.admit(len(images))
        if ticket is None:
            error = pb_utils.TritonError(self._door.refusal(len(images)), pb_utils.TritonError.UNAVAILABLE)
            return lambda: pb_utils.InferenceResponse(error=error)
        futures = [
            self._pool.submit(prepare, image, box, self._limits) for image, box in zip(images, supplied, strict=True)
        ]
        return lambda: _response([future.result() for future in futures], ticket)


def _response(batch: list[Prepared], ticket: int) -> Any:
    for prepared in batch:
        if prepared.status != status.OK:
            pb_utils.Logger.log_verbose(f"{prepared.status}: {prepared.message}")
    boxes = np.array([prepared.box or (np.nan,) * 4 for prepared in batch], np.float32)
    statuses = np.array([[prepared.status] for prepared in batch], np.object_)
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor(f"{GLOBAL_TEXTURE.name.upper()}_PIXELS", np.stack([p.global_pixels for p in batch])),
            pb_utils.Tensor(f"{SEMANTIC_FUSION.name.upper()}_PIXELS", np.stack([p.semantic_pixels for p in batch])),
            pb_utils.Tensor("BOX", boxes),
            pb_utils.Tensor("IMAGE_STATUS", statuses),
            pb_utils.Tensor("TICKET", np.full((len(batch), 1), ticket, np.int64)),
        ]
    )
