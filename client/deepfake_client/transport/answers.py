"""Answers on the wire: tensors to verdicts. What is outside the contract is not believed. Pure functions."""

import json
import re
import struct
from collections.abc import Sequence
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferResult

from ..contract import contract
from ..early import EarlyVerdict
from ..errors import InvalidResponseError
from ..images.faces import FoundFace, FoundFaces
from ..images.items import MAX_IMAGE_BYTES, EncodedImage
from ..results import STREAM_NAMES, Decision, Face, Provenance, StreamVerdict, Verdict, as_single

_DTYPES: dict[str, type[np.generic]] = {"FP32": np.float32, "BYTES": np.object_}

_MOST_PROVENANCE = 1 << 20
"""Most bytes of the provenance model's answer."""

_VOTE_STEPS = 100
"""Votes are fractions of it: of the method in tenths, and of every calibration."""

_FARTHEST = 1 << 21
"""Most pixels of a face from an image's corner: OpenCV decodes sides of up to half of it, and a face may leave them."""

_WORD = re.compile(rf"[a-z0-9_]{{1,{contract.MAX_TEXT}}}")


def parse_faces(result: InferResult, images: Sequence[EncodedImage]) -> list[FoundFaces]:
    """What the face finder says of the images of a request.

    Raises:
        InvalidResponseError: An output is missing, of another shape, or cannot be believed.
    """
    count = len(images)
    boxes = _tensor(result, "FACES", np.float32, (count, None, 4))
    most = boxes.shape[1]
    outputs = {
        "FACES": boxes,
        "FRAME_BOXES": _tensor(result, "FRAME_BOXES", np.float32, (count, most, 4)),
        "CONFIDENCES": _tensor(result, "CONFIDENCES", np.float32, (count, most)),
        "FRAMES": _tensor(result, "FRAMES", np.object_, (count, most)),
        "FOUND": _tensor(result, "FOUND", np.int32, (count, 1)),
        "FACE_SOURCE": _tensor(result, "FACE_SOURCE", np.object_, (count, 1)),
        "STATUS": _tensor(result, "STATUS", np.object_, (count, 1)),
    }
    return [_faces({name: rows[n] for name, rows in outputs.items()}) for n in range(count)]


def parse_verdicts(result: InferResult, images: Sequence[EncodedImage]) -> list[Verdict]:
    """The verdicts of a response, in the order of the request's images.

    Raises:
        InvalidResponseError: An output is missing or of another shape.
    """
    outputs = {
        name: _tensor(result, name, _DTYPES[datatype], (len(images), size))
        for name, (datatype, size) in contract.OUTPUTS.items()
    }
    return [_verdict(image, {name: rows[n] for name, rows in outputs.items()}) for n, image in enumerate(images)]


def parse_decisions(result: InferResult, images: Sequence[EncodedImage], threshold: float | None) -> list[EarlyVerdict]:
    """The verdicts of a response to `build_decision_inputs`, in the order of the request's images.

    Raises:
        InvalidResponseError: An output is missing or of another shape.
    """
    outputs = {
        name: _tensor(result, name, _DTYPES[datatype], (len(images), size))
        for name, (datatype, size) in contract.VERDICT_OUTPUTS.items()
    }
    return [
        _decision(image, {name: rows[n] for name, rows in outputs.items()}, threshold) for n, image in enumerate(images)
    ]


def parse_provenance(result: InferResult) -> Provenance:
    """What the provenance model says.

    Raises:
        InvalidResponseError: It is no JSON object with a boolean `untrained`.
    """
    text = _text(_tensor(result, contract.PROVENANCE, np.object_, (1,))[0])
    try:
        if len(text) > _MOST_PROVENANCE:
            raise ValueError
        document = json.loads(text)
        untrained = document[contract.UNTRAINED]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidResponseError(f"the server's provenance is not understood: {text[:200]!r}") from error
    if not isinstance(untrained, bool):
        raise InvalidResponseError(f"the server's provenance says untrained: {untrained!r}; it must be true or false")
    return Provenance(untrained, document)


def parse_max_bytes(reply: Any) -> int:
    """The most bytes of an image by the configuration of the first step; no more than can be sent.

    Raises:
        InvalidResponseError: It is no number.
    """
    parameters = reply.config.parameters
    name = contract.MAX_BYTES_PARAMETER
    if name not in parameters:
        return MAX_IMAGE_BYTES
    text = parameters[name].string_value
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) == 0:
        raise InvalidResponseError(f"the server's limit {name} is {text[:100]!r}; it must be a number above 0")
    return min(int(text), MAX_IMAGE_BYTES)


def usable_batch_size(wanted: int, model: str, limit: int) -> int:
    """The number of images per request that a model takes, up to the number wanted.

    Raises:
        InvalidResponseError: The model takes no batches, so it is not the detector.
    """
    if limit < 1:
        raise InvalidResponseError(
            f"the model {model!r} takes no batches (max_batch_size {limit}), so it is not the detector; check its name"
        )
    return min(wanted, limit)


def _tensor(result: InferResult, name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """An output; None in the shape stands for any number.

    Raises:
        InvalidResponseError: It is missing, damaged, or of another type or shape.
    """
    try:
        tensor: NDArray[Any] | None = result.as_numpy(name)
    except (ValueError, struct.error) as error:  # too few or too many bytes for its shape
        raise InvalidResponseError(f"output {name} of the server is damaged: {error}") from error
    if tensor is None:
        raise InvalidResponseError(f"output {name} is missing in the server's answer; is this the detector's model?")
    fits = len(tensor.shape) == len(shape) and all(
        want in (None, is_) for want, is_ in zip(shape, tensor.shape, strict=True)
    )
    if tensor.dtype != dtype or not fits:
        got, wanted = f"{tensor.dtype} {list(tensor.shape)}", f"{np.dtype(dtype)} {list(shape)}"
        raise InvalidResponseError(f"output {name} of the server is {got}, not {wanted}; is this the detector's model?")
    return tensor


def _faces(row: dict[str, NDArray[Any]]) -> FoundFaces:
    status, source = _status(row), _source(row)
    if status != "ok":
        return FoundFaces(status, 0, [])
    confidences = _shares(row, "CONFIDENCES")
    faces = []
    for place, frame in enumerate(row["FRAMES"]):
        if frame:
            frame_box = _box(row["FRAME_BOXES"][place])
            if frame_box is None:
                raise InvalidResponseError("the server cuts out a face without its box")
            faces.append(
                FoundFace(Face(_box(row["FACES"][place]), confidences[place], source), bytes(frame), frame_box)
            )
    return FoundFaces(status, int(row["FOUND"][0]), faces)


def _status(row: dict[str, NDArray[Any]]) -> str:
    status = _text(row["STATUS"][0])
    if status not in contract.STATUSES:
        raise InvalidResponseError(f"the server's status {status[: contract.MAX_TEXT]!r} is not one that is known")
    return status


def _source(row: dict[str, NDArray[Any]]) -> str | None:
    source = _text(row["FACE_SOURCE"][0])
    if source and not _WORD.fullmatch(source):
        raise InvalidResponseError(f"the server's FACE_SOURCE is {source[: contract.MAX_TEXT]!r}, which is no word")
    return source or None


def _with_numbers_that_count(row: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A row without numbers where its status is not ok: an image that was not scored has none, whatever is said."""
    if _text(row["STATUS"][0]) == "ok":
        return row
    return {
        name: np.full_like(values, np.nan) if values.dtype == np.float32 else values for name, values in row.items()
    }


def _verdict(image: EncodedImage, row: dict[str, NDArray[Any]]) -> Verdict:
    try:
        return _believed(image, row)
    except InvalidResponseError as error:  # a row that cannot be believed costs no other its verdict
        return Verdict(image.path, "request_failed", error=str(error))


def _believed(image: EncodedImage, row: dict[str, NDArray[Any]]) -> Verdict:
    """The verdict of a row, which raises InvalidResponseError where it is outside the contract."""
    status, source, row = _status(row), _source(row), _with_numbers_that_count(row)
    (score,), (probability,), (confidence,) = (
        _votes(row, "SCORE"),
        *(_shares(row, name) for name in ("PROBABILITY", "FACE_CONFIDENCE")),
    )
    probabilities, votes = _shares(row, "STREAM_PROBABILITIES"), _votes(row, "STREAM_VOTES")
    if status == "ok" and None in (score, probability, *probabilities, *votes):
        raise InvalidResponseError("the server says ok but gives no score")
    return Verdict(
        path=image.path,
        status=status,
        score=score,
        probability=probability,
        streams={n: StreamVerdict(p, v) for n, p, v in zip(STREAM_NAMES, probabilities, votes, strict=True)},
        face=Face(_box(row["FACE"]), confidence, source),
    )


def _decision(image: EncodedImage, row: dict[str, NDArray[Any]], threshold: float | None) -> EarlyVerdict:
    try:
        return _believed_decision(image, row, threshold)
    except InvalidResponseError as error:  # a row that cannot be believed costs no other its verdict
        return EarlyVerdict(image.path, "request_failed", error=str(error))


def _believed_decision(image: EncodedImage, row: dict[str, NDArray[Any]], threshold: float | None) -> EarlyVerdict:
    status, source, row = _status(row), _source(row), _with_numbers_that_count(row)
    decision, run = _text(row["VERDICT"][0]), tuple(filter(None, _text(row["STREAMS_RUN"][0]).split(",")))
    if not set(run) <= set(STREAM_NAMES):
        raise InvalidResponseError(f"the server ran {str(run)[:200]}, which are not the streams that are known")
    scores, probabilities = _range(_votes(row, "SCORE_RANGE")), _range(_shares(row, "PROBABILITY_RANGE"))
    said, votes = _shares(row, "STREAM_PROBABILITIES"), _votes(row, "STREAM_VOTES")
    (confidence,) = _shares(row, "FACE_CONFIDENCE")
    if status == "ok" and (decision not in get_args(Decision) or scores is None or probabilities is None):
        raise InvalidResponseError(
            f"the server says ok but gives the verdict {decision[:50]!r} of {row['SCORE_RANGE']}"
        )
    ok = status == "ok"
    return EarlyVerdict(
        path=image.path,
        status=status,
        score=scores[0] if ok and scores is not None and scores[0] == scores[1] else None,
        probability=probabilities[0] if ok and probabilities is not None and len(run) == len(STREAM_NAMES) else None,
        streams={n: StreamVerdict(p, v) for n, p, v in zip(STREAM_NAMES, said, votes, strict=True)},
        face=Face(_box(row["FACE"]), confidence, source),
        threshold=threshold,
        decision=cast(Decision, decision) if ok else None,
        score_range=scores if ok else None,
        probability_range=probabilities if ok else None,
        streams_run=run,
    )


def _range(ends: list[float | None]) -> tuple[float, float] | None:
    low, high = ends
    if low is None or high is None:
        return None
    if low > high:
        raise InvalidResponseError(f"the server gives a range from {low} to {high}")
    return low, high


def _shares(row: dict[str, NDArray[Any]], name: str) -> list[float | None]:
    """The values of an output, each 0 to 1 or, where it is NaN, None."""
    values = row[name]
    if not np.all(np.isnan(values) | ((values >= 0) & (values <= 1))):
        raise InvalidResponseError(f"the server's {name} is {values.tolist()}, not 0 to 1")
    return [_number(value) for value in values]


def _votes(row: dict[str, NDArray[Any]], name: str) -> list[float | None]:
    """The values of an output that are votes, as `_shares`."""
    votes, values = _shares(row, name), row[name].astype(np.float64)
    nearest = np.round(values * _VOTE_STEPS) / _VOTE_STEPS
    if np.any(np.abs(values - nearest) > np.finfo(np.float32).eps):  # NaN, which is no vote, compares as none
        raise InvalidResponseError(f"the server's {name} is {row[name].tolist()}, not in steps of {1 / _VOTE_STEPS}")
    return votes


def _box(values: NDArray[np.float32]) -> tuple[float, float, float, float] | None:
    if np.all(np.isnan(values)):
        return None
    x1, y1, x2, y2 = (float(str(value)) for value in values)
    if not (np.all(np.abs(values) <= _FARTHEST) and x1 < x2 and y1 < y2):
        raise InvalidResponseError(
            f"the server's FACE is {values.tolist()}, not x1 < x2, y1 < y2 in pixels of an image"
        )
    return x1, y1, x2, y2


def _number(value: np.float32) -> float | None:
    return None if np.isnan(value) else as_single(value)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
