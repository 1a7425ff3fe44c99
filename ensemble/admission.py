"""Admission: how much work may be in the server at once. What is over the limits is refused before any work is done.

Triton limits the queue of one step. That does not help here: the first step is quick, so under overload the requests
would wait without limit in front of the networks. Therefore the first step counts what is inside. Each admitted request
carries a ticket, the last step gives the ticket back, and the difference is inside.

The two steps are processes of one server. They share a small piece of memory that has no name, so that only processes
of the same user can reach it. A ticket is a random number, so that nobody can give back a ticket that is not theirs.
"""

import hashlib
import mmap
import os
import secrets
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from ensemble.contract import OVERLOADED, STUCK, refusal

PATIENCE = 10.0
"""Seconds without any release that are never unusual."""

_SPARE = 64  # slots for requests that are let in over the limit
_NAME = "deepfake_admission"
_SLOT_BITS = 16
_SLOT_MASK = (1 << _SLOT_BITS) - 1
_SLOT = np.dtype([("ticket", np.int64), ("left", np.float64), ("since", np.float64), ("digest", "V32")])
"""One slot of the ledger; `server.in_flight` reads it too."""


@dataclass(frozen=True)
class _Admitted:
    images: int
    size: int
    since: float
    number: int


class AdmissionController:
    """Counts what is inside; without clock and connection.

    Args:
        max_images: Images that may be inside at once.
        max_bytes: Bytes of encoded images that may be inside at once.
    """

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self.max_images = max_images
        self.max_bytes = max_bytes
        self._inside: dict[int, _Admitted] = {}
        self._number = 0
        self._last_released = 0  # the highest number of those released
        self._heard = 0.0  # when something was released, or came to an empty server
        self._longest_silence = 0.0
        self._longest_stay = 0.0
        self._extra = 0  # requests let in over the limit since something was released

    @property
    def tickets(self) -> list[int]:
        """The tickets of the requests inside."""
        return list(self._inside)

    @property
    def images(self) -> int:
        """Images inside."""
        return sum(each.images for each in self._inside.values())

    @property
    def size(self) -> int:
        """Bytes of encoded images inside."""
        return sum(each.size for each in self._inside.values())

    def admit(self, ticket: int, images: int, size: int, now: float) -> str | None:
        """Ask for entry. A request that comes to an empty server is always admitted.

        Args:
            ticket: What will be released; a number that is not inside.
            images: Images of the request.
            size: Bytes of its encoded images.
            now: A clock in seconds that never goes back.

        Returns:
            None where it is admitted, else why not: a sentence that begins with `OVERLOADED` or `STUCK`.
        """
        self._forget_lost(now)
        if not self._inside:
            self._heard = now
        elif self.images + images > self.max_images or self.size + size > self.max_bytes:
            silent = now - self._heard
            # A slow network is silent for as long as its batch takes, so the silences heard so far are no sign. After
            # a longer one, all inside may have been given up: one request is let in to find out, ever more rarely.
            if silent <= (PATIENCE + 2 * self._longest_silence) * (2**self._extra):
                stuck = silent > PATIENCE + 2 * self._longest_silence
                return self._refusal(images, size, silent if stuck else None)
            self._extra += 1
        self._number += 1
        self._inside[ticket] = _Admitted(images, size, now, self._number)
        return None

    def release(self, ticket: int, now: float) -> None:
        """Take note that a request has left; a ticket that is not inside is ignored."""
        left = self._inside.pop(ticket, None)
        if left is None:
            return
        self._last_released = max(self._last_released, left.number)
        self._longest_silence = max(self._longest_silence, now - self._heard)
        self._longest_stay = max(self._longest_stay, now - left.since)
        self._heard = max(self._heard, now)
        self._extra = 0

    def _forget_lost(self, now: float) -> None:
        # A request that was given up on its way is never released. Requests leave about in the order in which they
        # came, so one that later ones have overtaken long ago is lost.
        patience = PATIENCE + 3 * self._longest_stay
        lost = [
            ticket
            for ticket, each in self._inside.items()
            if each.number < self._last_released and now - each.since > patience
        ]
        for ticket in lost:
            del self._inside[ticket]

    def _refusal(self, images: int, size: int, silent: float | None) -> str:
        inside = f"{self.images} images ({self.size / 2**20:.0f} MiB) are in the server"
        limits = f"its limits of {self.max_images} images and {self.max_bytes / 2**20:.0f} MiB"
        advice = "send them again a little later, or ask for less at a time"
        why = (
            f"the queue is full: {inside}, and {images} more ({size / 2**20:.0f} MiB) would be over {limits}; {advice}"
        )
        if silent is None:
            return refusal(OVERLOADED, why)
        return refusal(STUCK, f"nothing has left for {silent:.0f} s, and {why}")


class Ledger:
    """The tickets that are out, in memory that the steps of one server share.

    The first step writes a ticket into a free slot; the last step writes when the request left, and clears the slot.
    What is in the ledger when the server ends tells the launcher which requests were under way.
    """

    def __init__(self, descriptor: int) -> None:
        """Map the memory of a file descriptor."""
        memory = mmap.mmap(descriptor, 0)
        self._slots = np.frombuffer(memory, _SLOT)
        self._tickets = self._slots["ticket"]

    @classmethod
    def create(cls, slots: int) -> "Ledger":
        """The first step's side, with room for so many tickets; at most 65,536."""
        descriptor = os.memfd_create(_NAME)
        os.truncate(descriptor, _SLOT.itemsize * min(slots, _SLOT_MASK + 1))
        ledger = cls(descriptor)
        weakref.finalize(ledger, os.close, descriptor)  # while it is open, the other steps find it
        return ledger

    @classmethod
    def find(cls, processes: Iterable[int]) -> "Ledger | None":
        """The ledger that one of these processes has created; None where there is none."""
        for process in processes:
            for link in _descriptors(process):
                try:
                    if not str(link.readlink()).startswith(f"/memfd:{_NAME}"):
                        continue
                    descriptor = os.open(link, os.O_RDWR)
                except OSError:  # the process has ended, or is another user's
                    continue
                try:
                    return cls(descriptor)
                finally:
                    os.close(descriptor)
        return None

    def issue(self) -> int | None:
        """A new ticket; None where no slot is free."""
        free = np.flatnonzero(self._tickets == 0)
        if not len(free):
            return None
        ticket = (secrets.randbits(62 - _SLOT_BITS) + 1) << _SLOT_BITS | int(free[0])
        self._slots[free[0]] = (ticket, 0.0, time.monotonic(), b"")
        return ticket

    def note(self, ticket: int, digest: bytes) -> None:
        """Say what a request holds that is out."""
        slot = ticket & _SLOT_MASK
        if self._tickets[slot] == ticket:
            self._slots["digest"][slot] = digest

    def left_at(self, ticket: int) -> float | None:
        """When a ticket was given back, by `time.monotonic`; None while it is out."""
        slot = ticket & _SLOT_MASK
        return None if self._tickets[slot] == ticket else float(self._slots["left"][slot])

    def give_back(self, ticket: int) -> None:
        """Give a ticket back; one that is not out is ignored, whatever number it is."""
        slot = ticket & _SLOT_MASK
        if ticket > 0 and slot < len(self._tickets) and self._tickets[slot] == ticket:
            self._slots["left"][slot] = time.monotonic()
            self._tickets[slot] = 0


class Admission:
    """The first step's side: admits requests, and learns from the ledger which have left.

    Args:
        max_images: Images that may be in the server at once.
        max_bytes: Bytes of encoded images that may be in the server at once.
    """

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self._controller = AdmissionController(max_images, max_bytes)
        self._ledger = Ledger.create(max_images + _SPARE)
        self._lock = threading.Lock()

    def admit(self, images: int, size: int) -> tuple[int, str | None]:
        """Ask for entry.

        Args:
            images: Images of the request.
            size: Bytes of its encoded images.

        Returns:
            The ticket, and why the request is refused (None: it is admitted, and the ticket must be released).
        """
        with self._lock:
            self._collect()
            ticket = self._ledger.issue()
            if ticket is None:
                return 0, refusal(
                    OVERLOADED, "the queue is full: no room for another request; send it again a little later"
                )
            before = {ticket, *self._controller.tickets}
            refused = self._controller.admit(ticket, images, size, time.monotonic())
            for gone in before.difference(self._controller.tickets):  # refused, or lost
                self._ledger.give_back(gone)
            return ticket, refused

    def note(self, ticket: int, images: Iterable[bytes]) -> None:
        """Write down the SHA-256 of the images, one after the other, of a request that is inside."""
        digest = hashlib.sha256()
        for image in images:
            digest.update(image)
        self._ledger.note(ticket, digest.digest())

    def release(self, ticket: int) -> None:
        """Give a ticket back: for a request that goes no further than this step."""
        self._ledger.give_back(ticket)

    def _collect(self) -> None:
        for ticket in self._controller.tickets:
            left = self._ledger.left_at(ticket)
            if left is not None:
                self._controller.release(ticket, left)


class Release:
    """The last step's side: gives tickets back. The first step may start later than this one."""

    def __init__(self) -> None:
        self._ledger: Ledger | None = None

    def __call__(self, tickets: Iterable[int]) -> None:
        """Give these tickets back; numbers that are none are ignored."""
        if self._ledger is None:
            self._ledger = Ledger.find(_siblings())
        if self._ledger is not None:
            for ticket in set(tickets):
                self._ledger.give_back(ticket)


def _siblings() -> list[int]:
    """The processes that have the same parent as this one: the steps of one server."""
    return [child.pid for child in psutil.Process(os.getppid()).children()]


def _descriptors(process: int) -> Iterator[Path]:
    try:
        yield from Path(f"/proc/{process}/fd").iterdir()
    except OSError:
        return
