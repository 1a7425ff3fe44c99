"""Ctrl-C on long work."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Within it the first Ctrl-C only sets the event; the second raises KeyboardInterrupt as usual."""
    stop = threading.Event()

    def first(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # print() might be what was interrupted, and it cannot be entered twice.
        os.write(2, b"\nfinishing the requests in flight; Ctrl-C again stops at once\n")

    previous = signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
