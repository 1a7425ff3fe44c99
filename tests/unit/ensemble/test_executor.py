"""Every request that a step lets in is answered and leaves; the others are refused at once."""

from types import SimpleNamespace
from typing import Any

import pytest

from ensemble.admission import RequestExecutor


def error(message: str, code: str) -> tuple[str, str]:
    return message, code


error.UNAVAILABLE, error.INTERNAL = "unavailable", "internal"  # type: ignore[attr-defined]
BACKEND = SimpleNamespace(
    InferenceResponse=lambda error: error, TritonError=error, TRITONSERVER_RESPONSE_COMPLETE_FINAL=1
)


class Admission:
    """Has room for requests of at most two images."""

    def __init__(self) -> None:
        self.released: list[int] = []

    def admit(self, images: int, size: int) -> tuple[int, str | None]:
        return (7, None) if images <= 2 else (0, "full")

    def release(self, permit: int) -> None:
        self.released.append(permit)


class Request:
    """One that notes what was sent, and what had been released before."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.sent: list[tuple[Any, int, list[int]]] = []

    def get_response_sender(self) -> "Request":
        return self

    def send(self, response: Any, flags: int) -> None:
        self.sent.append((response, flags, list(self.admission.released)))


@pytest.fixture
def admission() -> Admission:
    return Admission()


@pytest.fixture
def executor(admission: Admission) -> RequestExecutor:
    return RequestExecutor("step", admission, 1, BACKEND)  # type: ignore[arg-type]


def test_an_admitted_request_is_answered_after_its_permit_is_back(
    admission: Admission, executor: RequestExecutor
) -> None:
    request = Request(admission)
    assert executor.admit(request, 2, 10, lambda permit: f"answer to {permit}") is None
    executor.close()
    assert request.sent == [("answer to 7", 1, [7])]


def test_a_request_without_room_is_refused_at_once(admission: Admission, executor: RequestExecutor) -> None:
    request = Request(admission)
    assert executor.admit(request, 3, 10, str) == ("full", "unavailable")
    executor.close()
    assert (request.sent, admission.released) == ([], [])


def test_a_failure_is_an_answer_too(admission: Admission, executor: RequestExecutor) -> None:
    request, after = Request(admission), Request(admission)

    def fails(permit: int) -> Any:
        raise ValueError(f"no {permit}")

    executor.answer(request, 9, fails)
    executor.answer(after, 8, str)
    executor.close()
    assert request.sent == [(("step: ValueError: no 9", "internal"), 1, [9])]
    assert after.sent == [("8", 1, [9, 8])]
