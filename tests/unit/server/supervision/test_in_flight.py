"""The launcher reads the first step's ledger, also after that step has died."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from ensemble.admission import Admission, Ledger
from server.supervision.in_flight import InFlight

STEP = """
from ensemble.admission import Admission
admission = Admission(8, 1000)
for name in (b"first", b"second", b"third"):
    permit, _ = admission.admit(1, 1)
    admission.note(permit, [name, b"!"])
admission.release(permit)
print("ready", flush=True)
input()
"""


def test_the_last_request_under_way_is_known_after_the_step_has_died() -> None:
    step = subprocess.Popen([sys.executable, "-c", STEP], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert step.stdout is not None
    assert step.stdout.readline() == b"ready\n"
    in_flight = InFlight([os.getppid(), step.pid])
    step.kill()
    step.communicate()
    assert in_flight.last() == hashlib.sha256(b"second!").hexdigest()


def test_nothing_is_known_where_no_process_keeps_a_ledger() -> None:
    assert InFlight([]).last() == ""
    assert InFlight([2**22 + 1]).last() == ""  # no such process


def test_a_request_without_a_digest_yet_and_one_that_has_left_are_not_named() -> None:
    admission = Admission(8, 1000)
    ledger = Ledger.find([os.getpid()])
    assert ledger is not None
    admission.admit(1, 1)
    in_flight = InFlight([os.getpid()])
    permit, _ = admission.admit(1, 1)
    admission.note(permit, [b"a"])
    assert in_flight.last() == hashlib.sha256(b"a").hexdigest()
    ledger.lose(permit)
    assert in_flight.last() == ""
    ledger.release(permit)
    assert in_flight.last() == ""
    admission.note(permit, [b"late"])
    assert in_flight.last() == ""


def test_no_file_stays_open() -> None:
    admission = Admission(8, 1000)
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = [InFlight([os.getpid()]) for _ in range(5)]
    # A mapping has a descriptor of its own; what was opened to make it is closed.
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + len(kept)
    admission.note(admission.admit(1, 1)[0], [b"a"])
    assert {each.last() for each in kept} == {hashlib.sha256(b"a").hexdigest()}
