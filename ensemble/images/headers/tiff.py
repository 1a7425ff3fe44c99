"""TIFF and BigTIFF: reads the size in the first directory. Its pixels may lie anywhere, so the file stays whole."""

import numpy as np
import numpy.typing as npt

from ensemble.images.headers.header import Header, unreadable

SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

_WIDTH, _HEIGHT = 256, 257
_INTEGERS = {1: 1, 3: 2, 4: 4, 16: 8}  # Types of a field: BYTE, SHORT, LONG, LONG8, with their lengths in bytes.


def read(data: bytes) -> Header:
    """The first image of a TIFF file.

    Raises:
        ImageError: `unreadable_image` where its directory is damaged or lies beyond the file's end.
    """
    order = "<" if data.startswith(b"II") else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    word, fields = (8, 8) if big else (4, 2)  # Lengths of an offset and of the number of entries.
    entry = np.dtype(
        [("tag", f"{order}u2"), ("type", f"{order}u2"), ("count", f"{order}u{word}"), ("value", f"V{word}")]
    )

    def integer(start: int, length: int) -> int:
        if start + length > len(data):
            raise unreadable(f"the TIFF is cut: its directory lies at byte {start}, and it has {len(data)} bytes")
        return int.from_bytes(data[start : start + length], "little" if order == "<" else "big")

    directory = integer(8 if big else 4, word)
    count = integer(directory, fields)
    if directory + fields + count * entry.itemsize > len(data):
        raise unreadable(f"the TIFF's directory has {count} entries, more than its {len(data)} bytes hold")
    entries = np.frombuffer(data, entry, count, directory + fields)
    width, height = (_value(entries[entries["tag"] == tag], order) for tag in (_WIDTH, _HEIGHT))
    if 0 in (width, height):
        raise unreadable(f"the TIFF's directory declares {width}×{height} pixels")
    return Header("TIFF", width, height, len(data), data)


def _value(entries: npt.NDArray[np.void], order: str) -> int:
    """The only value of a field; 0 where there is none."""
    if not len(entries) or int(entries[0]["type"]) not in _INTEGERS:
        return 0
    length = _INTEGERS[int(entries[0]["type"])]
    return int.from_bytes(entries[0]["value"].tobytes()[:length], "little" if order == "<" else "big")
