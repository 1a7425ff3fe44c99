"""Triton step: the verdict as soon as it is certain, by as few streams as that takes. See ensemble/decision.py."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ensemble import status
from ensemble.admission import RequestExecutor, StepAdmission
from ensemble.calibration import PAPER_VOTE, Vote
from ensemble.calibration_file import ECHO_PARAMETER, FILE_PARAMETER, read_in_force
from ensemble.contract import FACE_NONE, FACE_NOT_NEEDED, VOTER_MODEL
from ensemble.decision import Evidence, require_rising
from ensemble.streams import FACE_STREAMS, STREAMS, Stream

FACE_CROP = "face_crop"
STEP = 2
"""Of `StepAdmission`: another one than that of `face_crop`, which is called with the same permit."""
UNDER_WAY = 64
"""Requests that wait for late streams at once; these batch what comes from all of them."""


class LateStepError(Exception):
    """A step that this one called gave no answer."""


class TritonPythonModel:
    """One instance of the step. Each request waits for its late streams in a thread of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        self._admission = StepAdmission(STEP)
        self._vote = _vote_in_force(Path(args["model_repository"]).parent / VOTER_MODEL, args["model_version"])
        require_rising(self._vote)
        names = json.loads(args["model_config"])["parameters"]["late"]["string_value"].split(",")
        self._late = sorted(
            (stream for stream in STREAMS if stream.name in names), key=lambda each: names.index(each.name)
        )
        self._early = [stream for stream in STREAMS if stream not in self._late]
        self._executor = RequestExecutor("decision", self._admission, UNDER_WAY, pb_utils)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._begin(request) for request in requests]

    def finalize(self) -> None:
        self._executor.close()

    def _begin(self, request: Any) -> Any:
        """Starts the work on a request, and gives None; whoever calls this step past the first one may be refused."""
        images = [row[0] for row in pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()]
        permits = pb_utils.get_input_tensor_by_name(request, "PERMIT")
        permit, size = 0 if permits is None else int(permits.as_numpy()[0, 0]), sum(map(len, images))
        answer = partial(self._answer, request)
        if not self._admission.enter(permit, len(images), size):
            return self._executor.admit(request, len(images), size, answer)
        self._executor.answer(request, permit, answer)
        return None

    def _answer(self, request: Any, permit: int) -> Any:
        try:
            return self._decide(request, permit)
        except LateStepError as error:
            return self._executor.error(f"{error}; send the images again", pb_utils.TritonError.UNAVAILABLE)

    def _decide(self, request: Any, permit: int) -> Any:
        statuses = [
            row[0].decode(errors="replace")
            for row in pb_utils.get_input_tensor_by_name(request, "IMAGE_STATUS").as_numpy()
        ]
        supplied = pb_utils.get_input_tensor_by_name(request, "THRESHOLD")
        thresholds = np.full(len(statuses), np.nan, np.float32) if supplied is None else supplied.as_numpy()[:, 0]
        evidence = Evidence.none(statuses, thresholds, self._vote)
        for stream in self._early:
            logits = pb_utils.get_input_tensor_by_name(request, stream.logits_name).as_numpy()
            evidence.add(STREAMS.index(stream), range(len(statuses)), logits)
        faces = _Faces(request, permit, evidence)
        for stream in self._late:
            if undecided := evidence.undecided:
                known = pb_utils.get_input_tensor_by_name(request, stream.pixels_name)
                pixels = faces.find(undecided, stream) if known is None else known.as_numpy()[undecided]
                (logits,) = _infer(stream.name, [pb_utils.Tensor("PIXELS", pixels)], ["LOGITS"])
                evidence.add(STREAMS.index(stream), undecided, logits)
        return _response(evidence, faces)


class _Faces:
    """The faces of a request's images, as far as they were needed; all of them where an early stream has seen them."""

    def __init__(self, request: Any, permit: int, evidence: Evidence) -> None:
        self._request = request
        self._permit = permit
        self._evidence = evidence
        self._pixels: dict[int, dict[Stream, npt.NDArray[np.uint8]]] = {}
        found = [
            pb_utils.get_input_tensor_by_name(request, name) for name in ("FACE", "FACE_CONFIDENCE", "FACE_SOURCE")
        ]
        if None not in found:
            self.boxes, self.confidences, self.sources = (tensor.as_numpy() for tensor in found)
            return
        needed = [each == status.OK for each in evidence.statuses]
        self.boxes = np.full((len(needed), 4), np.nan, np.float32)
        self.confidences = np.full((len(needed), 1), np.nan, np.float32)
        self.sources = np.array([[FACE_NOT_NEEDED if ok else FACE_NONE] for ok in needed], np.object_)

    def find(self, images: Sequence[int], stream: Stream) -> npt.NDArray[np.uint8]:
        """A stream's pixels of some images: uint8 [N, side, side, 3]. Each face is searched once, for all streams."""
        if missing := [index for index in images if index not in self._pixels]:
            self._search(missing)
        return np.stack([self._pixels[index][stream] for index in images])

    def _search(self, images: list[int]) -> None:
        inputs = [
            pb_utils.Tensor(
                name, np.ascontiguousarray(pb_utils.get_input_tensor_by_name(self._request, name).as_numpy()[images])
            )
            for name in ("IMAGE", "DECODED", "BOX", "IMAGE_STATUS")
        ]
        inputs.append(pb_utils.Tensor("PERMIT", np.full((len(images), 1), self._permit, np.int64)))
        names = ["FACE", "FACE_CONFIDENCE", "FACE_SOURCE", "STATUS", *(stream.pixels_name for stream in FACE_STREAMS)]
        boxes, confidences, sources, statuses, *pixels = _infer(FACE_CROP, inputs, names)
        self.boxes[images], self.confidences[images], self.sources[images] = boxes, confidences, sources
        for index, (found,), *cut in zip(images, statuses, *pixels, strict=True):
            self._evidence.statuses[index] = found.decode(errors="replace")
            self._pixels[index] = dict(zip(FACE_STREAMS, cut, strict=True))


def _vote_in_force(voter: Path, version: str) -> Vote:
    text = (voter / "config.pbtxt").read_text(encoding="utf-8")
    parameters = text_format.Parse(text, model_config_pb2.ModelConfig()).parameters
    file, echo = (parameters[key].string_value for key in (FILE_PARAMETER, ECHO_PARAMETER))
    calibration = read_in_force(voter / version, file, echo)
    return PAPER_VOTE if calibration is None else calibration.vote


def _infer(model: str, inputs: list[Any], outputs: list[str]) -> list[npt.NDArray[Any]]:
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=outputs,
        inputs=inputs,
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
    )
    response = request.exec()
    if response.has_error():
        raise LateStepError(f"{model} failed: {response.error().message()}")
    return [pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in outputs]


def _response(evidence: Evidence, faces: _Faces) -> Any:
    bounds = evidence.bounds
    verdicts = evidence.verdicts
    known = evidence.vote.score(evidence.probabilities)  # row by row NaN where a stream was not asked
    names = [",".join(stream.name for stream, ran in zip(STREAMS, row, strict=True) if ran) for row in evidence.ran]
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("VERDICT", np.array([[verdict or ""] for verdict in verdicts], np.object_)),
            pb_utils.Tensor("SCORE_RANGE", bounds.score_range),
            pb_utils.Tensor("PROBABILITY_RANGE", bounds.probability_range),
            pb_utils.Tensor("STREAM_PROBABILITIES", known.stream_probabilities),
            pb_utils.Tensor("STREAM_VOTES", known.stream_votes),
            pb_utils.Tensor("STREAMS_RUN", np.array([[name] for name in names], np.object_)),
            pb_utils.Tensor("FACE", faces.boxes),
            pb_utils.Tensor("FACE_CONFIDENCE", faces.confidences),
            pb_utils.Tensor("FACE_SOURCE", faces.sources),
            pb_utils.Tensor("STATUS", np.array([[each] for each in evidence.statuses], np.object_)),
        ]
    )
