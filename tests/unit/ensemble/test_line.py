"""Every request that a step lets in is answered and leaves; the others are refused at once."""

from types import SimpleNamespace
from typing import Any

import pytest

from ensemble.admission import Line


def error(message: str, code: str) -> tuple[str, str]:
    return message, code


error.UNAVAILABLE, error.INTERNAL = "unavailable", "internal"  # type: ignore[attr-defined]
BACKEND = SimpleNamespace(
    InferenceResponse=lambda error: error, TritonError=error, TRITONSERVER_RESPONSE_COMPLETE_FINAL=1
)


class Door:
    """Has room for requests of at most two images."""

    def __init__(self) -> None:
        self.released: list[int] = []

    def admit(self, images: int, size: int) -> tuple[int, str | None]:
        return (7, None) if images <= 2 else (0, "full")

    def release(self, ticket: int) -> None:
        self.released.append(ticket)


class Request:
    """One that notes what was sent, and what had been released before."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.sent: list[tuple[Any, int, list[int]]] = []

    def get_response_sender(self) -> "Request":
        return self

    def send(self, response: Any, flags: int) -> None:
        self.sent.append((response, flags, list(self.door.released)))


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def line(door: Door) -> Line:
    return Line("step", door, 1, BACKEND)  # type: ignore[arg-type]


def test_an_admitted_request_is_answered_after_its_ticket_is_back(door: Door, line: Line) -> None:
    request = Request(door)
    assert line.admit(request, 2, 10, lambda ticket: f"answer to {ticket}") is None
    line.close()
    assert request.sent == [("answer to 7", 1, [7])]


def test_a_request_without_room_is_refused_at_once(door: Door, line: Line) -> None:
    request = Request(door)
    assert line.admit(request, 3, 10, str) == ("full", "unavailable")
    line.close()
    assert (request.sent, door.released) == ([], [])


def test_a_failure_is_an_answer_too(door: Door, line: Line) -> None:
    request, after = Request(door), Request(door)

    def fails(ticket: int) -> Any:
        raise ValueError(f"no {ticket}")

    line.answer(request, 9, fails)
    line.answer(after, 8, str)
    line.close()
    assert request.sent == [(("step: ValueError: no 9", "internal"), 1, [9])]
    assert after.sent == [("8", 1, [9, 8])]
