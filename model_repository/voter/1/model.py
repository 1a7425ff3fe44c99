"""Triton step: the vote of the three streams. See ensemble/voting.py."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble import status
from ensemble.streams import STREAMS
from ensemble.voting import cast_ballot


class TritonPythonModel:
    """One instance of the step."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [_response(request) for request in requests]


def _response(request: Any) -> Any:
    logits = [
        pb_utils.get_input_tensor_by_name(request, f"{stream.name.upper()}_LOGITS").as_numpy() for stream in STREAMS
    ]
    statuses = pb_utils.get_input_tensor_by_name(request, "IMAGE_STATUS").as_numpy()
    scored = statuses == status.OK.encode()
    ballot = cast_ballot(np.where(scored[:, :, None], np.stack(logits, axis=1), np.float32(np.nan)))
    statuses = np.where(scored & np.isnan(ballot.score[:, None]), status.NON_FINITE_LOGITS.encode(), statuses)
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("SCORE", ballot.score[:, None]),
            pb_utils.Tensor("PROBABILITY", ballot.probability[:, None]),
            pb_utils.Tensor("STREAM_PROBABILITIES", ballot.stream_probabilities),
            pb_utils.Tensor("STREAM_VOTES", ballot.stream_votes),
            pb_utils.Tensor("STATUS", statuses),
        ]
    )
