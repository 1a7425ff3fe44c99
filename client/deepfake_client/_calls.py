"""The calls that the clients make, described without making them: shared by the blocking and the asyncio client."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tenacity import (
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_any,
    wait_exponential,
    wait_fixed,
    wait_random,
)
from tenacity.stop import stop_base
from tritonclient.utils import InferenceServerException

from ._calibration import VOTER_MODEL, Calibration, parse_calibration
from ._errors import DetectorError, RequestFailedError, ServerUnavailableError, from_triton, is_retryable
from ._items import Encoded, read
from ._results import Provenance, Verdict
from ._settings import Settings
from ._wire import PROBE, PROVENANCE_MODEL, build_inputs, parse_provenance, parse_verdicts

T = TypeVar("T")

_LIGHT_TIMEOUT = 10.0
"""Deadline in seconds of calls that run no network."""

_RESTART_SECONDS = 60.0
"""A request that got no answer is sent again for at least this long: a supervised server is back by then."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call to the server.

    Attributes:
        method: Name of the method, the same in tritonclient's blocking and asyncio clients.
        arguments: Its arguments.
        parse: Turns its response into the result.
        explain: Turns its failure into the error to raise.
    """

    method: str
    arguments: dict[str, Any]
    parse: Callable[[Any], T]
    explain: Callable[[InferenceServerException], DetectorError]


def score_call(settings: Settings, images: Sequence[Encoded]) -> Call[list[Verdict]]:
    """Scores images in one request."""
    return _infer_call(settings, images, settings.timeout, lambda result: parse_verdicts(result, images))


def probe_call(settings: Settings, timeout: float) -> Call[None]:
    """Scores a grey square: the only sign that every step of the ensemble is alive."""
    images = [read(PROBE)]

    def parse(result: Any) -> None:
        verdict = parse_verdicts(result, images)[0]
        if not verdict.ok:
            raise ServerUnavailableError(f"the server at {settings.url} answers a test image with {verdict.status!r}")

    return _infer_call(settings, images, timeout, parse)


def provenance_call(settings: Settings) -> Call[Provenance]:
    """Asks which weights give the verdicts."""
    return _light_call(settings, "infer", PROVENANCE_MODEL, {"inputs": []}, parse_provenance)


def calibration_call(settings: Settings) -> Call[Calibration | None]:
    """Asks what the vote was calibrated with."""
    return _light_call(settings, "get_model_config", VOTER_MODEL, {}, parse_calibration)


def metadata_call(settings: Settings) -> Call[tuple[str, str]]:
    """Asks for the server's name and version."""
    return _light_call(settings, "get_server_metadata", None, {}, lambda reply: (reply.name, reply.version))


def max_batch_size_call(settings: Settings) -> Call[int]:
    """Asks how many images the model takes in one request."""
    return _light_call(settings, "get_model_config", settings.model, {}, lambda reply: int(reply.config.max_batch_size))


def retrying(retries: int) -> dict[str, Any]:
    """Tenacity's settings for requests: exponential back-off from 0.5 to 8 s, with up to a second of jitter."""
    return {
        "retry": retry_if_exception(is_retryable),
        "stop": stop_any(stop_after_attempt(retries + 1), _StopAtDeadlines()),
        "wait": wait_exponential(multiplier=0.5, max=8) + wait_random(0, 1),
        "reraise": True,
    }


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
    return ServerUnavailableError(f"the server at {settings.url} was not ready within {timeout:g} s: {error}")


def _infer_call(settings: Settings, images: Sequence[Encoded], timeout: float, parse: Callable[[Any], T]) -> Call[T]:
    return Call(
        "infer",
        {"model_name": settings.model, "inputs": build_inputs(images), "client_timeout": timeout},
        parse,
        lambda error: from_triton(error, url=settings.url, model=settings.model, timeout=timeout),
    )


def _light_call(
    settings: Settings, method: str, model: str | None, arguments: dict[str, Any], parse: Callable[[Any], T]
) -> Call[T]:
    def explain(error: InferenceServerException) -> DetectorError:
        explained = from_triton(error, url=settings.url, model=model or settings.model, timeout=_LIGHT_TIMEOUT)
        if isinstance(explained, RequestFailedError) and explained.code == "DEADLINE_EXCEEDED":
            return ServerUnavailableError(f"no server answers at {settings.url} within {_LIGHT_TIMEOUT:g} s")
        return explained

    name = {} if model is None else {"model_name": model}
    return Call(method, {**name, **arguments, "client_timeout": _LIGHT_TIMEOUT}, parse, explain)


class _StopAtDeadlines(stop_base):
    """With a deadline of minutes, ten tries would hold a run up for an hour over one request that never ends."""

    def __call__(self, retry_state: RetryCallState) -> bool:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        passed = isinstance(error, RequestFailedError) and error.code == "DEADLINE_EXCEEDED"
        waited = retry_state.seconds_since_start or 0.0
        return passed and retry_state.attempt_number > 1 and waited >= _RESTART_SECONDS
