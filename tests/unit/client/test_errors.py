"""What gRPC's errors mean in plain words, whether they are tried again, and what they say of their server."""

import pytest
from deepfake_client import (
    AccessDeniedError,
    DetectorError,
    InvalidResponseError,
    RequestFailedError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from deepfake_client.errors import (
    ConnectionLostError,
    FailureKind,
    ServerDiedError,
    access_denied,
    all_servers_failed,
    failure_kind,
    from_triton,
    is_retryable,
    is_unavailable,
)
from tritonclient.utils import InferenceServerException


def explained(code: str, message: str) -> DetectorError:
    error = InferenceServerException(message, status=f"StatusCode.{code}")
    return from_triton(error, url="h:1", model="net", timeout=2.5)


UNAVAILABLE = FailureKind.UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "message", "kind", "says", "fault", "retryable"),
    [
        (
            "UNAVAILABLE",
            "This protocol is restricted, expecting header 'triton-grpc-protocol-token'",
            AccessDeniedError,
            "--header triton-grpc-protocol-token=VALUE",
            UNAVAILABLE,
            False,
        ),
        (
            "UNAUTHENTICATED",
            "who?",
            AccessDeniedError,
            "refuses this client: UNAUTHENTICATED: who?",
            UNAVAILABLE,
            False,
        ),
        ("PERMISSION_DENIED", "no", AccessDeniedError, "--header NAME=VALUE", UNAVAILABLE, False),
        ("UNAVAILABLE", "OVERLOADED: full", ServerOverloadedError, "is overloaded", FailureKind.OVERLOADED, True),
        (
            "UNAVAILABLE",
            "in ensemble 'x', Exceeds maximum queue size",
            ServerOverloadedError,
            "is overloaded",
            FailureKind.OVERLOADED,
            True,
        ),
        ("UNAVAILABLE", "the server is stopping", ServerUnavailableError, "starting or stopping", UNAVAILABLE, True),
        ("UNAVAILABLE", "model is not ready", ServerUnavailableError, "starting or stopping", UNAVAILABLE, True),
        ("UNAVAILABLE", "Socket closed", ConnectionLostError, "was lost (Socket closed)", UNAVAILABLE, True),
        ("UNAVAILABLE", "GOAWAY\nreceived", ConnectionLostError, "was lost", UNAVAILABLE, True),
        ("UNAVAILABLE", "first\nConnection reset by peer", ConnectionLostError, "was lost", UNAVAILABLE, True),
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused",
            ServerUnavailableError,
            "no server answers at h:1 (Connection refused); start one",
            UNAVAILABLE,
            True,
        ),
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: connection closed",
            ServerUnavailableError,
            "no server answers",
            UNAVAILABLE,
            True,
        ),
        ("DEADLINE_EXCEEDED", "late", RequestFailedError, "no answer from h:1 within 2.5 s", FailureKind.TIMEOUT, True),
        (
            "NOT_FOUND",
            "Request for unknown model: 'net' has no available versions",
            ServerUnavailableError,
            "starting or stopping",
            UNAVAILABLE,
            True,
        ),
        ("NOT_FOUND", "unknown model", RequestFailedError, "has no model 'net' (unknown model)", UNAVAILABLE, False),
        (
            "INVALID_ARGUMENT",
            "in ensemble 'x', expected 3 inputs but got 2",
            RequestFailedError,
            "lost a part of the request",
            FailureKind.TRANSIENT,
            True,
        ),
        ("INVALID_ARGUMENT", "bad", RequestFailedError, "INVALID_ARGUMENT: bad", FailureKind.REQUEST, False),
        ("UNIMPLEMENTED", "what?", RequestFailedError, "not the gRPC port of a Triton server", UNAVAILABLE, False),
        ("RESOURCE_EXHAUSTED", "memory", RequestFailedError, "RESOURCE_EXHAUSTED", FailureKind.OVERLOADED, True),
        ("INTERNAL", "stub died", RequestFailedError, "INTERNAL: stub died", FailureKind.TRANSIENT, True),
        ("UNKNOWN", "?", RequestFailedError, "UNKNOWN: ?", FailureKind.TRANSIENT, True),
        ("ABORTED", "?", RequestFailedError, "ABORTED", FailureKind.TRANSIENT, True),
        ("CANCELLED", "?", RequestFailedError, "CANCELLED", FailureKind.TRANSIENT, True),
        ("OUT_OF_RANGE", "?", RequestFailedError, "OUT_OF_RANGE", FailureKind.REQUEST, False),
    ],
)
def test_each_error_of_a_server_is_told_apart(
    code: str, message: str, kind: type[DetectorError], says: str, fault: FailureKind, retryable: bool
) -> None:
    error = explained(code, message)
    assert type(error) is kind
    assert says in str(error)
    assert failure_kind(error) is fault
    assert is_retryable(error) is retryable
    assert is_unavailable(error) is isinstance(error, ServerUnavailableError)


@pytest.mark.parametrize(
    "words",
    [
        *("Socket closed", "Cancelling all calls", "Connection reset by peer", "Broken pipe", "End of TCP stream"),
        *("Stream removed", "GOAWAY received"),
    ],
)
def test_a_connection_that_broke_is_told_from_one_that_could_not_be_made(words: str) -> None:
    assert type(explained("UNAVAILABLE", f"recvmsg: {words}")) is ConnectionLostError
    for before in ("failed to connect to all addresses", "last error: x", "DNS resolving failed"):
        assert type(explained("UNAVAILABLE", f"{before}; {words}")) is ServerUnavailableError
    assert isinstance(explained("INTERNAL", words), RequestFailedError)


def test_an_answer_that_is_too_large_is_not_the_contract_s_and_a_request_that_is_too_large_is_overload() -> None:
    assert type(explained("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (5 vs. 4)")) is (
        InvalidResponseError
    )
    assert type(explained("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (5 vs. 4)")) is (
        RequestFailedError
    )


def test_an_ensemble_s_own_fault_is_an_internal_one() -> None:
    error = explained("INVALID_ARGUMENT", "in ensemble 'x',\nunexpected deadlock")
    assert isinstance(error, RequestFailedError)
    assert error.code == "INTERNAL"


def test_a_server_s_words_are_cut_and_made_printable() -> None:
    error = explained("INTERNAL", "[request id: <id_unknown>] \x1b[31m" + "x" * 5000)
    assert "id_unknown" not in str(error)
    assert str(error).isprintable()
    assert 1900 < str(error).count("x") <= 2000
    assert "no details" in str(explained("INTERNAL", ""))


@pytest.mark.parametrize(
    ("error", "fault", "retryable"),
    [
        (InvalidResponseError("odd"), FailureKind.TRANSIENT, False),
        (ServerDiedError("it died"), FailureKind.TRANSIENT, False),
        (ServerUnavailableError("gone"), UNAVAILABLE, True),
        (access_denied("h:1", "no certificate"), UNAVAILABLE, False),
    ],
)
def test_errors_of_the_client_s_own(error: DetectorError, fault: FailureKind, retryable: bool) -> None:
    assert failure_kind(error) is fault
    assert is_retryable(error) is retryable
    assert not is_retryable(ValueError())


def test_where_no_server_answers_each_says_why() -> None:
    error = all_servers_failed({"a:1": DetectorError("gone"), "b:1": DetectorError("full")}, 3)
    assert isinstance(error, ServerUnavailableError)
    assert str(error) == "none of the 3 servers answers:\n  a:1: gone\n  b:1: full"
    assert str(access_denied("h:1", "no certificate")) == "no connection to the server at h:1: no certificate"
