"""The detector's contract on the wire: images to request tensors, response tensors to verdicts. Pure functions."""

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferResult

from ..errors import InvalidResponseError
from ..items import MAX_IMAGE_BYTES, EncodedImage, Item
from ..results import STREAM_NAMES, Face, Provenance, StreamVerdict, Verdict

PROVENANCE_MODEL = "provenance"

FIRST_MODEL = "preprocess"
"""The step that looks at encoded images; its parameter max_bytes says how large one may be."""

PROBE = Item(
    path=None,
    data=base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAAAAACPAi4CAAAAK0lEQVR42u3MMREAAAgEoNfkRjeEmwcBqMlNRyAQCAQCgUAgEAgEAsHzYAFA"
        "dAEArKmlZAAAAABJRU5ErkJggg=="
    ),
    box=(8.0, 8.0, 56.0, 56.0),
)
"""A grey square of 64×64 pixels, to ask for a real inference. Its face box spares the server a search."""

_OUTPUTS: dict[str, tuple[type[np.generic], int]] = {
    "SCORE": (np.float32, 1),
    "PROBABILITY": (np.float32, 1),
    "STREAM_PROBABILITIES": (np.float32, len(STREAM_NAMES)),
    "STREAM_VOTES": (np.float32, len(STREAM_NAMES)),
    "FACE": (np.float32, 4),
    "FACE_CONFIDENCE": (np.float32, 1),
    "FACE_SOURCE": (np.object_, 1),
    "STATUS": (np.object_, 1),
}
"""The outputs of the detector: type and number of values for one image."""


def build_inputs(images: Sequence[EncodedImage]) -> list[InferInput]:
    """The tensors of a request: IMAGE BYTES [N,1] and, where any image has a box, FACE_BOX FP32 [N,4].

    A row of NaN says that no box is supplied for that image.
    """
    encoded = np.empty((len(images), 1), dtype=np.object_)
    for row, image in enumerate(images):
        encoded[row, 0] = image.data
    inputs = [InferInput("IMAGE", list(encoded.shape), "BYTES")]
    inputs[0].set_data_from_numpy(encoded)
    if any(image.box is not None for image in images):
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which the server refuses by status
            boxes = np.array([image.box or (np.nan,) * 4 for image in images]).astype(np.float32)
        inputs.append(InferInput("FACE_BOX", list(boxes.shape), "FP32"))
        inputs[1].set_data_from_numpy(boxes)
    return inputs


def parse_verdicts(result: InferResult, images: Sequence[EncodedImage]) -> list[Verdict]:
    """The verdicts of a response, in the order of the request's images.

    Raises:
        InvalidResponseError: An output is missing or of another shape.
    """
    outputs = {name: _tensor(result, name, dtype, (len(images), size)) for name, (dtype, size) in _OUTPUTS.items()}
    return [_verdict(image, {name: rows[n] for name, rows in outputs.items()}) for n, image in enumerate(images)]


def parse_provenance(result: InferResult) -> Provenance:
    """What the provenance model says.

    Raises:
        InvalidResponseError: It is no JSON object with a boolean `untrained`.
    """
    text = _text(_tensor(result, "PROVENANCE", np.object_, (1,))[0])
    try:
        document = json.loads(text)
        untrained = document["untrained"]
    except (ValueError, KeyError, TypeError) as error:
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
    if "max_bytes" not in parameters:
        return MAX_IMAGE_BYTES
    text = parameters["max_bytes"].string_value
    try:
        return min(int(text), MAX_IMAGE_BYTES)
    except ValueError:
        raise InvalidResponseError(f"the server's limit max_bytes is {text!r}; it must be a number") from None


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


def _tensor(result: InferResult, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        tensor: NDArray[Any] | None = result.as_numpy(name)
    except (ValueError, struct.error) as error:  # too few or too many bytes for its shape
        raise InvalidResponseError(f"output {name} of the server is damaged: {error}") from error
    if tensor is None:
        raise InvalidResponseError(f"output {name} is missing in the server's answer; is this the detector's model?")
    if tensor.dtype != dtype or tensor.shape != shape:
        got, wanted = f"{tensor.dtype} {list(tensor.shape)}", f"{np.dtype(dtype)} {list(shape)}"
        raise InvalidResponseError(f"output {name} of the server is {got}, not {wanted}; is this the detector's model?")
    return tensor


def _verdict(image: EncodedImage, row: dict[str, NDArray[Any]]) -> Verdict:
    status = _text(row["STATUS"][0])
    score = _number(row["SCORE"][0])
    if status == "ok" and score is None:
        return Verdict(image.path, "request_failed", error="the server says ok but gives no score")
    probabilities = map(_number, row["STREAM_PROBABILITIES"])
    votes = map(_number, row["STREAM_VOTES"])
    box = tuple(map(_number, row["FACE"]))
    return Verdict(
        path=image.path,
        status=status,
        score=score,
        probability=_number(row["PROBABILITY"][0]),
        streams={n: StreamVerdict(p, v) for n, p, v in zip(STREAM_NAMES, probabilities, votes, strict=True)},
        face=Face(
            box=None if None in box else box,  # type: ignore[arg-type]
            confidence=_number(row["FACE_CONFIDENCE"][0]),
            source=_text(row["FACE_SOURCE"][0]) or None,
        ),
    )


def _number(value: np.float32) -> float | None:
    """A float32 as the shortest decimal that stands for it (0.3, not 0.30000001192092896); None where not finite."""
    return float(str(value)) if np.isfinite(value) else None


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
