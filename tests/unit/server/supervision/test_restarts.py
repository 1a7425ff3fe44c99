"""A server that starts is started again for ever, ever more slowly; one that does not start is given up."""

import pytest

from server.supervision.restarts import GIVE_UP_AFTER, LONGEST_PAUSE, STEADY_AFTER, Restarts

DIGEST = "ab" * 32


def after(*served: float | None) -> Restarts:
    restarts = Restarts()
    for seconds in served:
        restarts.server_ended(seconds, "")
    return restarts


def test_the_pause_doubles_while_servers_end_soon() -> None:
    assert [after(*[1.0] * count).pause for count in range(1, 10)] == [
        0,
        1,
        2,
        4,
        8,
        16,
        32,
        LONGEST_PAUSE,
        LONGEST_PAUSE,
    ]
    assert after(*[1.0] * 5000).pause == LONGEST_PAUSE


def test_a_server_that_does_start_is_never_given_up() -> None:
    assert not after(*[0.0] * 1000).hopeless
    assert not after(*[1.0, None, None, None, None] * 100).hopeless


def test_starts_that_fail_in_a_row_are_given_up() -> None:
    assert not after(1.0, *[None] * (GIVE_UP_AFTER - 1)).hopeless
    assert after(1.0, *[None] * GIVE_UP_AFTER).hopeless


@pytest.mark.parametrize(("served", "in_a_row"), [(STEADY_AFTER, 4), (STEADY_AFTER + 0.1, 1), (None, 4)])
def test_a_steady_service_makes_earlier_ends_forgotten(served: float | None, in_a_row: int) -> None:
    restarts = after(1.0, 1.0, 1.0, served)
    assert restarts.in_a_row == in_a_row
    assert restarts.total == 4


def test_a_crash_loop_is_told_with_the_request_that_was_under_way() -> None:
    restarts = Restarts()
    restarts.server_ended(100.0, "")
    assert restarts.describe("it died") == "RESTARTING because it died"
    restarts.server_ended(1.0, DIGEST)
    assert restarts.describe("it died") == (
        "RESTARTING in 1 s because it died (number 2 in a row, 2 in all); "
        f"under way was the request with SHA-256 {DIGEST}"
    )


def test_the_next_server_is_told_for_its_metrics() -> None:
    assert Restarts().environment == {"DEEPFAKE_DETECTOR_RESTARTS": "0", "DEEPFAKE_DETECTOR_LAST_REQUEST": ""}
    restarts = Restarts()
    restarts.server_ended(1.0, "")
    restarts.server_ended(1.0, DIGEST)
    assert restarts.environment == {"DEEPFAKE_DETECTOR_RESTARTS": "2", "DEEPFAKE_DETECTOR_LAST_REQUEST": DIGEST}
    restarts.server_ended(1.0, "")  # which no request is to be blamed for
    assert restarts.environment == {"DEEPFAKE_DETECTOR_RESTARTS": "3", "DEEPFAKE_DETECTOR_LAST_REQUEST": ""}
