"""What can go wrong with a request.

    DetectorError
    ├── ServerUnavailableError   nothing answers at the address, or the server is starting, stopping or overloaded
    ├── RequestFailedError       the server answered the request with an error, or not before its deadline
    └── InvalidResponseError     the server answered something other than the detector's contract

A file that cannot be read raises the `OSError` of reading it. An image that the server cannot score is no error: its
verdict has another `status` than "ok".
"""

from typing import Self

from tritonclient.utils import InferenceServerException

_RETRYABLE = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "ABORTED", "CANCELLED"}
)
"""gRPC codes after which the same request may succeed. Inference is idempotent, so trying again is always safe.
INTERNAL and UNKNOWN belong here: a step of the server that died answers so until the server has been restarted."""


class DetectorError(Exception):
    """Base of every error of this package."""


class ServerUnavailableError(DetectorError):
    """Nothing answers at the address, or the server is starting, stopping or overloaded."""


class RequestFailedError(DetectorError):
    """The server answered the request with an error, or not before its deadline.

    Attributes:
        code: Name of the gRPC status code, such as "INVALID_ARGUMENT" or "DEADLINE_EXCEEDED".
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:  # engines pass errors from process to process
        return type(self), (str(self), self.code)


class InvalidResponseError(DetectorError):
    """The server answered something other than the detector's contract."""


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, RequestFailedError):
        return error.code in _RETRYABLE
    return isinstance(error, ServerUnavailableError)


def from_triton(error: InferenceServerException, *, url: str, model: str, timeout: float) -> DetectorError:
    """Says in plain words what a gRPC error means.

    Args:
        error: The error that tritonclient raised.
        url: HOST:PORT of the server.
        model: Name of the model that was asked.
        timeout: Deadline of the request, in seconds.
    """
    code = str(error.status()).rpartition(".")[2]
    detail = (error.message() or "no details").strip()
    match code:
        case "UNAVAILABLE":
            reason = detail.rpartition(": ")[2]
            return ServerUnavailableError(
                f"no server answers at {url} ({reason}); start one with `python -m server` or give the host and gRPC"
                " port of one: --url HOST:PORT"
            )
        case "DEADLINE_EXCEEDED":
            fix = "ask for less at a time (batch size, requests in flight) or allow a longer timeout"
            return RequestFailedError(f"no answer from {url} within {timeout:g} s; {fix}", code)
        case "NOT_FOUND" if "no available version" in detail:  # what a server says while it loads or unloads a model
            return ServerUnavailableError(f"the server at {url} is starting or stopping ({detail})")
        case "NOT_FOUND":
            return RequestFailedError(f"the server at {url} has no model {model!r} ({detail})", code)
        case "UNIMPLEMENTED":
            return RequestFailedError(f"{url} is not the gRPC port of a Triton server ({detail})", code)
        case _:
            return RequestFailedError(f"the server at {url} failed the request: {code}: {detail}", code)
