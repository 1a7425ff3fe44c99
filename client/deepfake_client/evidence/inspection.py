"""One image through the deployed models step by step, keeping what the ensemble's answer leaves out.

The steps are read from the ensemble's own configuration and asked in its order: so scores are the ensemble's, whatever
it is made of, and nothing is computed twice.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ..balancing.addresses import resolve
from ..errors import DetectorError, InvalidResponseError, RequestFailedError, ServerUnavailableError, from_triton
from ..images.items import FaceBox
from ..results import STREAM_NAMES
from ..transport.settings import Settings

Array = NDArray[Any]


@dataclass(frozen=True)
class Seen:
    """What one stream was shown, and where it looked.

    Attributes:
        pixels: uint8 [S, S, 3], RGB.
        attention: float32 [N, N], summing to 1: of the CLS token of DINOv2's last block over the patches. None where
            the server does not give it.
    """

    pixels: NDArray[np.uint8]
    attention: NDArray[np.float32] | None


def inspect(settings: Settings, image: bytes, box: FaceBox | None = None) -> dict[str, Seen]:
    """Shows an image to the streams; by stream, empty where the image cannot be scored.

    Args:
        settings: Of a client; the first of its servers that answers is asked.
        image: An encoded image.
        box: The face, where it is known.

    Raises:
        DetectorError: No server answers, or one fails the request.
        InvalidResponseError: The models are not those of the detector.
    """
    failure: DetectorError | None = None
    for address in resolve(settings.urls):
        try:
            with InferenceServerClient(**settings.channel(address, pixels=True)) as connection:
                return _Steps(settings, connection, str(address)).run(image, box)
        except ServerUnavailableError as error:
            failure = error
    raise failure or ServerUnavailableError(f"no server at {settings.where}")


class _Steps:
    def __init__(self, settings: Settings, connection: InferenceServerClient, address: str) -> None:
        self._settings, self._connection, self._address = settings, connection, address

    def run(self, image: bytes, box: FaceBox | None) -> dict[str, Seen]:
        encoded = np.empty((1, 1), np.object_)
        encoded[0, 0] = image
        tensors: dict[str, Array] = {"IMAGE": encoded}
        if box is not None:
            tensors["FACE_BOX"] = np.array([box], np.float32)
        outputs: dict[str, Mapping[str, Array]] = {}
        pixels: dict[str, Array] = {}
        for step in self._steps():
            inputs = {name: tensors[value] for name, value in step.input_map.items() if value in tensors}
            outputs[step.model_name] = self._infer(step.model_name, inputs)
            tensors |= {value: outputs[step.model_name][name] for name, value in step.output_map.items()}
            if step.model_name in STREAM_NAMES:
                pixels[step.model_name] = inputs["PIXELS"]
        if set(pixels) != set(STREAM_NAMES):
            raise InvalidResponseError(f"{self._settings.model} at {self._address} does not have the detector's steps")
        if tensors.get("STATUS", encoded).tolist() not in ([["ok"]], [[b"ok"]]):
            return {}
        return {name: Seen(pixels[name][0], _grid(outputs[name].get("ATTENTION"))) for name in STREAM_NAMES}

    def _steps(self) -> list[Any]:
        """In the order in which their inputs are there."""
        config = self._call("get_model_config", model_name=self._settings.model).config
        steps, ordered = list(config.ensemble_scheduling.step), []
        there = {each.name for each in config.input}
        while steps:
            ready = [step for step in steps if set(step.input_map.values()) <= there]
            if not ready:
                raise InvalidResponseError(
                    f"the steps of {self._settings.model} at {self._address} wait for each other"
                )
            ordered += ready
            there |= {value for step in ready for value in step.output_map.values()}
            steps = [step for step in steps if step not in ready]
        return ordered

    def _infer(self, model: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = []
        for name, array in inputs.items():
            tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            tensors.append(tensor)
        result = self._call("infer", model_name=model, inputs=tensors)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def _call(self, method: str, **arguments: Any) -> Any:
        timeout = self._settings.timeout
        try:
            return getattr(self._connection, method)(
                **arguments, headers=self._settings.headers, client_timeout=timeout
            )
        except InferenceServerException as error:
            name = str(arguments["model_name"])
            explained = from_triton(error, url=self._address, model=name, timeout=timeout)
            if isinstance(explained, RequestFailedError) and explained.code == "NOT_FOUND":
                raise RequestFailedError(
                    f"the server at {self._address} has no model {name!r}", explained.code
                ) from error
            raise explained from error


def _grid(attention: Array | None) -> NDArray[np.float32] | None:
    if attention is None:
        return None
    side = math.isqrt(attention.shape[1])
    return np.asarray(attention[0, : side * side].reshape(side, side), np.float32)
