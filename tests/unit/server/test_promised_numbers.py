"""Numbers of the launcher that users rely on, by value; docs/ and the changelog have to follow a change."""

from pathlib import Path
from typing import Any

import pytest

from server.supervision.health import Policy
from server.supervision.process import LOG_LEVELS, Options
from tests.constants import constant

NUMBERS: dict[str, Any] = {
    "supervision.restarts.GIVE_UP_AFTER": 5,
    "supervision.restarts.STEADY_AFTER": 10.0,
    "supervision.restarts.LONGEST_PAUSE": 60.0,
    "supervision.supervisor.TICK": 0.1,
    "supervision.supervisor.COUNTS_INTERVAL": 1.0,
    "supervision.supervisor.REMINDER_INTERVAL": 15.0,
    "supervision.process.KILL_AFTER": 3.0,
    "supervision.process.STUB_PROGRAM": "triton_python_backend_stub",
    "access.ADMINISTRATION": ("shared-memory", "model-repository", "trace", "logging"),
    "repository.ENSEMBLE": "deepfake_detector",
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_the_one_that_was_promised(name: str) -> None:
    assert constant(f"server.{name}") == NUMBERS[name]


def test_how_patient_the_supervision_is() -> None:
    policy = Policy()
    assert (policy.probe_interval, policy.probe_timeout, policy.failures) == (5.0, 30.0, 2)
    assert (policy.stall, policy.share) == (60.0, 0.02)


def test_a_server_s_options_are_careful_where_nothing_is_said() -> None:
    options = Options(Path(), "127.0.0.1", {})
    assert (options.config_name, options.log_level, options.drain_seconds) == ("", "info", 10)
    assert (options.extra, options.http_inference) == ((), False)


def test_each_log_level_shows_those_before_it() -> None:
    assert LOG_LEVELS == {
        "error": ("--log-info=false", "--log-warning=false"),
        "warning": ("--log-info=false",),
        "info": (),
        "verbose": ("--log-verbose=1",),
    }
