"""Triton step: encoded image to the whole-image streams' pixels and a status. See ensemble/preparation.py."""

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble import status
from ensemble.admission import Admission
from ensemble.faces.detection import Box
from ensemble.faces.localisation import FaceLocation, main_faces
from ensemble.faces.served import choose_attempts, choose_detector, infer_in
from ensemble.images import FRAMINGS, Decoders, Limits, RgbImage
from ensemble.preparation import FramingRule, Prepared, prepare
from ensemble.streams import IMAGE_STREAMS

GOES_ON = {*(stream.pixels_name for stream in IMAGE_STREAMS), "DECODED", "BOX", "IMAGE_STATUS", "PERMIT"}
"""What an ensemble asks for. A request for anything else, all outputs for example, is answered and gone."""

QUICK = 0.005
"""Seconds that `execute` waits for a single image that comes to an idle step: an answer that it returns itself arrives
a millisecond earlier than one that is sent later."""


class TritonPythonModel:
    """One instance of the step; images are prepared side by side.

    A request is admitted or refused as soon as it comes, also while others are being prepared: `execute` only begins
    the work, and each response is sent when it is done.
    """

    def initialize(self, args: dict[str, str]) -> None:
        parameters = {
            key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()
        }
        numbers = {key: int(value) for key, value in parameters.items() if key.startswith("max_")}
        self._limits = Limits(numbers["max_bytes"], numbers["max_pixels"])
        self._rule = _framing_rule(parameters, Path(args["model_repository"]).parent)
        self._max_request_bytes = numbers["max_request_bytes"]
        self._admission = Admission(numbers["max_pending"], numbers["max_pending_bytes"])
        self._decoders = Decoders()
        cv2.setNumThreads(1)  # The pool below is the parallelism.
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._under_way: set[Future[Prepared]] = set()

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._begin(request) for request in requests]

    def finalize(self) -> None:
        self._pool.shutdown()
        self._decoders.close()

    def _begin(self, request: Any) -> Any:
        """Starts the work on a request that is admitted, and gives None; gives the others their refusal at once."""
        images = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()[:, 0]
        size = sum(map(len, images))
        if size > self._max_request_bytes:
            message = (
                f"{len(images)} images of {size} bytes in all are over the limit of {self._max_request_bytes} bytes a "
                "request; send fewer at a time"
            )
            return _refusal(message, pb_utils.TritonError.INVALID_ARG)
        boxes = pb_utils.get_input_tensor_by_name(request, "FACE_BOX")
        supplied = [None] * len(images) if boxes is None else [tuple(box) for box in boxes.as_numpy().tolist()]
        goes_on = set(request.requested_output_names()) == GOES_ON  # Then nobody reads messages.
        permit, refusal = self._admission.admit(len(images), size)
        if refusal is not None:
            return _refusal(refusal, pb_utils.TritonError.UNAVAILABLE)
        idle = not self._under_way
        futures = [
            self._pool.submit(prepare, image, box, self._limits, self._decoders, self._rule)
            for image, box in zip(images, supplied, strict=True)
        ]
        self._pool.submit(self._admission.note, permit, images)
        self._under_way.update(futures)
        for future in futures:
            future.add_done_callback(self._under_way.discard)
        if idle and len(futures) == 1 and wait(futures, QUICK).done:
            return self._answer(futures, permit, goes_on)
        sender = request.get_response_sender()

        def send() -> None:
            answer = self._answer(futures, permit, goes_on)
            sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        _when_all_are_done(futures, send)
        return None

    def _answer(self, futures: Sequence[Future[Prepared]], permit: int, goes_on: bool) -> Any:
        """The response to a request whose images are prepared. Its permit goes on with it, or is given back."""
        try:
            response = _response([future.result() for future in futures], permit if goes_on else None)
        except OSError as error:
            goes_on = False
            message = f"no process to decode images in: {error}; send them again later, or give the server more memory"
            response = _refusal(message, pb_utils.TritonError.UNAVAILABLE)
        except Exception as error:  # noqa: BLE001 - the process boundary: without an answer the request would hang
            goes_on = False
            response = _refusal(f"preprocess: {type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)
        if not goes_on:
            self._admission.release(permit)
        return response


def _framing_rule(parameters: Mapping[str, str], repository: Path) -> FramingRule:
    framing, margin = parameters["framing"], parameters["face_margin"]
    if framing not in FRAMINGS:
        raise ValueError(f"parameter framing of preprocess is {framing!r}; it must be {', '.join(FRAMINGS)}")
    try:
        face_margin = float(margin)
    except ValueError:
        raise ValueError(f"parameter face_margin of preprocess is {margin!r}; it must be a number") from None
    if framing != "face":
        pb_utils.Logger.log_info(f"framing: {framing}")
        return FramingRule(framing, face_margin)
    infer = infer_in(pb_utils)
    detector = choose_detector(parameters["detector"], "preprocess", repository, infer)
    attempts = choose_attempts(parameters["attempts"], "preprocess", repository, infer)

    def find(image: RgbImage, box: Box | None) -> FaceLocation:
        return main_faces([image], [box], detector, attempts)[0]

    pb_utils.Logger.log_info(
        f"framing: face, margin {face_margin:g}; face detector: {detector.name}; "
        f"attempts: {', '.join(attempt.name for attempt in attempts)}"
    )
    return FramingRule("face", face_margin, find)


def _when_all_are_done(futures: list[Future[Prepared]], then: Callable[[], None]) -> None:
    left = itertools.count(len(futures) - 1, -1)

    def one_is_done(_: Future[Prepared]) -> None:
        if next(left) == 0:
            then()
            # Else they and this callback hold each other, and all pixels, until Python collects circles.
            futures.clear()

    for future in list(futures):  # The last callback empties the other one.
        future.add_done_callback(one_is_done)


def _refusal(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _response(batch: list[Prepared], permit: int | None) -> Any:
    """The response to an ensemble, whose permit goes on; with messages to any other caller."""
    for prepared in batch:
        if prepared.status != status.OK:
            pb_utils.Logger.log_verbose(f"{prepared.status}: {prepared.message}")
    boxes = np.array([prepared.box or (np.nan,) * 4 for prepared in batch], np.float32)
    statuses = np.array([[prepared.status] for prepared in batch], np.object_)
    outputs = {
        "DECODED": np.array([[prepared.decoded] for prepared in batch], np.object_),
        "BOX": boxes,
        "IMAGE_STATUS": statuses,
        "PERMIT": np.full((len(batch), 1), permit or 0, np.int64),
    }
    if permit is None:
        outputs["MESSAGE"] = np.array([[prepared.message] for prepared in batch], np.object_)
    return pb_utils.InferenceResponse(
        [
            *(
                pb_utils.Tensor(stream.pixels_name, np.stack([prepared.pixels[stream.name] for prepared in batch]))
                for stream in IMAGE_STREAMS
            ),
            *(pb_utils.Tensor(name, values) for name, values in outputs.items()),
        ]
    )
