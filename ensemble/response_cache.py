"""Answers that are kept, so that a repeated image costs no network: by a cryptographic digest of all that was asked.

The cache lives in the memory of one server. It ends with it, so that it never holds an answer of other weights, another
calibration or other settings than those that are served.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

_ENTRY_BYTES = 400
"""What an entry takes beside its values, about: its key, its place in the order, and their objects."""

_VALUE_BYTES = 48
"""What a value takes beside its bytes."""

Row = tuple[bytes, ...]
"""The outputs for one image, each as its bytes."""

SEARCH_SUCCEEDED = frozenset({"supplied", "raw", "not_needed"})
"""Values of FACE_SOURCE that no failure of a face network can have led to."""


class ResponseCache:
    """The rows that were used last, up to a size; threads may share it.

    Args:
        max_bytes: Memory that the rows may take, in bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rows: OrderedDict[bytes, Row] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def get(self, key: bytes) -> Row | None:
        """The row that was kept; None where there is none."""
        with self._lock:
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
            return row

    def put(self, key: bytes, row: Row) -> None:
        """Keeps a row, in place of those that were not used for longest."""
        with self._lock:
            if (old := self._rows.pop(key, None)) is not None:
                self.bytes -= _size(old)
            self._rows[key] = row
            self.bytes += _size(row)
            while self.bytes > self._max_bytes:
                _, oldest = self._rows.popitem(last=False)
                self.bytes -= _size(oldest)


def key_of(inputs: Mapping[str, bytes | None]) -> bytes:
    """What stands for an image with all that is asked of it, in 32 bytes: SHA-256 of names, lengths and contents.

    Args:
        inputs: Each input's value for the image by its name; None where it was not given.
    """
    digest = hashlib.sha256()
    for name, value in sorted(inputs.items()):
        length = -1 if value is None else len(value)
        digest.update(f"{name}={length};".encode())
        digest.update(value or b"")
    return digest.digest()


def is_kept(status: str, face_source: str, *, face_networks: bool) -> bool:
    """Whether an answer is one that the same image will always get.

    Args:
        status: Of the image. Others than `ok` may come of a shortage that passes.
        face_source: Where its face comes from.
        face_networks: Whether networks search for faces. Where one fails, the search goes on without it, so what is
            found later, or not at all, may be found otherwise the next time.
    """
    return status == "ok" and (not face_networks or face_source in SEARCH_SUCCEEDED)


def missing(rows: Sequence[Row | None]) -> list[int]:
    """The places of the images that have no row yet."""
    return [index for index, row in enumerate(rows) if row is None]


def _size(row: Row) -> int:
    return _ENTRY_BYTES + sum(len(value) + _VALUE_BYTES for value in row)
