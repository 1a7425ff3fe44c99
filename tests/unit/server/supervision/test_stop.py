"""Asking to stop: by a signal at any moment, from another thread, and before anybody waits."""

import subprocess
import sys
import threading
import time

from server.supervision.stop import Stop
from tests.golden import ROOT

INTERRUPTED = """
import random, signal
from server.supervision.stop import Stop

def ask(number, frame):
    stop.set()

signal.signal(signal.SIGALRM, ask)
for _ in range(3000):
    stop = Stop()
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 3e-4))
    while not stop.wait(1e-5):
        pass
print("heard every time")
"""


def test_a_handler_may_set_it_wherever_it_interrupts_the_one_who_waits() -> None:
    """With `threading.Event` this waits for ever after some hundred times."""
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "heard every time\n", done.stderr


def test_all_who_wait_are_woken() -> None:
    stop = Stop()
    heard = list[bool]()
    threads = [threading.Thread(target=lambda: heard.append(stop.wait(100))) for _ in range(3)]
    for thread in threads:
        thread.start()
    stop.set()
    for thread in threads:
        thread.join(60)
    assert heard == [True] * 3
    assert stop.wait(100)


def test_nobody_asked() -> None:
    stop = Stop()
    assert not stop.is_set()
    began = time.monotonic()
    assert not stop.wait(0.01)
    assert time.monotonic() - began >= 0.01
    stop.set()
    assert stop.is_set()
