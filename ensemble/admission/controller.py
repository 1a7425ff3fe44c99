"""The rule by which requests are admitted; without clock and connection."""

from dataclasses import dataclass

from ensemble.contract import OVERLOADED, STUCK, refusal

SILENCE_SECONDS = 10.0
"""Seconds without any release that are never unusual."""


@dataclass(frozen=True)
class Load:
    """Images, and bytes of encoded images."""

    images: int
    size: int

    def is_passed(self, inside: "Load", images: int, size: int) -> bool:
        """Whether so much more beside what is inside would be over this, taken as the limit."""
        return inside.images + images > self.images or inside.size + size > self.size


NOTHING = Load(0, 0)


@dataclass(frozen=True)
class _Admitted:
    images: int
    size: int
    since: float
    number: int


class AdmissionController:
    """Counts what is inside.

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
    def permits(self) -> list[int]:
        """The permits of the requests inside."""
        return list(self._inside)

    @property
    def images(self) -> int:
        """Images inside."""
        return sum(each.images for each in self._inside.values())

    @property
    def size(self) -> int:
        """Bytes of encoded images inside."""
        return sum(each.size for each in self._inside.values())

    def admit(self, permit: int, images: int, size: int, now: float, others: Load = NOTHING) -> str | None:
        """Ask for entry. A request that comes to an empty server is always admitted.

        Args:
            permit: What will be released; a number that is not inside.
            images: Images of the request.
            size: Bytes of its encoded images.
            now: A clock in seconds that never goes back.
            others: What is inside beside those that this controller admitted.

        Returns:
            None where it is admitted, else why not: a sentence that begins with `OVERLOADED` or `STUCK`.
        """
        self._forget_lost(now)
        if not self._inside:
            self._heard = now
        inside = Load(self.images + others.images, self.size + others.size)
        limits = Load(self.max_images, self.max_bytes)
        if self._inside and limits.is_passed(inside, images, size):
            silent = now - self._heard
            # A slow network is silent for as long as its batch takes, so the silences heard so far are no sign. After
            # a longer one, all inside may have been given up: one request is let in to find out, ever more rarely.
            if silent <= (SILENCE_SECONDS + 2 * self._longest_silence) * (2**self._extra):
                stuck = silent > SILENCE_SECONDS + 2 * self._longest_silence
                return refusal_text(inside, limits, images, size, silent if stuck else None)
            self._extra += 1
        self._number += 1
        self._inside[permit] = _Admitted(images, size, now, self._number)
        return None

    def release(self, permit: int, now: float) -> None:
        """Take note that a request has left; a permit that is not inside is ignored."""
        left = self._inside.pop(permit, None)
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
        allowed = SILENCE_SECONDS + 3 * self._longest_stay
        lost = [
            permit
            for permit, each in self._inside.items()
            if each.number < self._last_released and now - each.since > allowed
        ]
        for permit in lost:
            del self._inside[permit]


def refusal_text(inside: Load, limits: Load, images: int, size: int, silent: float | None = None) -> str:
    """Why a request is refused, in words.

    Args:
        inside: What is in the server.
        limits: What may be.
        images: Images of the request.
        size: Bytes of its encoded images.
        silent: Seconds since something left, where that is unusually long.
    """
    held = f"{inside.images} images ({inside.size / 2**20:.0f} MiB) are in the server"
    most = f"its limits of {limits.images} images and {limits.size / 2**20:.0f} MiB"
    advice = "send them again a little later, or ask for less at a time"
    why = f"the queue is full: {held}, and {images} more ({size / 2**20:.0f} MiB) would be over {most}; {advice}"
    if silent is None:
        return refusal(OVERLOADED, why)
    return refusal(STUCK, f"nothing has left for {silent:.0f} s, and {why}")
