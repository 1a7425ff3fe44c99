"""How often a server was restarted, and how long to wait before the next start. Pure bookkeeping, no clock."""

from collections.abc import Mapping
from dataclasses import dataclass

GIVE_UP_AFTER = 5  # starts in a row that failed
STEADY_AFTER = 10.0  # seconds of service after which earlier ends are forgotten
LONGEST_PAUSE = 60.0  # seconds between two starts


@dataclass
class Restarts:
    """What has happened so far.

    Attributes:
        total: Restarts since the launcher began.
        in_a_row: Ends in a row, each after a short service or none.
        failed_starts: Starts in a row that came to no service at all.
        last_request: SHA-256 of the images of the request that was last under way when a server ended; empty where
            none was.
    """

    total: int = 0
    in_a_row: int = 0
    failed_starts: int = 0
    last_request: str = ""

    def server_ended(self, served: float | None, last_request: str) -> None:
        """Take note of an end.

        Args:
            served: For how many seconds the server had served; None where its start failed.
            last_request: As the attribute.
        """
        self.total += 1
        self.failed_starts = self.failed_starts + 1 if served is None else 0
        self.in_a_row = 1 if served is not None and served > STEADY_AFTER else self.in_a_row + 1
        self.last_request = last_request

    @property
    def hopeless(self) -> bool:
        """Whether to give up: a server that does start is started again, however often it ends."""
        return self.failed_starts >= GIVE_UP_AFTER

    @property
    def pause(self) -> float:
        """Seconds to wait before the next start."""
        return min(LONGEST_PAUSE, 2.0 ** min(self.in_a_row - 2, 10)) if self.in_a_row > 1 else 0.0

    def describe(self, reason: str) -> str:
        """One line that tells of the end and of what comes."""
        when = f" in {self.pause:g} s" if self.pause else ""
        often = f" (number {self.in_a_row} in a row, {self.total} in all)" if self.in_a_row > 1 else ""
        suspect = f"; under way was the request with SHA-256 {self.last_request}" if self.last_request else ""
        return f"RESTARTING{when} because {reason}{often}{suspect}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What the next server is told, for its metrics."""
        return {
            "DEEPFAKE_DETECTOR_RESTARTS": str(self.total),
            "DEEPFAKE_DETECTOR_LAST_REQUEST": self.last_request,
        }
