"""What can go wrong with a request.

    DetectorError
    ├── ServerUnavailableError       nothing answers at the address, or the server is starting or stopping
    │   └── ServerOverloadedError    the server turned the request away, because its queue is full
    ├── RequestFailedError           the server answered the request with an error, or not before its deadline
    │   └── AccessDeniedError        TLS, the client certificate or the token do not fit: waiting mends nothing
    └── InvalidResponseError         the server answered something other than the detector's contract

A file that cannot be read raises the `OSError` of reading it. An image that the server cannot score is no error: its
verdict has another `status` than "ok".
"""

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Self

from tritonclient.utils import InferenceServerException

from .contract.contract import refusal_code
from .text import printable

_RETRYABLE = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "ABORTED", "CANCELLED"}
)
"""gRPC codes after which the same request may succeed. Inference is idempotent, so trying again is always safe.
INTERNAL and UNKNOWN belong here: a step of the server that died answers so until the server has been restarted."""


_ENSEMBLE_FAULT = re.compile(r"in ensemble '.*(expected \d+ inputs? but got \d+|unexpected deadlock)", re.DOTALL)
"""How Triton says that the outputs of a step got lost inside an ensemble. The request was right: it is sent again."""

_LOST = re.compile(
    r"(?!.*(last error|failed to connect|resolving))"
    r".*(closed|cancelling all calls|reset by peer|broken pipe|end of tcp stream|stream removed|goaway)",
    re.DOTALL | re.IGNORECASE,
)
"""How gRPC says that a connection broke while the server had the request, and not that none could be made."""

_TOO_LARGE = "CLIENT: Received message larger than max"
"""How gRPC says that it did not take an answer. Of a request that a server did not take it says SERVER."""

_MOST_DETAIL = 2000
"""Most characters of a server's own words that are passed on."""


class DetectorError(Exception):
    """Base of every error of this package."""


class ServerUnavailableError(DetectorError):
    """Nothing answers at the address, or the server is starting, stopping or overloaded."""


class ServerOverloadedError(ServerUnavailableError):
    """The server turned the request away, because its queue is full."""


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


class AccessDeniedError(RequestFailedError):
    """TLS, the client certificate or the token do not fit. It is not retried, and ends a run."""


class InvalidResponseError(DetectorError):
    """The server answered something other than the detector's contract."""


class ConnectionLostError(ServerUnavailableError):
    """The connection was lost while the server had the request: as a rule, the server died."""


class ServerDiedError(DetectorError):
    """The server died again and again while it had this request. The clients make rows of it and never raise it."""


class FailureKind(Enum):
    """What a failed request says about its server."""

    UNAVAILABLE = auto()  # the next request will fail as well
    TRANSIENT = auto()  # the next request may fail as well
    TIMEOUT = auto()  # the server may be slow, or hang
    OVERLOADED = auto()  # the server is well and has more work than it can do
    REQUEST = auto()  # nothing: the request itself is wrong


def failure_kind(error: DetectorError) -> FailureKind:
    """What a failed request says about its server."""
    match error:
        case ServerOverloadedError() | RequestFailedError(code="RESOURCE_EXHAUSTED"):
            return FailureKind.OVERLOADED
        case ServerUnavailableError() | AccessDeniedError() | RequestFailedError(code="NOT_FOUND" | "UNIMPLEMENTED"):
            return FailureKind.UNAVAILABLE
        case RequestFailedError(code="DEADLINE_EXCEEDED"):
            return FailureKind.TIMEOUT
        case RequestFailedError(code=code) if code not in _RETRYABLE:
            return FailureKind.REQUEST
        case _:
            return FailureKind.TRANSIENT


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, AccessDeniedError):
        return False
    if isinstance(error, RequestFailedError):
        return error.code in _RETRYABLE
    return isinstance(error, ServerUnavailableError)


def access_denied(address: object, fault: str) -> AccessDeniedError:
    """The error where something about TLS keeps a client from a server."""
    return AccessDeniedError(f"no connection to the server at {address}: {fault}", "UNAVAILABLE")


def is_unavailable(error: DetectorError) -> bool:
    """Whether no server was there to take the request."""
    return isinstance(error, ServerUnavailableError)


def all_servers_failed(reasons: Mapping[str, DetectorError], servers: int) -> ServerUnavailableError:
    """The error where several servers have failed, with the reason of each by its address."""
    lines = "".join(f"\n  {address}: {error}" for address, error in reasons.items())
    return ServerUnavailableError(f"none of the {servers} servers answers:{lines}")


def from_triton(error: InferenceServerException, *, url: str, model: str, timeout: float) -> DetectorError:
    """Says in plain words what a gRPC error means.

    Args:
        error: The error that tritonclient raised.
        url: HOST:PORT of the server.
        model: Name of the model that was asked.
        timeout: Deadline of the request, in seconds.
    """
    code = str(error.status()).rpartition(".")[2]
    words = (error.message() or "no details").replace("[request id: <id_unknown>] ", "").strip()
    detail = printable(words[:_MOST_DETAIL])
    match code:
        case "RESOURCE_EXHAUSTED" if _TOO_LARGE in detail:
            return InvalidResponseError(
                f"the server at {url} answers with more than {model!r} can have to say ({detail}); check which server"
                " answers there, and the model's name"
            )
        case "UNAVAILABLE" if "protocol is restricted" in detail:
            header = detail.rpartition("header ")[2].strip("'\". ")
            return AccessDeniedError(
                f"the server at {url} wants a token that this client does not give, or gives wrongly ({detail}); give"
                f" the value that the server was started with: --header {header}=VALUE",
                code,
            )
        case "UNAUTHENTICATED" | "PERMISSION_DENIED":
            fix = "give the token that it wants: --header NAME=VALUE"
            return AccessDeniedError(f"the server at {url} refuses this client: {code}: {detail}; {fix}", code)
        case "UNAVAILABLE" if refusal_code(detail) is not None:
            fix = "ask for less at a time (requests in flight), or add servers"
            return ServerOverloadedError(f"the server at {url} is overloaded ({detail}); {fix}")
        case "UNAVAILABLE" if "is stopping" in detail or "is not ready" in detail:
            return ServerUnavailableError(f"the server at {url} is starting or stopping ({detail})")
        case "UNAVAILABLE" if _LOST.match(detail):
            return ConnectionLostError(f"the connection to the server at {url} was lost ({detail}); see its log")
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
        case "INVALID_ARGUMENT" if _ENSEMBLE_FAULT.search(detail):
            return RequestFailedError(f"the server at {url} lost a part of the request: {detail}", "INTERNAL")
        case "UNIMPLEMENTED":
            return RequestFailedError(f"{url} is not the gRPC port of a Triton server ({detail})", code)
        case _:
            return RequestFailedError(f"the server at {url} failed the request: {code}: {detail}", code)
