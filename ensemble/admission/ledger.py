"""The permits that are out, in memory without a name that the steps of one server share."""

import fcntl
import mmap
import os
import secrets
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from ensemble.admission.controller import NOTHING, Load

_NAME = "deepfake_admission"
_SLOT_BITS = 16
_SLOT_MASK = (1 << _SLOT_BITS) - 1
_SLOT = np.dtype(
    [
        ("permit", np.int64),
        ("left", np.float64),
        ("since", np.float64),
        ("digest", "V32"),
        ("size", np.int64),
        ("images", np.int32),
        ("steps", np.int16),
        ("kind", np.int16),
    ]
)
"""One slot of the ledger; `server.supervision.in_flight` reads it too. The first is no permit's: it has the limits."""

OF_ENSEMBLE, DIRECT, LOST = 0, 1, 2
"""Kinds of permits: of requests that go on from the first step; of direct calls of a later one; and those that count no
longer, because their requests are taken for lost."""


class Ledger:
    """The permits that are out.

    The first step writes a permit into a free slot; the last step writes when the request left, and clears the slot.
    What is in the ledger when the server ends tells the launcher which requests were under way.
    """

    def __init__(self, descriptor: int) -> None:
        """Map the memory of a file descriptor, which is kept."""
        memory = mmap.mmap(descriptor, 0)
        self._slots = np.frombuffer(memory, _SLOT)
        self._permits, self._kinds, self._images, self._sizes = (
            self._slots[field] for field in ("permit", "kind", "images", "size")
        )
        self._descriptor = descriptor
        self._threads = threading.Lock()
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def create(cls, slots: int, limits: Load = NOTHING) -> "Ledger":
        """The first step's side, with room for so many permits (at most 65,535), and what may be in the server."""
        descriptor = os.memfd_create(_NAME)  # while it is open, the other steps find it
        os.truncate(descriptor, _SLOT.itemsize * (min(slots, _SLOT_MASK) + 1))
        ledger = cls(descriptor)
        ledger._images[0], ledger._sizes[0] = limits.images, limits.size
        return ledger

    @classmethod
    def find(cls, processes: Iterable[int]) -> "Ledger | None":
        """The ledger that one of these processes has; None where there is none."""
        for process in processes:
            for link in _descriptors(process):
                try:
                    if str(link.readlink()).startswith(f"/memfd:{_NAME}"):
                        return cls(os.open(link, os.O_RDWR | os.O_CLOEXEC))
                except OSError:  # the process has ended, or is another user's
                    continue
        return None

    @property
    def limits(self) -> Load:
        """What may be in the server."""
        return Load(int(self._images[0]), int(self._sizes[0]))

    def load(self, *kinds: int) -> Load:
        """What is out of some kinds of permits."""
        out = [slot for slot in np.flatnonzero(self._permits).tolist() if self._kinds[slot] in kinds]
        return Load(int(self._images[out].sum()), int(self._sizes[out].sum())) if out else NOTHING

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While no other step and no other thread takes permits."""
        with self._threads:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def issue(self, images: int = 0, size: int = 0, kind: int = OF_ENSEMBLE) -> int | None:
        """A new permit for so many images of so many bytes; None where no slot is free."""
        free = np.flatnonzero(self._permits[1:] == 0)
        if not len(free):
            lost = np.flatnonzero(self._kinds[1:] == LOST)
            free = lost[np.argsort(self._slots["since"][1:][lost])]
        if not len(free):
            return None
        slot = int(free[0]) + 1
        permit = (secrets.randbits(62 - _SLOT_BITS) + 1) << _SLOT_BITS | slot
        self._slots[slot] = (permit, 0.0, time.monotonic(), b"", size, images, 0, kind)
        return permit

    def lose(self, permit: int) -> None:
        """Count a request no longer. Should it leave all the same, its permit is known, until the slot is needed."""
        if slot := self._slot(permit):
            self._kinds[slot] = LOST

    def note(self, permit: int, digest: bytes) -> None:
        """Say what a request holds that is out."""
        slot = permit & _SLOT_MASK
        if self._permits[slot] == permit:
            self._slots["digest"][slot] = digest

    def left_at(self, permit: int) -> float | None:
        """When a permit was given back, by `time.monotonic`; None while it is out."""
        slot = permit & _SLOT_MASK
        return None if self._permits[slot] == permit else float(self._slots["left"][slot])

    def release(self, permit: int) -> None:
        """Give a permit back; one that is not out is ignored, whatever number it is."""
        if slot := self._slot(permit):
            self._slots["left"][slot] = time.monotonic()
            self._permits[slot] = 0

    def enter(self, permit: int, images: int, size: int, step: int) -> bool:
        """Take the place of a permit in a step, once.

        Args:
            permit: Whatever number came with the request.
            images: Images of the request.
            size: Bytes of its encoded images.
            step: A power of two.

        Returns:
            Whether there is such a permit that is counted, for as much at least, with which no request has come to this
            step before.
        """
        with self.locked():
            slot = self._slot(permit)
            if not slot or self._kinds[slot] == LOST:
                return False
            mine = Load(int(self._images[slot]), int(self._sizes[slot]))
            if mine.is_passed(NOTHING, images, size) or self._slots["steps"][slot] & step:
                return False
            self._slots["steps"][slot] |= step
            return True

    def _slot(self, permit: int) -> int:
        """Where a permit is that is out; 0 for any other number."""
        slot = permit & _SLOT_MASK
        return slot if permit > 0 and slot < len(self._permits) and self._permits[slot] == permit else 0


def siblings() -> list[int]:
    """The processes that have the same parent as this one: the steps of one server."""
    return [child.pid for child in psutil.Process(os.getppid()).children()]


def _descriptors(process: int) -> Iterator[Path]:
    try:
        yield from Path(f"/proc/{process}/fd").iterdir()
    except OSError:
        return
