"""Asking the supervisor to stop, from a signal's handler too."""

import os
import select
import weakref


class Stop:
    """What `threading.Event` is, but that a signal's handler may set it.

    A handler interrupts the main thread anywhere. `Event.set` takes a lock that is not re-entrant: where the main
    thread has just taken it in `Event.wait`, the handler waits for it for ever. Here nothing is locked.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # never read, so that it wakes all who wait
        weakref.finalize(self, os.close, self._woken)

    def is_set(self) -> bool:
        """Whether it was asked for."""
        return self._is_set

    def set(self) -> None:
        """Ask for it."""
        self._is_set = True
        os.eventfd_write(self._woken, 1)

    def wait(self, seconds: float) -> bool:
        """Wait until it is asked for, or for `seconds`; whether it was."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.poll(seconds * 1000)
        return self._is_set
