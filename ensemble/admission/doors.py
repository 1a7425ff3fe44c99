"""What the steps do with the ledger: the first one admits, the last one releases, and those between look at tickets."""

import hashlib
import time
from collections.abc import Iterable

from ensemble.admission.controller import AdmissionController, Load, refusal_text
from ensemble.admission.ledger import DIRECT, OF_ENSEMBLE, Ledger, siblings
from ensemble.contract import OVERLOADED, refusal

_SPARE = 64  # slots for requests that are let in over the limit, and for direct calls
_NO_ROOM = refusal(OVERLOADED, "the queue is full: no room for another request; send it again a little later")


class Admission:
    """The first step's side: admits requests, and learns from the ledger which have left.

    Args:
        max_images: Images that may be in the server at once.
        max_bytes: Bytes of encoded images that may be in the server at once.
    """

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self._controller = AdmissionController(max_images, max_bytes)
        self._ledger = Ledger.create(2 * max_images + _SPARE, Load(max_images, max_bytes))

    def admit(self, images: int, size: int) -> tuple[int, str | None]:
        """Ask for entry.

        Args:
            images: Images of the request.
            size: Bytes of its encoded images.

        Returns:
            The ticket, and why the request is refused (None: it is admitted, and the ticket must be released).
        """
        with self._ledger.locked():
            self._collect()
            direct = self._ledger.load(DIRECT)
            ticket = self._ledger.issue(images, size)
            if ticket is None:
                return 0, _NO_ROOM
            before = {ticket, *self._controller.tickets}
            refused = self._controller.admit(ticket, images, size, time.monotonic(), direct)
            for gone in before.difference(self._controller.tickets):
                if gone == ticket:  # refused
                    self._ledger.give_back(gone)
                else:
                    self._ledger.lose(gone)
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


class _LaterStep:
    """A step that looks for the ledger; the first step, which makes it, may start later than this one."""

    def __init__(self) -> None:
        self._found: Ledger | None = None

    @property
    def _ledger(self) -> Ledger | None:
        if self._found is None:
            self._found = Ledger.find(siblings())
        return self._found


class Release(_LaterStep):
    """The last step's side: gives tickets back."""

    def __call__(self, tickets: Iterable[int]) -> None:
        """Give these tickets back; numbers that are none are ignored."""
        if ledger := self._ledger:
            for ticket in set(tickets):
                ledger.give_back(ticket)


class SideDoor(_LaterStep):
    """The side of a step that works on encoded images, and that strangers may call by its name.

    A request of an ensemble comes with the ticket of the first step, whose place it takes. Any other asks for a ticket
    of its own.

    Args:
        step: A power of two, another one for each step of an ensemble.
    """

    def __init__(self, step: int = 1) -> None:
        super().__init__()
        self._step = step

    def enter(self, ticket: int, images: int, size: int) -> bool:
        """Whether a request has been admitted with this ticket. Then it must `leave`.

        Args:
            ticket: Whatever number came with it.
            images: Images of the request.
            size: Bytes of its encoded images.
        """
        return self._ledger is not None and self._ledger.enter(ticket, images, size, self._step)

    def leave(self, ticket: int) -> None:
        """A request has left this step that had entered it."""
        if self._ledger:
            self._ledger.leave(ticket, self._step)

    def admit(self, images: int, size: int) -> tuple[int, str | None]:
        """Ask for entry, as `Admission.admit`, for a request without a ticket.

        At most half of the limits is for such requests, as far as there is room; one alone is always admitted.
        """
        ledger = self._ledger
        if ledger is None:  # there is no first step, whose limits these are
            return 0, None
        with ledger.locked():
            half = Load(ledger.limits.images // 2, ledger.limits.size // 2)
            direct = ledger.load(DIRECT)
            for inside, limits in ((direct, half), (ledger.load(OF_ENSEMBLE, DIRECT), ledger.limits)):
                if direct.images and limits.is_passed(inside, images, size):
                    return 0, refusal_text(inside, limits, images, size)
            ticket = ledger.issue(images, size, DIRECT)
        return (0, _NO_ROOM) if ticket is None else (ticket, None)

    def release(self, ticket: int) -> None:
        """Give a ticket back that this step asked for."""
        if self._ledger:
            self._ledger.give_back(ticket)
