"""The calls that the clients make, described without making them: shared by the blocking and the asyncio client."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from tenacity import retry_if_exception, stop_after_delay, wait_fixed
from tritonclient.utils import InferenceServerException

from ..balancing.addresses import Address
from ..calibration import Calibration, parse_calibration
from ..contract.contract import FACE_FINDER_MODEL, PREPROCESS_MODEL, PROVENANCE_MODEL, VOTER_MODEL
from ..contract.streams import ENSEMBLE_NAME
from ..errors import (
    DetectorError,
    RequestFailedError,
    ServerUnavailableError,
    access_denied,
    from_triton,
    is_retryable,
)
from ..images.faces import FoundFaces
from ..images.items import EncodedImage, read
from ..results import Provenance, Verdict
from .answers import parse_decisions, parse_faces, parse_max_bytes, parse_provenance, parse_verdicts
from .settings import Settings
from .tls import diagnose, speaks_http
from .wire import PROBE, build_decision_inputs, build_inputs, build_search

T = TypeVar("T")

PROBE_SECONDS = 60.0
"""Deadline of the test image that a server must score which was left out."""

PROBE_INTERVAL = 1.0
"""Seconds after which a request that waits for room looks whether a server is to be probed."""

_LIGHT_TIMEOUT = 10.0
"""Deadline in seconds of calls that run no network."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call to a server.

    Attributes:
        method: Name of the method, the same in tritonclient's blocking and asyncio clients.
        arguments: Its arguments, but for the deadline.
        timeout: Its deadline in seconds.
        parse: Turns its response into the result.
        explain: Turns its failure at an address into the error to raise; it is given the deadline that there was.
        scores: Whether it asks for scores.
        images: Images of the user's that it asks them for.
        pixels: Whether its answer may hold pixels; see `Settings.channel`.
        optional: Whether what it asks for may be missing at the server; the result is None then.
        label: Adds to the result what its server said of its weights.
    """

    method: str
    arguments: dict[str, Any]
    timeout: float
    parse: Callable[[Any], T]
    explain: Callable[[InferenceServerException, Address, float], DetectorError]
    scores: bool = False
    images: int = 0
    pixels: bool = False
    optional: bool = False
    label: Callable[[T, Provenance | None], T] | None = None

    def failure(self, error: InferenceServerException, address: Address, timeout: float) -> DetectorError | None:
        """The error to raise for a failure; None where what the call asks for may be missing, and is."""
        explained = self.explain(error, address, timeout)
        missing = isinstance(explained, RequestFailedError) and explained.code == "NOT_FOUND"
        return None if self.optional and missing else explained


def score_call(settings: Settings, images: Sequence[EncodedImage]) -> Call[list[Verdict]]:
    """Scores images in one request."""
    decide = settings.decide
    if decide is None:
        call = _infer_call(settings, images, settings.timeout, lambda result: parse_verdicts(result, images))
    else:
        call = _infer_call(
            settings, images, settings.timeout, lambda result: [*parse_decisions(result, images, decide.threshold)]
        )
        call.arguments["inputs"] = build_decision_inputs(images, decide.threshold)
    return replace(call, images=len(images), label=_with_weights)


def find_faces_call(settings: Settings, images: Sequence[EncodedImage]) -> Call[list[FoundFaces]]:
    """Finds every face of images in one request."""

    def explain(error: InferenceServerException, address: Address, timeout: float) -> DetectorError:
        explained = _explain(FACE_FINDER_MODEL, error, address, timeout)
        if isinstance(explained, RequestFailedError) and explained.code == "NOT_FOUND":
            fix = "export the models again, or ask for main faces only"
            return RequestFailedError(
                f"the server at {address} has no model {FACE_FINDER_MODEL!r}; {fix}", explained.code
            )
        return explained

    return Call(
        "infer",
        {"model_name": FACE_FINDER_MODEL, "inputs": build_search(images), "headers": settings.headers},
        settings.timeout,
        lambda result: parse_faces(result, images),
        explain,
        pixels=True,
    )


def probe_call(settings: Settings, timeout: float) -> Call[None]:
    """Scores a grey square: the only sign that every step of the ensemble is alive."""
    images = [read(PROBE)]
    settings = replace(settings, fresh=True)  # every step must answer
    full = replace(settings, model=ENSEMBLE_NAME, decide=None) if settings.decide else settings

    def parse(result: Any) -> None:
        verdict = parse_verdicts(result, images)[0]
        if not verdict.ok:
            raise ServerUnavailableError(f"the server answers a test image with {verdict.status!r}")

    return _infer_call(full, images, timeout, parse)


def provenance_call(settings: Settings) -> Call[Provenance | None]:
    """Asks which weights give the verdicts."""
    return _light_call(settings, "infer", PROVENANCE_MODEL, {"inputs": []}, parse_provenance, optional=True)


def calibration_call(settings: Settings) -> Call[Calibration | None]:
    """Asks what the vote was calibrated with."""
    return _light_call(settings, "get_model_config", VOTER_MODEL, {}, parse_calibration, optional=True)


def metadata_call(settings: Settings) -> Call[tuple[str, str]]:
    """Asks for the server's name and version."""
    return _light_call(settings, "get_server_metadata", None, {}, lambda reply: (reply.name, reply.version))


def max_batch_size_call(settings: Settings) -> Call[int]:
    """Asks how many images the model takes in one request."""
    return _light_call(settings, "get_model_config", settings.model, {}, lambda reply: int(reply.config.max_batch_size))


def max_bytes_call(settings: Settings) -> Call[int | None]:
    """Asks how many bytes an image may have."""
    return _light_call(settings, "get_model_config", PREPROCESS_MODEL, {}, parse_max_bytes, optional=True)


def explain_absence(address: Address, settings: Settings) -> DetectorError | None:
    """Why no connection can be made to a server, where it is something that waiting does not mend."""
    fault = diagnose(address, settings.tls)
    if fault is not None:
        return access_denied(address, fault)
    if settings.tls is None and speaks_http(address):
        message = f"{address} is an HTTP port; give the server's gRPC port, which is 8001 unless it was told otherwise"
        return RequestFailedError(message, "UNIMPLEMENTED")
    return None


def _with_weights(verdicts: list[Verdict], known: Provenance | None) -> list[Verdict]:
    if known is None:
        return verdicts
    identity, stand_in = known.identity, known.stand_in or None
    return [replace(each, weights=identity, untrained=known.untrained, stand_in=stand_in) for each in verdicts]


def framing_call(settings: Settings) -> Call[str | None]:
    """Asks how the server frames images of other sizes than the method's."""

    def parse(reply: Any) -> str | None:
        return str(reply.config.parameters["framing"].string_value) or None

    return _light_call(settings, "get_model_config", PREPROCESS_MODEL, {}, parse, optional=True)


def polling(timeout: float) -> dict[str, Any]:
    """Tenacity's settings for waiting until a server is ready."""
    return {
        "retry": retry_if_exception(is_retryable),
        "stop": stop_after_delay(timeout),
        "wait": wait_fixed(0.5),
        "reraise": True,
    }


def not_ready(settings: Settings, timeout: float, error: DetectorError) -> ServerUnavailableError:
    """The error for a server that gave no verdict in time."""
    return ServerUnavailableError(f"{settings.where} was not ready within {timeout:g} s: {error}")


def _infer_call(
    settings: Settings, images: Sequence[EncodedImage], timeout: float, parse: Callable[[Any], T]
) -> Call[T]:
    # By this parameter the server's response cache, where there is one, neither answers nor keeps the answer.
    past_the_cache = {"parameters": {"fresh": True}} if settings.fresh else {}
    return Call(
        "infer",
        {"model_name": settings.model, "inputs": build_inputs(images), "headers": settings.headers, **past_the_cache},
        timeout,
        parse,
        partial(_explain, settings.model),
        scores=True,
    )


def _light_call(
    settings: Settings,
    method: str,
    model: str | None,
    arguments: dict[str, Any],
    parse: Callable[[Any], T],
    *,
    optional: bool = False,
) -> Call[T]:
    def explain(error: InferenceServerException, address: Address, timeout: float) -> DetectorError:
        explained = _explain(model or settings.model, error, address, timeout)
        if isinstance(explained, RequestFailedError) and explained.code == "DEADLINE_EXCEEDED":
            return ServerUnavailableError(f"no server answers at {address} within {timeout:g} s")
        return explained

    name = {} if model is None else {"model_name": model}
    every = {**name, **arguments, "headers": settings.headers}
    return Call(method, every, _LIGHT_TIMEOUT, parse, explain, optional=optional)


def _explain(model: str, error: InferenceServerException, address: Address, timeout: float) -> DetectorError:
    return from_triton(error, url=str(address), model=model, timeout=timeout)
