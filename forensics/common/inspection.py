"""Images through the deployed models one step at a time, keeping what the ensemble's answer leaves out.

The server's own steps cut the pixels, under its framing, limits and face detector; the rest is the pipeline
(`ensemble/pipeline.py`) with the server's networks and its vote. So scores are the ensemble's, its calibration
included, and nothing is computed twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from deepfake_client import RequestFailedError, ServerUnavailableError
from deepfake_client.cli import Connection
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ensemble import status
from ensemble.faces.detection import Box
from ensemble.images import RgbImage
from ensemble.pipeline import judge
from ensemble.streams import MAX_BATCH_SIZE, STREAMS
from ensemble.voting import EnsembleScore
from forensics.common.errors import ForensicsError

Array = npt.NDArray[Any]
Floats32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StreamInspection:
    """What one stream made of one image.

    Attributes:
        pixels: uint8 [S, S, 3], RGB, what it was shown.
        features: float32 [D], DINOv2's before CLIP's.
        attention: float32 [patches], row by row, summing to 1: where the CLS token of DINOv2's last block looked.
        probability: Probability of fake, after a calibration map where the server has one.
        vote: The same, rounded as it enters the vote.
    """

    pixels: RgbImage
    features: Floats32
    attention: Floats32
    probability: float
    vote: float


@dataclass(frozen=True)
class Inspection:
    """One image, looked at.

    Attributes:
        status: `ok`, or why there is nothing else (`ensemble.status`).
        score: The vote.
        probability: Weighted mean of the streams before any rounding.
        streams: By name; empty where the status is not `ok`, and the numbers are NaN.
        face: Box of the face used, in pixels of the image; None where the whole image was.
        face_source: Where the box comes from, as the ensemble says it.
    """

    status: str
    score: float = float("nan")
    probability: float = float("nan")
    streams: Mapping[str, StreamInspection] = field(default_factory=dict)
    face: Box | None = None
    face_source: str = ""


class Inspector:
    """Asks the models of one server; threads may share it.

    Args:
        server: HOST:PORT of its gRPC port, or the connection of a command line, of whose addresses the first is asked.
        batch_size: Most images in a request.
        timeout: Deadline of one request to one model, in seconds.
    """

    def __init__(self, server: str | Connection, batch_size: int = MAX_BATCH_SIZE, timeout: float = 600.0) -> None:
        connection = Connection((server,)) if isinstance(server, str) else server
        self._url, self._size, self._timeout = connection.urls[0], min(batch_size, MAX_BATCH_SIZE), timeout
        self._client, self._headers = connection.connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._client.close()

    def inspect(self, images: Sequence[bytes], boxes: Sequence[Box | None] | None = None) -> list[Inspection]:
        """Looks at encoded images.

        Args:
            images: Contents of image files.
            boxes: Face boxes that replace detection, None where the face is to be found; all None where left out.

        Raises:
            DetectorError: The server does not answer, or fails the request.
            ForensicsError: Its models are of another version.
        """
        supplied = boxes if boxes is not None else [None] * len(images)
        batches = [slice(start, start + self._size) for start in range(0, len(images), self._size)]
        return [each for batch in batches for each in self._batch(images[batch], supplied[batch])]

    def _batch(self, images: Sequence[bytes], boxes: Sequence[Box | None]) -> list[Inspection]:
        encoded = np.empty((len(images), 1), np.object_)
        encoded[:, 0] = images
        supplied = np.array([box or (np.nan,) * 4 for box in boxes], np.float32)
        prepared = self._infer("preprocess", {"IMAGE": encoded, "FACE_BOX": supplied})
        decoded = {name: prepared[name] for name in ("DECODED", "BOX", "IMAGE_STATUS")}
        cropped = self._infer("face_crop", {"IMAGE": encoded, **decoded})
        pixels = {stream.name: (prepared | cropped)[stream.pixels_name] for stream in STREAMS}
        rest = {"IMAGE_STATUS": cropped["STATUS"], "PERMIT": prepared["PERMIT"]}
        faces = [
            (None if np.isnan(box).any() else tuple(box.tolist()), _text(source))
            for box, source in zip(cropped["FACE"], cropped["FACE_SOURCE"][:, 0], strict=True)
        ]
        return self._look(pixels, rest, faces)

    def inspect_pixels(self, clean: Inspection, pixels: Sequence[Mapping[str, RgbImage]]) -> list[Inspection]:
        """Looks at pixels that are shown to the streams in the place of an image's own.

        Args:
            clean: The image, with status `ok`; its face stays.
            pixels: In each, by stream, uint8 [S, S, 3].

        Raises:
            DetectorError, ForensicsError: As `inspect`.
        """
        inspections = []
        for start in range(0, len(pixels), self._size):
            batch = pixels[start : start + self._size]
            stacks = {stream.name: np.stack([each[stream.name] for each in batch]) for stream in STREAMS}
            ok = {"IMAGE_STATUS": np.full((len(batch), 1), status.OK.encode(), np.object_)}
            inspections += self._look(stacks, ok, [(clean.face, clean.face_source)] * len(batch))
        return inspections

    def _look(
        self, pixels: Mapping[str, Array], rest: Mapping[str, Array], faces: Sequence[tuple[Box | None, str]]
    ) -> list[Inspection]:
        """The pipeline's second half, with networks and vote of the server."""
        outputs: dict[str, dict[str, Array]] = {}
        states: list[str] = []

        def run(name: str, shown: Array) -> Floats32:
            outputs[name] = self._infer(name, {"PIXELS": shown})
            if "ATTENTION" not in outputs[name]:
                raise ForensicsError(
                    f"{name} at {self._url} has no output ATTENTION: it was exported by an older version; export again"
                )
            return outputs[name]["LOGITS"]

        def vote(logits: Floats32) -> EnsembleScore:
            of_streams = {stream.logits_name: logits[:, column] for column, stream in enumerate(STREAMS)}
            result = self._infer("voter", {**of_streams, **rest})
            states.extend(map(_text, result["STATUS"][:, 0]))
            return EnsembleScore(
                result["SCORE"][:, 0],
                result["PROBABILITY"][:, 0],
                result["STREAM_PROBABILITIES"],
                result["STREAM_VOTES"],
            )

        scored = judge(pixels, {stream.name: partial(run, stream.name) for stream in STREAMS}, vote)
        return [
            _inspection(row, pixels, outputs, face, scored) if state == status.OK else Inspection(state)
            for row, (state, face) in enumerate(zip(states, faces, strict=True))
        ]

    def _infer(self, model: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            tensors.append(tensor)
        try:
            result = self._client.infer(model, tensors, client_timeout=self._timeout, headers=self._headers)
        except InferenceServerException as error:
            code = str(error.status()).rpartition(".")[2]
            message = f"the model {model} at {self._url} gives no answer: {code}: {error.message()}"
            raise (
                ServerUnavailableError(message) if code == "UNAVAILABLE" else RequestFailedError(message, code)
            ) from error
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def _inspection(
    row: int,
    pixels: Mapping[str, Array],
    outputs: Mapping[str, Mapping[str, Array]],
    face: tuple[Box | None, str],
    scored: EnsembleScore,
) -> Inspection:
    return Inspection(
        status=status.OK,
        score=_number(scored.score[row]),
        probability=_number(scored.probability[row]),
        streams={
            stream.name: StreamInspection(
                pixels=pixels[stream.name][row],
                features=outputs[stream.name]["FEATURES"][row],
                attention=outputs[stream.name]["ATTENTION"][row],
                probability=_number(scored.stream_probabilities[row, column]),
                vote=_number(scored.stream_votes[row, column]),
            )
            for column, stream in enumerate(STREAMS)
        },
        face=face[0],
        face_source=face[1],
    )


def _number(value: np.float32) -> float:
    """A float32 as the shortest decimal that stands for it: 0.3, not 0.30000001192092896."""
    return float(str(value))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
