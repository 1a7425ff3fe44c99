"""When a server that answers badly, or not at all, is worse than a restart."""

import pytest

from server.supervision.health import Health, Policy
from server.supervision.probe import Kind, Outcome

POLICY = Policy(probe_interval=5, failures=2, stall=60, share=0.02)


def health() -> Health:
    return Health(POLICY, progressed=0.0)


def outcome(kind: Kind, seconds: float = 0.01) -> Outcome:
    return Outcome(kind, f"it is {kind.value}", seconds)


@pytest.mark.parametrize("kind", [Kind.FAILED, Kind.UNREACHABLE])
def test_failures_in_a_row_are_a_verdict(kind: Kind) -> None:
    state = health()
    state.saw_outcome(outcome(kind), 1.0)
    assert state.verdict(1.0) is None
    assert state.next_probe == 2.0  # looked at again soon
    state.saw_outcome(outcome(kind), 2.0)
    assert state.verdict(2.0) == f"2 real inferences in a row failed: it is {kind.value}"


def test_an_answer_makes_failures_forgotten() -> None:
    state = health()
    for now in range(10):
        state.saw_outcome(outcome(Kind.FAILED), now)
        state.saw_outcome(outcome(Kind.ANSWERED), now)
    assert state.verdict(10.0) is None


def test_a_probe_that_waits_while_no_model_answers_is_a_verdict_after_the_stall() -> None:
    state = health()
    state.started_probe(100.0)
    assert state.verdict(160.0) is None
    assert state.verdict(160.1) == "a real inference waits, and no model has answered anything for 60 s"


def test_silence_while_no_probe_waits_is_none() -> None:
    assert health().verdict(1e6) is None


def test_progress_of_any_model_puts_the_verdict_off() -> None:
    state = health()
    state.started_probe(0.0)
    state.saw_counts({"net": 1}, 50.0)
    assert state.verdict(110.0) is None
    state.saw_counts({"net": 1}, 109.0)  # the same counts are no progress
    assert state.verdict(110.1) is not None
    state.saw_counts({"net": 2}, 111.0)
    assert state.verdict(170.0) is None


def test_refusals_do_not_start_the_wait_anew_where_counts_stand_still() -> None:
    state = health()
    state.saw_counts({"net": 5}, 0.0)
    for now in range(0, 61, 5):
        state.started_probe(float(now))
        state.saw_outcome(outcome(Kind.BUSY), now + 0.01)
        state.saw_counts({"net": 5}, now + 0.02)
        assert state.verdict(float(now)) is None
    assert state.verdict(60.1) is not None


def test_overload_alone_is_no_verdict() -> None:
    state = health()
    for now in range(0, 1000, 5):
        state.saw_counts({"net": now}, now)
        state.started_probe(now)
        state.saw_outcome(outcome(Kind.BUSY), now + 0.01)
        assert state.verdict(now + 1) is None


def test_an_admission_that_hears_nothing_while_it_refuses_is_a_verdict_whatever_the_models_count() -> None:
    state = health()
    for now in range(0, 61, 5):
        state.saw_counts({"net": now}, now)
        state.started_probe(now)
        state.saw_outcome(outcome(Kind.STUCK), now)
        assert state.verdict(now) is None
    state.saw_counts({"net": 65}, 65)
    assert state.verdict(60.1) == "requests are refused, and nothing has left for 60 s"


@pytest.mark.parametrize("kind", [Kind.BUSY, Kind.ANSWERED])
def test_one_that_is_merely_slow_is_not_stuck(kind: Kind) -> None:
    state = health()
    for now in range(0, 300, 5):
        state.saw_counts({"net": now}, now)
        state.started_probe(now)
        state.saw_outcome(outcome(kind if now % 50 == 0 else Kind.STUCK), now)
        assert state.verdict(now) is None


def test_an_answer_ends_the_wait() -> None:
    state = health()
    state.started_probe(0.0)
    state.saw_outcome(outcome(Kind.ANSWERED), 30.0)
    assert state.waiting_since is None
    state.started_probe(100.0)
    assert state.verdict(159.0) is None


@pytest.mark.parametrize(("seconds", "pause"), [(0.01, 5.0), (0.1, 5.0), (0.2, 10.0), (2.0, 100.0)])
def test_probing_takes_its_share_of_the_server_s_time_and_no_more(seconds: float, pause: float) -> None:
    state = health()
    state.saw_outcome(outcome(Kind.ANSWERED, seconds), 1000.0)
    assert state.next_probe == 1000.0 + pause


def test_after_a_failure_the_next_probe_comes_within_a_second() -> None:
    state = Health(Policy(probe_interval=0.5), progressed=0.0)
    state.saw_outcome(outcome(Kind.FAILED), 10.0)
    assert state.next_probe == 10.5


def test_the_policy_is_as_patient_as_the_documentation_says() -> None:
    assert Policy() == Policy(probe_interval=5.0, probe_timeout=30.0, failures=2, stall=60.0, share=0.02)


def test_an_answer_to_a_probe_is_progress() -> None:
    state = health()
    state.saw_outcome(outcome(Kind.ANSWERED), 100.0)
    state.started_probe(90.0)
    assert state.verdict(160.0) is None
    assert state.verdict(160.1) is not None


def test_stuck_since_is_the_first_refusal_in_a_row() -> None:
    state = health()
    state.saw_outcome(outcome(Kind.STUCK), 10.0)
    state.saw_outcome(outcome(Kind.STUCK), 50.0)
    assert state.stuck_since == 10.0
    assert state.verdict(70.0) is None
    assert state.verdict(70.1) is not None
