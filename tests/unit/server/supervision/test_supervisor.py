"""The loop, with processes and probes that do as they are told: what it waits for, what it restarts, what it says."""

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from server.errors import GaveUpError, StartError
from server.supervision import restarts, supervisor
from server.supervision.health import Policy
from server.supervision.probe import Kind, Outcome
from server.supervision.process import Options
from server.supervision.stop import Stop
from server.supervision.supervisor import Supervisor, local_address

ALIVE: Any = type("Alive", (), {"pid": 76, "is_running": lambda _: True, "status": lambda _: "sleeping"})()
QUICK = Policy(probe_interval=0.0, probe_timeout=7.0, stall=0.3, share=1.0)


@dataclass
class Script:
    """What the servers do: one entry a start, the last one for all that follow.

    Attributes:
        outcomes: Of each start, the kinds of its probes; the last one for all that follow.
        seconds: How long each probe took.
        ends: Of each start, after how many looks at it the process ends; None: never.
    """

    outcomes: list[list[Kind]]
    ends: list[int | None] = field(default_factory=lambda: [None])
    status: str = "exit code 7"
    detail: str = "it is {}"
    errors: list[str] = field(default_factory=lambda: ["E: the reason"])
    seconds: float = 0.0
    counts: Callable[[], Any] = dict
    starts: int = -1
    timeouts: list[float] = field(default_factory=list)
    variables: list[dict[str, str]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    killed: int = 0
    stopped: list[bool] = field(default_factory=list)
    in_time: bool = True
    adopted_before_start: list[int] = field(default_factory=list)
    stubs: list[Any] = field(default_factory=list)
    at_ready: Callable[[], object] = list
    closed: int = 0


class FakeProcess:
    pid = 1

    def __init__(self, script: Script, options: Options, variables: dict[str, str]) -> None:
        self._script = script
        script.starts += 1
        script.variables.append(dict(variables))
        script.keys.append(options.key)
        self._looks = script.ends[min(script.starts, len(script.ends) - 1)]

    def exit_status(self) -> str | None:
        if self._looks is None:
            return None
        self._looks -= 1
        return self._script.status if self._looks < 0 else None

    def has_crashed(self) -> bool:
        return self._looks is not None and self._looks < 0 and self._script.status.startswith("killed by")

    def stubs(self) -> list[Any]:
        return [stub for stub in self._script.stubs if stub.is_running()]

    def stop(self, force: Stop) -> bool:
        self._script.stopped.append(force.is_set())
        return self._script.in_time

    def kill(self) -> None:
        self._script.killed += 1

    def error_lines(self) -> list[str]:
        return self._script.errors


class FakeProber:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._kinds = iter(script.outcomes[min(script.starts, len(script.outcomes) - 1)])
        self._last = Kind.ANSWERED

    def start(self, timeout: float) -> Any:
        self._script.timeouts.append(timeout)
        self._last = next(self._kinds, self._last)
        outcome = Outcome(self._last, self._script.detail.format(self._last.value), self._script.seconds)
        return type("Pending", (), {"outcome": lambda _: outcome})()

    def counts(self) -> Any:
        return self._script.counts()

    def close(self) -> None:
        self._script.closed += 1


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs a supervisor until it ends or has said or done enough; all that it said."""

    def start(
        script: Script,
        until: Callable[[list[str]], bool],
        policy: Policy = QUICK,
        longest_pause: float = 0.001,
        **options: Any,
    ) -> list[str]:
        def process(_: Any, options: Options, __: Any, variables: Any) -> FakeProcess:
            return FakeProcess(script, options, variables)

        monkeypatch.setattr(supervisor, "TritonProcess", process)
        monkeypatch.setattr(supervisor, "make_prober", lambda _: FakeProber(script))
        monkeypatch.setattr(supervisor, "adopt_orphans", lambda: script.adopted_before_start.append(script.starts))
        monkeypatch.setattr(supervisor, "TICK", 0.001)
        monkeypatch.setattr(supervisor, "COUNTS_INTERVAL", 0.01)
        monkeypatch.setattr(restarts, "LONGEST_PAUSE", longest_pause)
        said: list[str] = []
        installation: Any = None
        one = Supervisor(
            installation,
            Options(Path(), "127.0.0.1", {"grpc": 1, "http": 2, "metrics": 3}),
            say=said.append,
            show_log=lambda _: None,
            on_ready=lambda seconds: said.append("ready") or script.at_ready(),
            policy=policy,
            **options,
        )
        watcher = threading.Thread(target=_stop_when, args=(one, said, until), daemon=True)
        watcher.start()
        try:
            one.run()
        finally:
            one.stop.set()
            watcher.join(30)
        return said

    return start


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of the supervisor that is a second later each time that it is looked at, however busy this machine is."""
    seconds = itertools.count()
    monkeypatch.setattr(supervisor, "time", type("Time", (), {"monotonic": lambda: float(next(seconds))}))


def _stop_when(one: Supervisor, said: list[str], until: Callable[[list[str]], bool]) -> None:
    deadline = time.monotonic() + 60
    while not one.stop.is_set() and not until(said) and time.monotonic() < deadline:
        time.sleep(0.002)
    one.stop.set()


def test_it_is_ready_after_a_real_answer_and_stops_in_good_order(run: Callable[..., list[str]]) -> None:
    script = Script([[Kind.UNREACHABLE, Kind.BUSY, Kind.UNREACHABLE, Kind.ANSWERED]])
    said = run(script, lambda said: "ready" in said)
    assert said[0] == "ready"
    assert said[1] == "stopping: waiting for requests in flight"
    assert said[2].startswith("stopped in ")
    assert (script.stopped, script.killed, script.starts) == ([False], 0, 0)
    assert script.adopted_before_start == [-1]  # so that stubs of a killed server can be reaped


def test_a_stop_that_takes_too_long_is_told(run: Callable[..., list[str]]) -> None:
    said = run(Script([[Kind.ANSWERED]], in_time=False), lambda said: "ready" in said)
    assert said[-1].startswith("KILLED after ")
    assert "requests in flight were lost" in said[-1]


def test_a_first_start_whose_inference_fails_is_an_error_with_the_server_s_own(run: Callable[..., list[str]]) -> None:
    script = Script([[Kind.FAILED, Kind.FAILED]])
    with pytest.raises(StartError, match=r"did not start: .* a real inference fails: it is failed\nE: the reason"):
        run(script, lambda _: False)
    assert (script.starts, script.killed) == (0, 1)


def test_one_failed_inference_while_it_loads_is_no_verdict(run: Callable[..., list[str]]) -> None:
    assert run(Script([[Kind.FAILED, Kind.ANSWERED]]), lambda said: "ready" in said)[0] == "ready"


def test_a_server_that_ends_while_it_loads_is_an_error(run: Callable[..., list[str]]) -> None:
    with pytest.raises(StartError, match=r"ended while it loaded the models \(exit code 7\)"):
        run(Script([[Kind.UNREACHABLE]], ends=[3]), lambda _: False)


def test_a_first_start_that_crashes_is_tried_again(run: Callable[..., list[str]]) -> None:
    script = Script([[Kind.UNREACHABLE], [Kind.ANSWERED]], ends=[3, None], status="killed by SIGABRT")
    said = run(script, lambda said: "ready" in said)
    assert said[0] == "RESTARTING because tritonserver ended while it loaded the models (killed by SIGABRT)"
    always = Script([[Kind.UNREACHABLE]], ends=[3], status="killed by SIGABRT")
    with pytest.raises(GaveUpError, match=r"gave up after 5 failed starts in a row; the last: .*SIGABRT"):
        run(always, lambda _: False)


LOST = "Stub process 'voter_0_0' is not healthy."


@pytest.mark.parametrize(
    ("first", "ends", "errors", "told"),
    [
        (Kind.UNREACHABLE, 3, [f"E1: failed to run warmup sample 'black': {LOST}"], "ended while it loaded the models"),
        (Kind.FAILED, None, [], f"a real inference fails: INTERNAL: {LOST}"),
    ],
)
def test_a_first_start_that_loses_a_stub_is_tried_again(
    first: Kind, ends: int | None, errors: list[str], told: str, run: Callable[..., list[str]]
) -> None:
    """A busy machine may keep a stub from its sign of life for the second that Triton grants."""
    script = Script([[first], [Kind.ANSWERED]], ends=[ends, None], errors=errors, detail=f"INTERNAL: {LOST}")
    said = run(script, lambda said: "ready" in said)
    assert said[0].startswith("RESTARTING because ")
    assert told in said[0]


def test_a_start_without_an_answer_in_time_is_an_error(
    run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()  # so that it is looked at however busy this machine is
    monkeypatch.setattr(supervisor, "time", type("Time", (), {"monotonic": lambda: next(clock) / 100}))
    told = r"no answer within 0\.05 s; raise --startup-timeout if it only is slow; the last error: it is busy"
    with pytest.raises(StartError, match=told):
        run(Script([[Kind.BUSY]]), lambda _: False, startup_seconds=0.05)


@pytest.mark.usefixtures("clock")
def test_a_long_start_is_told_again_and_again(run: Callable[..., list[str]]) -> None:
    said = run(Script([[Kind.UNREACHABLE]]), lambda said: len(said) >= 3, startup_seconds=1e9)
    assert said[:3] == [f"still loading the models ({seconds} s)" for seconds in (16, 32, 48)]


def test_a_server_that_ends_is_started_again_for_ever_and_told(run: Callable[..., list[str]]) -> None:
    script = Script([[Kind.ANSWERED]], ends=[2])
    said = run(script, lambda said: said.count("ready") >= 12)
    restarted = [line for line in said if line.startswith("RESTARTING")]
    assert len(restarted) >= 11
    assert restarted[0] == "RESTARTING because tritonserver ended (exit code 7)"
    assert "(number 11 in a row, 11 in all)" in restarted[10]
    assert [each["DEEPFAKE_DETECTOR_RESTARTS"] for each in script.variables[:3]] == ["0", "1", "2"]
    assert len(set(script.keys)) == len(script.keys)  # a new key for each start
    assert script.killed >= 11


def test_starts_that_fail_in_a_row_are_given_up(run: Callable[..., list[str]]) -> None:
    script = Script([[Kind.ANSWERED], [Kind.FAILED]], ends=[2, None])
    with pytest.raises(GaveUpError, match=r"gave up after 5 failed starts in a row; the last: .*\nE: the reason"):
        run(script, lambda _: False)
    assert script.starts == 5


def test_failures_are_forgotten_by_an_answer(run: Callable[..., list[str]]) -> None:
    kinds = [Kind.ANSWERED, *itertools.chain.from_iterable([[Kind.FAILED, Kind.ANSWERED]] * 20)]
    script = Script([kinds])
    policy = Policy(probe_interval=0.0, stall=60, share=1.0)
    assert "RESTARTING" not in "".join(run(script, lambda _: len(script.timeouts) > 41, policy))


def test_two_failures_in_a_row_are_a_restart(run: Callable[..., list[str]]) -> None:
    said = run(Script([[Kind.ANSWERED, Kind.FAILED, Kind.FAILED]]), lambda said: len(said) > 1)
    assert said[1] == "RESTARTING because 2 real inferences in a row failed: it is failed"


def test_the_stall_grows_with_the_largest_batch_and_the_time_of_an_image(run: Callable[..., list[str]]) -> None:
    refusals = [Kind.ANSWERED, Kind.BUSY]
    began = time.monotonic()
    # One image takes 0.01 s, so a full batch of 32 takes 0.32 s; twice that is more than the policy's 0.3 s.
    said = run(Script([refusals], seconds=0.01), lambda said: len(said) > 1, max_batch_size=32)
    assert time.monotonic() - began > 0.64
    assert "no model has answered anything" in said[1]


def test_probes_have_the_policy_s_timeout_once_it_is_ready(run: Callable[..., list[str]]) -> None:
    script = Script([[Kind.ANSWERED]])
    run(script, lambda _: len(script.timeouts) > 3, startup_seconds=900.0)
    assert 800 < script.timeouts[0] <= 900
    assert set(script.timeouts[1:]) == {7.0}


@pytest.mark.usefixtures("clock")
def test_progress_by_the_statistics_puts_a_restart_off(run: Callable[..., list[str]]) -> None:
    counted: list[int] = []

    def counts() -> dict[str, int]:
        counted.append(len(counted))
        return {"net": counted[-1]}

    script = Script([[Kind.ANSWERED, Kind.BUSY]], counts=counts)
    patient = Policy(probe_interval=0.0, stall=5.0, share=1.0)
    said = run(script, lambda said: len(counted) > 100 or len(said) > 1, patient)
    assert said[0] == "ready"
    assert not any("RESTARTING" in line for line in said)


@pytest.mark.usefixtures("clock")
def test_a_server_without_progress_is_restarted_after_the_stall(run: Callable[..., list[str]]) -> None:
    script = Script([[Kind.ANSWERED, Kind.BUSY]], counts=lambda: {"net": 7})
    said = run(script, lambda said: len(said) > 1, Policy(probe_interval=0.0, stall=5.0, share=1.0))
    assert said[1].startswith("RESTARTING because a real inference waits, and no model has answered anything for 6 s")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("0.0.0.0", "127.0.0.1:1"),
        ("::", "[::1]:1"),
        ("127.0.0.1", "127.0.0.1:1"),
        ("::1", "[::1]:1"),
        ("localhost", "localhost:1"),
    ],
)
def test_the_address_under_which_this_machine_reaches_a_server(host: str, address: str) -> None:
    assert local_address(host, 1) == address


def test_a_model_s_process_that_dies_is_a_restart_even_if_it_does_as_soon_as_the_server_is_ready(
    run: Callable[..., list[str]],
) -> None:
    stub = Mock(pid=77, **{"is_running.return_value": True, "status.return_value": "sleeping"})
    script = Script([[Kind.ANSWERED]], stubs=[ALIVE, stub])
    script.at_ready = lambda: setattr(stub.is_running, "return_value", False)
    said = run(script, lambda said: len(said) > 1)
    assert said[1] == "RESTARTING because a model's stub (process 77) died"


@pytest.mark.usefixtures("clock")
def test_a_server_that_has_just_answered_is_left_alone_for_the_interval(run: Callable[..., list[str]]) -> None:
    """It ends after 990 looks, and before the probe that would follow."""
    script = Script([[Kind.ANSWERED]], ends=[990])
    policy = Policy(probe_interval=1000.0, probe_timeout=7.0)
    assert "ready" in run(script, lambda said: len(said) > 1, policy)
    assert 7.0 not in script.timeouts


def test_it_is_waited_between_ends_that_follow_each_other(
    run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    class Watched(Stop):
        def wait(self, seconds: float) -> bool:
            waited.append(seconds)
            return super().wait(seconds)

    monkeypatch.setattr(supervisor, "Stop", Watched)
    said = run(Script([[Kind.ANSWERED]], ends=[2]), lambda said: said.count("ready") >= 3, longest_pause=0.2)
    told = [line for line in said if line.startswith("RESTARTING in 0.2 s")]
    assert told
    assert waited.count(0.2) == len(told)


@pytest.mark.parametrize(
    ("extra", "kind", "address", "headers"),
    [
        ((), "Prober", "127.0.0.1:1", {}),
        (("--grpc-restricted-protocol=inference:a=b",), "Prober", "127.0.0.1:1", {"triton-grpc-protocol-a": "b"}),
        (("--grpc-use-ssl=true",), "HttpProber", "127.0.0.1:2", {"deepfake-detector-key": "K"}),
    ],
)
def test_the_prober_goes_to_the_server_s_own_port_with_the_key_to_it(
    monkeypatch: pytest.MonkeyPatch, extra: tuple[str, ...], kind: str, address: str, headers: dict[str, str]
) -> None:
    made = []
    for name in ("Prober", "HttpProber"):
        monkeypatch.setattr(supervisor, name, lambda *arguments, name=name: made.append((name, *arguments)))
    supervisor.make_prober(Options(Path(), "0.0.0.0", {"grpc": 1, "http": 2, "metrics": 3}, extra=extra, key="K"))
    assert made == [(kind, address, headers)]


@pytest.mark.usefixtures("clock")
def test_a_server_that_answers_slowly_is_left_alone_for_as_long_as_that_calls_for(
    run: Callable[..., list[str]],
) -> None:
    script = Script([[Kind.ANSWERED]], seconds=10.0, ends=[490])
    policy = Policy(probe_interval=0.0, probe_timeout=7.0, share=0.02)
    assert "ready" in run(script, lambda said: len(said) > 1, policy)
    assert 7.0 not in script.timeouts  # the next one comes after 500 s


def test_each_server_has_a_connection_of_its_own_which_is_closed(run: Callable[..., list[str]]) -> None:
    script = Script([[Kind.ANSWERED]], ends=[2])
    run(script, lambda said: said.count("ready") >= 3)
    assert script.closed == script.starts + 1


def test_the_request_under_way_when_it_ended_is_told_to_the_next(
    run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[list[int]] = []

    class Known:
        def __init__(self, processes: Iterable[int]) -> None:
            looked_at.append(list(processes))

        def last(self) -> str:
            return "ab12"

    monkeypatch.setattr(supervisor, "InFlight", Known)
    script = Script([[Kind.ANSWERED]], ends=[2], stubs=[ALIVE])
    said = run(script, lambda said: said.count("ready") >= 2)
    assert looked_at[0] == [ALIVE.pid]
    assert said[1].endswith("; under way was the request with SHA-256 ab12")
    assert [each["DEEPFAKE_DETECTOR_LAST_REQUEST"] for each in script.variables[:2]] == ["", "ab12"]


@pytest.mark.usefixtures("clock")
def test_the_time_that_it_took_to_load_is_no_service(run: Callable[..., list[str]]) -> None:
    """Else a server that loads slowly and ends at once would never be called one that ends in a row."""
    script = Script([[*[Kind.UNREACHABLE] * 50, Kind.ANSWERED]], ends=[52])
    said = run(script, lambda said: sum("in a row" in line for line in said) > 0, startup_seconds=900.0)
    assert "(number 2 in a row, 2 in all)" in "".join(said)


def test_one_probe_is_under_way_at_a_time(run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([[Kind.ANSWERED]])
    start = FakeProber.start

    def waiting(prober: FakeProber, timeout: float) -> Any:
        first, pending = not script.timeouts, start(prober, timeout)
        return pending if first else type("Pending", (), {"outcome": lambda _: None})()

    monkeypatch.setattr(FakeProber, "start", waiting)
    run(script, lambda said: len(said) > 1, Policy(probe_interval=0.0, stall=0.1, share=1.0))
    assert len(script.timeouts) <= 2 * (script.starts + 1)


def test_statistics_that_do_not_come_are_no_progress(run: Callable[..., list[str]]) -> None:
    numbers = itertools.cycle([{"net": 5}, None])
    script = Script([[Kind.ANSWERED, Kind.BUSY]], counts=lambda: next(numbers))
    said = run(script, lambda said: len(said) > 1)
    assert "no model has answered anything" in said[1]


@pytest.mark.timeout(60)
def test_it_can_be_stopped_between_two_starts(run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts.Restarts, "pause", 600.0)
    said = run(Script([[Kind.ANSWERED]], ends=[2]), lambda said: len(said) > 1)
    assert said[1].startswith("RESTARTING in 600 s")


@pytest.mark.parametrize(
    ("host", "address", "name"),
    [
        ("127.0.0.1", "127.0.0.1:1", "localhost"),
        ("0.0.0.0", "127.0.0.1:1", "localhost"),
        ("10.0.0.5", "10.0.0.5:1", None),
    ],
)
def test_with_certificates_of_its_own_the_prober_goes_over_grpc(
    monkeypatch: pytest.MonkeyPatch, host: str, address: str, name: str | None
) -> None:
    """What is reached by loopback has no name of its own in a certificate; what is reached by its address has."""
    made = []
    monkeypatch.setattr(supervisor, "Prober", lambda *arguments, **options: made.append((*arguments, options)))
    extra = ("--grpc-use-ssl-mutual=true", "--grpc-restricted-protocol=inference:a=b")
    credentials: Any = object()
    ports = {"grpc": 1, "http": 2, "metrics": 3}
    supervisor.make_prober(Options(Path(), host, ports, extra=extra, credentials=credentials))
    assert made == [(address, {"triton-grpc-protocol-a": "b"}, credentials, {"made_out_to": name})]


def test_a_stop_while_it_loads_ends_it_in_good_order_and_is_no_error(run: Callable[..., list[str]]) -> None:
    script = Script([[Kind.UNREACHABLE]])
    said = run(script, lambda _: len(script.timeouts) > 2)
    assert said[0] == "stopping: waiting for requests in flight"
    assert (script.stopped, script.killed, script.closed) == ([False], 0, 1)


def test_whatever_goes_wrong_in_the_launcher_leaves_no_server_behind(
    run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise LookupError("of the launcher")

    monkeypatch.setattr(supervisor, "InFlight", fail)
    script = Script([[Kind.ANSWERED]])
    with pytest.raises(LookupError):
        run(script, lambda _: False)
    assert (script.killed, script.closed, script.starts) == (1, 1, 0)


def test_failures_while_it_loads_count_as_in_service_and_other_outcomes_forget_none(
    run: Callable[..., list[str]],
) -> None:
    kinds = [Kind.FAILED, Kind.BUSY, Kind.UNREACHABLE, Kind.FAILED]
    with pytest.raises(StartError, match="a real inference fails"):
        run(Script([kinds]), lambda _: False)
    patient = Policy(failures=3, probe_interval=0.0)
    assert run(Script([[*kinds, Kind.ANSWERED]]), lambda said: "ready" in said, patient)[0] == "ready"


def test_a_later_start_that_fails_is_started_again(run: Callable[..., list[str]]) -> None:
    script = Script([[Kind.ANSWERED], [Kind.FAILED], [Kind.ANSWERED]], ends=[2, None])
    said = run(script, lambda said: said.count("ready") >= 2)
    assert [line.partition(" because ")[2] for line in said if "RESTARTING" in line] == [
        "tritonserver ended (exit code 7)",
        "the models are loaded, but a real inference fails: it is failed (number 2 in a row, 2 in all)",
    ]


@pytest.mark.usefixtures("clock")
def test_a_start_s_probes_are_given_up_with_the_start(run: Callable[..., list[str]]) -> None:
    script = Script([[Kind.BUSY]])
    with pytest.raises(StartError, match="no answer within 20 s"):
        run(script, lambda _: False, startup_seconds=20.0)
    assert script.timeouts == [float(left) for left in range(19, -1, -1)]
