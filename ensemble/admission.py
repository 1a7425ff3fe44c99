"""How many images may be in the server at once: who is over the limit is turned away at the door, and soon.

Triton limits the queue of one step, and here only the first may have such a limit: it is quick, so that its queue fills
last, and under overload all would wait without end in front of the networks. So the first step counts who is inside:
each admission takes the next tickets, the last step reports the tickets that are done, and the difference is inside.
Tickets are numbered, so that whoever left without a report (a client that hung up) is counted out with the next who
does report.
"""

import contextlib
import os
import socket
import struct
import threading
import time

import psutil

_TICKET = struct.Struct("<q")
_PATIENCE = 10.0
"""Seconds without any report after which one more request is let in, for all inside may have hung up."""


class Admission:
    """The count, without clock or connection.

    Args:
        limit: Images that may be inside at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._admitted = 0
        self._done = 0
        self._heard: float | None = None
        self._longest_silence = 0.0

    @property
    def inside(self) -> int:
        """Images admitted and not yet done."""
        return self._admitted - self._done

    def admit(self, count: int, now: float) -> int | None:
        """Ask for entry.

        Args:
            count: Images that come together.
            now: A clock in seconds.

        Returns:
            The last of their tickets; None where they are over the limit. Whoever comes to an empty server is let in.
        """
        if self.inside and self.inside + count > self.limit and not self._all_may_have_left(now):
            return None
        if not self.inside:
            self._heard = now
        self._admitted += count
        return self._admitted

    def done(self, ticket: int, now: float) -> None:
        """Take note that this ticket, and so all before it, left."""
        if ticket > self._done:
            if self._heard is not None:
                self._longest_silence = max(self._longest_silence, now - self._heard)
            self._done = min(ticket, self._admitted)
            self._heard = now

    def _all_may_have_left(self, now: float) -> bool:
        # A slow network is silent for as long as its batch takes: that is no sign.
        silent = self._heard is not None and now - self._heard > _PATIENCE + 2 * self._longest_silence
        if silent:
            self._heard = now
        return silent


class Door:
    """The first step's side: admits, and hears from the last step what is done.

    Args:
        limit: Images that may be inside at once.
    """

    def __init__(self, limit: int) -> None:
        self._admission = Admission(limit)
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(_address())
        threading.Thread(target=self._listen, daemon=True).start()

    def admit(self, count: int) -> int | None:
        """The last ticket of `count` images, or None where they are over the limit."""
        with self._lock:
            return self._admission.admit(count, time.monotonic())

    def refusal(self, count: int) -> str:
        """Why they were turned away, for the caller."""
        return (
            f"the queue is full: {self._admission.inside} images are in the server and {count} more would be over its "
            f"limit of {self._admission.limit}; send them again a little later, or ask for less at a time"
        )

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                (ticket,) = _TICKET.unpack(self._socket.recv(_TICKET.size))
                with self._lock:
                    self._admission.done(ticket, time.monotonic())


class Exit:
    """The last step's side."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._address = _address()

    def report(self, ticket: int) -> None:
        """Say that this ticket, and so all before it, is done."""
        # Where the door is gone the server is about to be restarted; nothing more can come in.
        with contextlib.suppress(OSError):
            self._socket.sendto(_TICKET.pack(ticket), self._address)


def _address() -> str:
    """A name in the abstract namespace, which leaves nothing behind: of the tritonserver that started both steps."""
    server = psutil.Process(os.getppid())
    return f"\0deepfake_detector_{server.pid}_{server.create_time()}"
