"""Which requests were under way when a server ended: by the ledger that its first step keeps for admission.

The ledger is memory without a name, which the launcher finds among the step's open files and keeps mapped, so that it
outlives the step.
"""

import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_NAME = "/memfd:deepfake_admission"
_SLOT = struct.Struct(
    "<qdd32s14xh"
)  # permit (0: free), when it left, since when, SHA-256 of the request's images, kind
_LOST = 2  # the kind of those that are taken for lost


class InFlight:
    """The requests that are under way in one server.

    Args:
        processes: The server's processes, of which one keeps the ledger. Where none does, nothing is known.
    """

    def __init__(self, processes: Iterable[int]) -> None:
        self._memory = next(filter(None, map(_map_ledger, processes)), None)

    def last(self) -> str:
        """The SHA-256 of the images of the request that came last of those under way; empty where there is none."""
        slots = [] if self._memory is None else _SLOT.iter_unpack(self._memory[:])
        under_way = [
            (since, digest) for permit, _, since, digest, kind in slots if permit and any(digest) and kind != _LOST
        ]
        return max(under_way)[1].hex() if under_way else ""


def _map_ledger(process: int) -> mmap.mmap | None:
    try:
        links = list(Path(f"/proc/{process}/fd").iterdir())
    except OSError:  # it has ended
        return None
    for link in links:
        try:
            if str(link.readlink()).startswith(_NAME):
                descriptor = os.open(link, os.O_RDONLY)
                try:
                    return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
                finally:
                    os.close(descriptor)
        except OSError:
            continue
    return None
