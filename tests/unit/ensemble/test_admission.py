"""What is over the limits is refused, permits come back, and those that never do are forgotten."""

import fcntl
import gc
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.admission import (
    OVERLOADED,
    SILENCE_SECONDS,
    STUCK,
    Admission,
    AdmissionController,
    Ledger,
    Load,
    Release,
    StepAdmission,
)
from tests.processes import opened

MIB = 2**20


def controller(images: int = 8, size: int = 8 * MIB) -> AdmissionController:
    return AdmissionController(images, size)


@pytest.mark.parametrize(("images", "size"), [(32, 1), (1, 100 * MIB)])
def test_whatever_comes_to_an_empty_server_is_admitted(images: int, size: int) -> None:
    assert controller().admit(1, images, size, 0.0) is None


def test_images_over_the_limit_are_refused_until_some_have_left() -> None:
    admission = controller()
    assert admission.admit(1, 6, 1, 0.0) is None
    assert admission.admit(2, 2, 1, 0.0) is None
    refusal = admission.admit(3, 1, 1, 0.0)
    assert refusal is not None
    assert refusal.startswith(f"{OVERLOADED}: the queue is full: 8 images (0 MiB) are in the server")
    assert "1 more (0 MiB) would be over its limits of 8 images and 8 MiB" in refusal
    admission.release(1, 1.0)
    assert admission.admit(3, 6, 1, 1.0) is None
    assert (admission.images, admission.size) == (8, 2)


def test_bytes_over_the_limit_are_refused_until_some_have_left() -> None:
    admission = controller()
    assert admission.admit(1, 1, 5 * MIB, 0.0) is None
    assert admission.admit(2, 1, 3 * MIB, 0.0) is None
    assert "1 more (1 MiB)" in str(admission.admit(3, 1, MIB, 0.0))
    admission.release(2, 0.0)
    assert admission.admit(3, 1, MIB, 0.0) is None
    assert admission.size == 6 * MIB


@pytest.mark.parametrize("others", [Load(5, 0), Load(0, 5 * MIB)])
def test_what_others_have_inside_counts_in_images_and_in_bytes(others: Load) -> None:
    admission = controller()
    assert admission.admit(1, 1, MIB, 0.0, others) is None
    assert admission.admit(2, 2, 2 * MIB, 0.0, others) is None
    assert admission.admit(3, 1, MIB, 0.0, others) is not None
    assert admission.admit(3, 1, MIB, 0.0) is None


def test_a_permit_is_released_once_and_no_other_permit_counts() -> None:
    admission = controller()
    admission.admit(1, 4, 1, 0.0)
    admission.admit(2, 4, 1, 0.0)
    for permit in (3, -1, 0, 2**63):
        admission.release(permit, 0.0)
    assert admission.images == 8
    admission.release(1, 0.0)
    admission.release(1, 0.0)
    assert admission.images == 4


def test_a_release_says_nothing_of_those_that_came_before() -> None:
    admission = controller()
    admission.admit(1, 4, 1, 0.0)
    admission.admit(2, 4, 1, 0.0)
    admission.release(2, 1.0)
    admission.admit(3, 1, 1, 1.0)
    assert admission.images == 5


def test_a_request_that_later_ones_overtook_long_ago_is_lost() -> None:
    admission = controller()
    admission.admit(1, 4, 1, 0.0)
    admission.admit(2, 4, 1, 0.0)
    admission.release(2, 1.0)  # it took one second
    admission.admit(3, 1, 1, SILENCE_SECONDS + 3.0)
    assert admission.permits == [1, 3]
    admission.admit(4, 1, 1, SILENCE_SECONDS + 3.1)
    assert admission.permits == [3, 4]


def test_a_slow_request_is_lost_only_after_a_long_time_where_others_are_slow_too() -> None:
    admission = controller()
    admission.admit(1, 4, 1, 0.0)
    admission.admit(2, 4, 1, 0.0)
    admission.release(2, 100.0)
    admission.admit(3, 1, 1, SILENCE_SECONDS + 300)
    assert 1 in admission.permits
    admission.admit(4, 1, 1, SILENCE_SECONDS + 300.1)
    assert 1 not in admission.permits


def test_a_request_that_nobody_overtook_is_not_lost() -> None:
    admission = controller()
    admission.admit(1, 4, 1, 0.0)
    admission.release(1, 1.0)
    admission.admit(2, 4, 1, 1.0)
    admission.admit(3, 1, 1, 1000.0)
    assert admission.permits == [2, 3]


def test_where_all_inside_gave_up_one_request_is_let_in_after_a_while_and_then_ever_more_rarely() -> None:
    admission = controller()
    admission.admit(1, 8, 1, 0.0)
    assert str(admission.admit(2, 1, 1, SILENCE_SECONDS)).startswith(OVERLOADED)
    assert admission.admit(2, 1, 1, SILENCE_SECONDS + 0.1) is None
    assert str(admission.admit(3, 1, 1, SILENCE_SECONDS + 0.2)).startswith(
        f"{STUCK}: nothing has left for 10 s, and the queue"
    )
    assert admission.admit(3, 1, 1, 2 * SILENCE_SECONDS) is not None
    assert admission.admit(3, 1, 1, 2 * SILENCE_SECONDS + 0.1) is None
    assert admission.admit(4, 1, 1, 4 * SILENCE_SECONDS) is not None
    assert admission.admit(4, 1, 1, 4 * SILENCE_SECONDS + 0.1) is None
    admission.release(2, 4 * SILENCE_SECONDS + 0.2)  # one comes out: the others before it are lost
    assert admission.admit(5, 8, 1, 200.0) is None
    assert 1 not in admission.permits


def test_after_a_release_silence_is_measured_anew() -> None:
    admission = controller()
    admission.admit(1, 4, 1, 0.0)
    admission.admit(2, 4, 1, 0.0)
    assert admission.admit(3, 1, 1, SILENCE_SECONDS + 1) is None
    admission.release(2, SILENCE_SECONDS + 2)  # silent for 12 s so far: 34 are not unusual from now on
    admission.admit(4, 3, 1, SILENCE_SECONDS + 2)
    assert str(admission.admit(5, 8, 1, SILENCE_SECONDS + 35)).startswith(OVERLOADED)
    assert admission.admit(5, 8, 1, SILENCE_SECONDS + 37) is None


def test_a_long_silence_is_remembered_after_short_ones() -> None:
    admission = controller()
    for permit in (1, 2, 3):
        admission.admit(permit, 2, 1, 0.0)
    admission.release(1, 12.0)
    admission.release(2, 12.1)
    admission.admit(4, 6, 1, 12.1)
    assert str(admission.admit(5, 8, 1, 46.0)).startswith(OVERLOADED)  # 34 seconds are not unusual
    assert admission.admit(5, 8, 1, 46.2) is None


def test_silence_before_somebody_comes_is_no_sign() -> None:
    admission = controller()
    admission.admit(1, 1, 1, 0.0)
    admission.release(1, 0.5)
    admission.admit(2, 8, 1, 1000.0)
    assert str(admission.admit(3, 1, 1, 1000.0 + SILENCE_SECONDS)).startswith(OVERLOADED)


@given(st.integers(1, 64), st.lists(st.tuples(st.integers(1, 32), st.integers(0, 20 * MIB), st.integers(0, 3))))
def test_never_more_is_inside_than_the_limits_but_for_one_request(
    limit: int, events: list[tuple[int, int, int]]
) -> None:
    admission = AdmissionController(limit, 64 * MIB)
    for permit, (images, size, leave) in enumerate(events, 1):
        before = (admission.images, admission.size)
        if admission.admit(permit, images, size, 0.0) is not None:
            assert before[0] + images > limit or before[1] + size > 64 * MIB
            assert (admission.images, admission.size) == before
        assert (admission.images <= limit and admission.size <= 64 * MIB) or len(admission.permits) == 1
        for gone in admission.permits[:leave]:
            admission.release(gone, 0.0)


def test_permits_go_through_the_ledger_to_another_process_and_back() -> None:
    admission = Admission(8, 8 * MIB)
    permit, refusal = admission.admit(8, 1)
    assert refusal is None
    code = f"from ensemble.admission import Ledger; Ledger.find([{os.getpid()}]).release({permit})"
    assert admission.admit(1, 1)[1] is not None
    subprocess.run([sys.executable, "-c", code], check=True)
    assert admission.admit(8, 1)[1] is None


def test_no_other_number_gives_a_permit_back() -> None:
    ledger = Ledger.create(4)
    permit = ledger.issue()
    assert permit is not None
    for forged in (0, -1, permit + 1, permit ^ (1 << 40), permit & 0xFFFF, -(2**63), 2**63 - 1):
        ledger.release(forged)
    assert ledger.left_at(permit) is None
    before = time.monotonic()
    ledger.release(permit)
    left = ledger.left_at(permit)
    assert left is not None
    assert before <= left <= time.monotonic()


def test_permits_differ_and_run_out_only_where_all_are_out() -> None:
    ledger = Ledger.create(64)
    permits = [ledger.issue() for _ in range(64)]
    assert len(set(permits)) == 64
    assert len({permit >> 16 for permit in permits if permit is not None}) == 64  # random, not counted up
    assert all(permit is not None and permit > 0 for permit in permits)
    assert ledger.issue() is None
    ledger.release(permits[5] or 0)
    assert ledger.issue() not in (None, *permits)


def test_a_refused_request_keeps_no_slot() -> None:
    admission = Admission(2, MIB)
    assert admission.admit(2, 1)[1] is None
    for _ in range(100):
        refusal = admission.admit(1, 1)[1]
        assert refusal is not None
        assert "2 images" in refusal


def sockets() -> set[str]:
    return {link for link in opened() if link.startswith("socket:")}


def test_the_ledger_is_no_socket_and_has_no_name_that_others_could_open() -> None:
    before = sockets()
    ledger = Ledger.create(4)
    assert ledger.issue()
    assert sockets() <= before
    assert not list(Path("/dev/shm").glob("*admission*"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_cannot_open_the_ledger() -> None:
    ledger = Ledger.create(4)
    assert ledger.issue()
    code = f"import os; from ensemble.admission import Ledger; os.setuid(65534); print(Ledger.find([{os.getpid()}]))"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "None"


SIBLINGS = """
import subprocess, sys
first = subprocess.Popen([sys.executable, "-c", '''
from ensemble.admission import Admission
admission = Admission(8, 1000)
permit, _ = admission.admit(8, 1)
print(permit, flush=True)
input()
print(admission.admit(8, 1)[1])
'''], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
permit = int(first.stdout.readline())
last = f"from ensemble.admission import Release; r = Release(); r([{permit} + 1, -1, 0]); r([{permit}])"
subprocess.run([sys.executable, "-c", last], check=True)
print(first.communicate("\\n")[0])
"""


def test_the_last_step_finds_the_ledger_of_the_first_one_beside_it() -> None:
    answer = subprocess.run([sys.executable, "-c", SIBLINGS], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "None"


def test_a_last_step_without_a_first_one_drops_whatever_permits_come() -> None:
    Release()([0, 0, -1, 2**62])


def test_a_step_knows_a_permit_for_as_much_as_it_was_given_for_and_once() -> None:
    ledger = Ledger.create(4)
    permit = ledger.issue(3, 1000)
    assert permit is not None
    assert not ledger.enter(permit, 4, 1000, 1)
    assert not ledger.enter(permit, 3, 1001, 1)
    for forged in (0, -1, permit + 1, permit ^ (1 << 40), 2**62, 2**63 - 1):
        assert not ledger.enter(forged, 1, 1, 1)
    assert ledger.enter(permit, 3, 1000, 1)
    assert not ledger.enter(permit, 1, 1, 1)
    assert ledger.enter(permit, 2, 10, 2)  # another step
    assert not ledger.enter(permit, 1, 1, 2)
    ledger.release(permit)
    assert not ledger.enter(permit, 1, 1, 1)


def test_a_permit_taken_for_lost_counts_no_longer_and_lets_nobody_in() -> None:
    ledger = Ledger.create(2)
    first, second = ledger.issue(1, 10), ledger.issue(2, 20)
    assert first is not None
    assert second is not None
    ledger.lose(first)
    assert ledger.load(0) == Load(2, 20)
    assert not ledger.enter(first, 1, 10, 1)
    third = ledger.issue(4, 40)
    assert third is not None
    assert not ledger.enter(first, 1, 10, 1)
    assert ledger.load(0) == Load(6, 60)
    assert ledger.issue() is None


def test_of_those_taken_for_lost_the_oldest_makes_room_first() -> None:
    ledger = Ledger.create(2)
    first, older = ledger.issue(), ledger.issue()
    assert first is not None
    assert older is not None
    ledger.release(first)
    newer = ledger.issue()  # in the slot before that of the older one
    assert newer is not None
    ledger.lose(newer)
    ledger.lose(older)
    assert ledger.issue() is not None
    assert ledger.left_at(newer) is None
    assert ledger.left_at(older) is not None


def is_free(ledger: Ledger) -> bool:
    """Whether nobody has it for themselves alone."""
    try:
        fcntl.flock(ledger._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(ledger._descriptor, fcntl.LOCK_UN)
    return True


def test_one_step_at_a_time_takes_permits_and_one_thread_of_it() -> None:
    ledger = Ledger.create(4)
    elsewhere = Ledger.find([os.getpid()])  # as another process has it
    assert elsewhere is not None
    with ledger.locked():
        assert not is_free(elsewhere)
        assert ledger._threads.locked()
    assert is_free(elsewhere)
    with pytest.raises(LookupError), ledger.locked():
        raise LookupError
    assert is_free(elsewhere)
    assert not ledger._threads.locked()


def test_whoever_takes_a_permit_does_so_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = Admission(8, 1000)
    ledger = admission._ledger
    monkeypatch.setattr(Ledger, "find", lambda _: ledger)
    alone: list[tuple[str, bool]] = []

    def watched(name: str) -> Any:
        method = getattr(Ledger, name)

        def call(self: Ledger, *given: Any) -> Any:
            alone.append((name, self._threads.locked()))
            return method(self, *given)

        return call

    for name in ("load", "issue", "_slot"):
        monkeypatch.setattr(Ledger, name, watched(name))
    permit, _ = admission.admit(1, 1)
    step = StepAdmission()
    step.admit(1, 1)
    assert step.enter(permit, 1, 1)
    assert {name for name, _ in alone} == {"load", "issue", "_slot"}
    assert all(locked for _, locked in alone)


def test_a_step_takes_at_most_half_and_no_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    admission, step = Admission(8, 1000), StepAdmission()
    monkeypatch.setattr(Ledger, "find", lambda _: admission._ledger)
    first, _ = step.admit(1, 100)
    assert str(step.admit(4, 1)[1]).startswith(f"{OVERLOADED}: the queue is full: 1 images")
    assert "limits of 4 images" in str(step.admit(4, 1)[1])
    assert step.admit(1, 401)[1] is not None  # half of the bytes, too
    second, refused = step.admit(3, 400)
    assert refused is None
    step.release(second)
    assert admission.admit(6, 1)[1] is None
    assert "limits of 8 images" in str(step.admit(2, 1)[1])
    assert step.admit(1, 1)[1] is None
    step.release(first)


def test_where_all_slots_are_taken_nobody_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    admission, step = Admission(1000, 1000), StepAdmission()
    ledger = Ledger.create(1, Load(1000, 1000))
    monkeypatch.setattr(admission, "_ledger", ledger)
    monkeypatch.setattr(Ledger, "find", lambda _: ledger)
    permit, refused = admission.admit(1, 1)
    assert (permit > 0, refused) == (True, None)
    for each in (admission, step):
        assert each.admit(1, 1) == (
            0,
            f"{OVERLOADED}: the queue is full: no room for another request; send it again a little later",
        )
    admission.release(permit)
    assert admission.admit(1, 1)[1] is None


def test_a_ledger_has_room_beside_what_may_be_in_the_server() -> None:
    assert len(Admission(8, 1000)._ledger._permits) == 2 * 8 + 64 + 1
    assert len(Ledger.create(10**6)._permits) == 65_536
    assert Ledger.create(4, Load(7, 9)).limits == Load(7, 9)
    assert Admission(8, 1000)._ledger.limits == Load(8, 1000)


def test_what_a_request_holds_is_noted_while_it_is_out_and_by_its_own_permit() -> None:
    admission = Admission(8, 1000)
    permit, _ = admission.admit(1, 1)
    other, _ = admission.admit(1, 1)
    admission.note(permit, [b"a", b"b"])
    digests = {
        int(p): bytes(d) for p, d in zip(admission._ledger._permits, admission._ledger._slots["digest"], strict=True)
    }
    assert digests[permit] == hashlib.sha256(b"ab").digest()
    assert digests[other] == bytes(32)


def test_a_late_note_is_not_taken_for_that_of_the_request_that_came_after() -> None:
    ledger = Ledger.create(1)
    first = ledger.issue() or 0
    ledger.release(first)
    second = ledger.issue() or 0
    ledger.note(second, b"b" * 32)
    ledger.note(first, b"a" * 32)
    assert bytes(ledger._slots["digest"][1]) == b"b" * 32


def test_a_ledger_that_is_gone_leaves_no_descriptor() -> None:
    def ledgers() -> int:
        return sum("deepfake_admission" in link for link in opened())

    gc.collect()  # those of other tests
    before = ledgers()
    ledger = Ledger.create(4)
    found = Ledger.find([os.getpid()])
    assert ledgers() >= before + 2
    del ledger, found
    gc.collect()
    assert ledgers() == before


def test_the_last_step_gives_back_all_permits_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.create(4)
    permits = [ledger.issue(1, 1) or 0 for _ in range(3)]
    monkeypatch.setattr(Ledger, "find", lambda _: ledger)
    Release()([permits[0], permits[0], permits[2]])
    assert [ledger.left_at(permit) is None for permit in permits] == [False, True, False]


STEPS = """
import subprocess, sys
code = '''
import sys
from ensemble.admission import StepAdmission
admission = StepAdmission()
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
'''
def start(code):
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
def ask(step, line):
    step.stdin.write(line + "\\n"); step.stdin.flush()
    return eval(step.stdout.readline())
first = start(code.replace("import StepAdmission", "import Admission").replace("StepAdmission()", "Admission(8, 1000)"))
one, other = start(code), start(code)
assert [ask(step, "1") for step in (first, one, other)] == [1, 1, 1]  # a start may take long, and silence lets one in
permit, _ = ask(first, "admission.admit(2, 10)")
assert ask(one, f"admission.enter({permit}, 2, 10)")
assert not ask(other, f"admission.enter({permit}, 2, 10)")
direct, refused = ask(one, "admission.admit(3, 10)")
assert direct and refused is None
_, refused = ask(other, "admission.admit(2, 10)")
assert refused.startswith("OVERLOADED: the queue is full: 3 images") and "limits of 4 images" in refused, refused
assert ask(other, f"admission.enter({direct}, 3, 10)")  # a step that calls another one hands its permit on
assert ask(first, "admission.admit(4, 10)")[1] is not None  # 2 + 3 are inside
assert ask(first, "admission.admit(3, 10)")[1] is None
assert ask(other, "admission.admit(1, 10)")[1] is not None  # all 8 are
ask(one, f"admission.release({direct})")
assert ask(other, "admission.admit(100, 10)")[1] is None  # the only one of its kind
for step in (first, one, other):
    step.stdin.close(); step.wait()
print("done")
"""


def test_direct_calls_of_later_steps_count_beside_those_of_the_first_and_take_half_at_most() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "done", done.stderr


def test_a_later_step_without_a_first_one_takes_what_comes() -> None:
    admission = StepAdmission()
    assert not admission.enter(2**62, 1, 1)
    assert admission.admit(1000, 2**40) == (0, None)
    admission.release(0)
