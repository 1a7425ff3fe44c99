"""What the steps do with the ledger: the first one admits, the last one releases, and those between look at permits."""

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
            The permit, and why the request is refused (None: it is admitted, and the permit must be released).
        """
        with self._ledger.locked():
            self._collect()
            direct = self._ledger.load(DIRECT)
            permit = self._ledger.issue(images, size)
            if permit is None:
                return 0, _NO_ROOM
            before = {permit, *self._controller.permits}
            refused = self._controller.admit(permit, images, size, time.monotonic(), direct)
            for gone in before.difference(self._controller.permits):
                if gone == permit:  # refused
                    self._ledger.release(gone)
                else:
                    self._ledger.lose(gone)
            return permit, refused

    def note(self, permit: int, images: Iterable[bytes]) -> None:
        """Write down the SHA-256 of the images, one after the other, of a request that is inside."""
        digest = hashlib.sha256()
        for image in images:
            digest.update(image)
        self._ledger.note(permit, digest.digest())

    def release(self, permit: int) -> None:
        """Give a permit back: for a request that goes no further than this step."""
        self._ledger.release(permit)

    def _collect(self) -> None:
        for permit in self._controller.permits:
            left = self._ledger.left_at(permit)
            if left is not None:
                self._controller.release(permit, left)


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
    """The last step's side: gives permits back."""

    def __call__(self, permits: Iterable[int]) -> None:
        """Give these permits back; numbers that are none are ignored."""
        if ledger := self._ledger:
            for permit in set(permits):
                ledger.release(permit)


class StepAdmission(_LaterStep):
    """The side of a step that works on encoded images, and that strangers may call by its name.

    A request of an ensemble comes with the permit of the first step, whose place it takes. Any other asks for a permit
    of its own.

    Args:
        step: A power of two, another one for each step of an ensemble.
    """

    def __init__(self, step: int = 1) -> None:
        super().__init__()
        self._step = step

    def enter(self, permit: int, images: int, size: int) -> bool:
        """Whether a request has been admitted with this permit, which takes it to this step once.

        Args:
            permit: Whatever number came with it.
            images: Images of the request.
            size: Bytes of its encoded images.
        """
        return self._ledger is not None and self._ledger.enter(permit, images, size, self._step)

    def admit(self, images: int, size: int) -> tuple[int, str | None]:
        """Ask for entry, as `Admission.admit`, for a request without a permit.

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
            permit = ledger.issue(images, size, DIRECT)
        return (0, _NO_ROOM) if permit is None else (permit, None)

    def release(self, permit: int) -> None:
        """Give a permit back that this step asked for."""
        if self._ledger:
            self._ledger.release(permit)
