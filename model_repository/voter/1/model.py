"""Triton step: the vote of the three streams. See ensemble/voting.py and, for other votes, ensemble/calibration.py."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from ensemble import status
from ensemble.admission import Release
from ensemble.calibration import score_logits_calibrated
from ensemble.calibration_file import ECHO_PARAMETER, FILE_PARAMETER, read_in_force
from ensemble.contract import MAX_TEXT, STATUSES
from ensemble.streams import STREAMS
from ensemble.voting import EnsembleScore, score_logits

FACE = ("FACE", "FACE_CONFIDENCE", "FACE_SOURCE")
"""Given on as they come, where they come."""

ScoreLogits = Callable[[npt.NDArray[np.float32]], EnsembleScore]


class TritonPythonModel:
    """One instance of the step."""

    def initialize(self, args: dict[str, str]) -> None:
        self._release = Release()
        self._restarts = _count_restarts()
        parameters = json.loads(args["model_config"])["parameters"]
        file, echo = (parameters[key]["string_value"] for key in (FILE_PARAMETER, ECHO_PARAMETER))
        calibration = read_in_force(Path(args["model_repository"]) / args["model_version"], file, echo)
        if calibration is None:
            self._score: ScoreLogits = score_logits
        else:
            self._score = partial(score_logits_calibrated, vote=calibration.vote)
            pb_utils.Logger.log_info(f"calibration in force: {file} of {calibration.created}")

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        """The response to one request: whoever calls this step with what it cannot take harms nobody else's request."""
        try:
            response = _response(request, self._score)
            self._release(_permits(request))
        except Exception as error:  # noqa: BLE001 - the process boundary: it becomes this request's error
            message = f"voter: {type(error).__name__}: {error}"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
        return response


def _count_restarts() -> Any:
    """Gives the server's metrics the number of its restarts, and the request under which it last ended.

    The launcher knows them, and only a model can add to the server's metrics.
    """
    family = pb_utils.MetricFamily(
        name="deepfake_detector_restarts_total",
        description="Restarts of the server, with the SHA-256 of the request that was last under way",
        kind=pb_utils.MetricFamily.COUNTER,
    )
    metric = family.Metric(labels={"last_request": os.environ.get("DEEPFAKE_DETECTOR_LAST_REQUEST", "")})
    metric.increment(int(os.environ.get("DEEPFAKE_DETECTOR_RESTARTS", "0")))
    return family, metric  # kept, or they go out of the metrics


def _permits(request: Any) -> list[int]:
    permits = pb_utils.get_input_tensor_by_name(request, "PERMIT")
    return [] if permits is None else permits.as_numpy().ravel().tolist()


def _response(request: Any, score: ScoreLogits) -> Any:
    logits = [pb_utils.get_input_tensor_by_name(request, stream.logits_name).as_numpy() for stream in STREAMS]
    statuses = pb_utils.get_input_tensor_by_name(request, "IMAGE_STATUS").as_numpy()
    unknown = {str(value[:MAX_TEXT]) for value in statuses.ravel() if value.decode(errors="replace") not in STATUSES}
    if unknown:
        raise ValueError(f"IMAGE_STATUS {', '.join(sorted(unknown))}: no status of an image")
    scored = statuses == status.OK.encode()
    result = score(np.where(scored[:, :, None], np.stack(logits, axis=1), np.float32(np.nan)))
    statuses = np.where(scored & np.isnan(result.score[:, None]), status.NON_FINITE_LOGITS.encode(), statuses)
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("SCORE", result.score[:, None]),
            pb_utils.Tensor("PROBABILITY", result.probability[:, None]),
            pb_utils.Tensor("STREAM_PROBABILITIES", result.stream_probabilities),
            pb_utils.Tensor("STREAM_VOTES", result.stream_votes),
            pb_utils.Tensor("STATUS", statuses),
            *(face for name in FACE if (face := pb_utils.get_input_tensor_by_name(request, name)) is not None),
        ]
    )
