"""JPEG (ITU-T T.81): walks the segments up to the first image's end marker."""

import re
import struct

import numpy as np

from ensemble import status
from ensemble.images.errors import ImageError
from ensemble.images.headers.header import MAX_PARTS, Header, too_many_parts, unreadable

SIGNATURE = b"\xff\xd8\xff"

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # TEM and RST0 … RST7 have no length.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 … SOF15, without DHT, JPG and DAC
_ARITHMETIC = frozenset(range(0xC9, 0xD0)) - {0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
# Application data and comments that no pixel depends on. JFIF (APP0) and Adobe (APP14) tell the colours, Exif (APP1)
# the orientation.
_APPLICATION = frozenset((*range(0xE0, 0xF0), 0xFE))
_IGNORED = _APPLICATION - {0xE0, 0xE1, 0xEE}
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SMALL_FILE = 1 << 17
"""Bytes of the largest file that is searched for markers by an expression: it is quick, but holds up the other threads.
Larger files take NumPy, which holds up nobody."""
_FIRST_BLOCK, _LARGEST_BLOCK = 1 << 8, 1 << 18
"""Bytes of those that are searched at once: few first, so that markers close by cost little, then ever more."""

_COEFFICIENTS = 64
_NONE = 0xFF
"""In the place of the lowest bit of a coefficient that is known: there is none yet."""

MAX_SCANS = 64
"""Passes over all pixels that a JPEG may take; encoders write about ten. Each costs the decoder time, and few bytes."""


def read(data: bytes) -> Header:
    """The first image of a JPEG file.

    Raises:
        ImageError: `truncated_image` where the pixels stop before their end marker, a colour has none at all, or the
            last scans of a progressive file are missing;
            `unreadable_image` where the file is damaged before them.
    """
    parts = [b"\xff\xd8"]
    position = 2
    size: tuple[int, int] | None = None
    progressive = False
    known: dict[int, bytearray] = {}  # Of each colour component, for each coefficient of a block: the lowest bit told.
    scans = 0
    for _ in range(MAX_PARTS):
        start = _next_marker(data, position)
        marker = data[start + 1] if start < len(data) else _SOI
        if marker == _EOI:
            break
        if marker in _STANDALONE:
            position = start + 2
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker in _APPLICATION:
            end = max(end, start + 4)  # A length that does not count itself: decoders go on behind it.
        if marker == _SOI or end < start + 4 or end > len(data):
            raise _cut(scans > 0, start)
        if marker in _FRAMES and size is None:
            size, components = _frame(data[start + 4 : end])
            known = {each: bytearray([_NONE] * _COEFFICIENTS) for each in components}
            progressive = marker in _PROGRESSIVE
        if marker == _SOS:
            if size is None:
                raise unreadable("JPEG pixels without a header of their size")
            _note_scan(known, data[start + 4 : end], progressive)
            scans += 1
            if scans > MAX_SCANS:
                raise unreadable(f"a JPEG of more than {MAX_SCANS} scans; re-encode the image")
            end = _next_marker(data, end, in_scan=True)
        if marker not in _IGNORED:
            parts.append(data[start:end])
        position = end
    else:
        raise too_many_parts("JPEG segments")
    if size is None or not scans:
        raise unreadable("a JPEG without pixels")
    if absent := sum(bits[0] == _NONE for bits in known.values()):
        raise _without_pixels(f"has pixels for {len(known) - absent} of its {len(known)} colour components")
    if any(map(any, known.values())):
        raise _without_pixels("stops before the scans of its last details")
    return Header("JPEG", *size, start + 2, b"".join((*parts, b"\xff\xd9")))


def is_arithmetic(still: bytes) -> bool:
    """Whether the first frame of a still JPEG is coded arithmetically: the decoder then fills in what is missing."""
    position = 2
    while position + 4 <= len(still) and still[position + 1] != _SOS:
        if still[position + 1] in _FRAMES:
            return still[position + 1] in _ARITHMETIC
        position += 2 + int.from_bytes(still[position + 2 : position + 4], "big")
    return False


def with_padded_scans(still: bytes, padding: bytes) -> bytes:
    """The same still image with bytes put behind all its coded pixels: before each marker that ends or parts a scan.

    A decoder skips them, unless it has run out of pixels there and takes them for such.

    Args:
        still: As `Header.still`.
        padding: Bytes without 0xFF.
    """
    parts: list[bytes] = []
    position = 2
    kept = 0
    while position + 4 <= len(still):
        marker = still[position + 1]
        position += 2 + int.from_bytes(still[position + 2 : position + 4], "big")
        if marker == _SOS:
            end = _next_marker(still, position, in_scan=True)
            while (restart := _next_marker(still, position)) < end:
                parts += (still[kept:restart], padding)
                kept, position = restart, restart + 2
            parts += (still[kept:end], padding)
            kept = position = end
    return b"".join((*parts, still[kept:]))


def _frame(payload: bytes) -> tuple[tuple[int, int], frozenset[int]]:
    """Width and height, and the components' numbers."""
    if len(payload) < 6 or len(payload) < 6 + 3 * payload[5]:
        raise unreadable("the JPEG header of the size is too short")
    _, height, width, count = struct.unpack_from(">BHHB", payload)
    if 0 in (width, height, count):
        raise unreadable(f"the JPEG header declares {width}×{height} pixels of {count} colour components")
    return (width, height), frozenset(payload[6 : 6 + 3 * count : 3])


def _note_scan(known: dict[int, bytearray], payload: bytes, progressive: bool) -> None:
    """Takes note of the coefficients that a scan tells, down to which bit; one that is not progressive tells all."""
    count = payload[0] if payload else 0
    if len(payload) < 4 + 2 * count:
        raise unreadable("the JPEG header of a scan is too short")
    first, last, successive = payload[1 + 2 * count : 4 + 2 * count]
    if not progressive and (first or successive >> 4):
        return
    told = range(first, min(last + 1, _COEFFICIENTS)) if progressive else range(_COEFFICIENTS)
    for component in known.keys() & payload[1 : 1 + 2 * count : 2]:
        for coefficient in told:
            known[component][coefficient] = successive & 0x0F if progressive else 0


def _next_marker(data: bytes, position: int, *, in_scan: bool = False) -> int:
    """Where the next marker is, skipping fill bytes and, as decoders do, bytes that belong to nothing.

    Args:
        data: The file.
        position: Where to start.
        in_scan: Whether restart markers are no markers.

    Returns:
        Where its 0xFF lies; the file's length where there is none.
    """
    if not in_scan and data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] not in _NO_MARKER:
        return position
    if len(data) <= _SMALL_FILE:
        expression = _MARKER_IN_SCAN if in_scan else _MARKER
        found = expression.search(data, position)
        return found.start() if found else len(data)
    pixels = np.frombuffer(data, np.uint8)
    length = _FIRST_BLOCK
    while position + 1 < len(data):
        block = pixels[position : position + length]
        length = min(2 * length, _LARGEST_BLOCK)
        second = block[1:]
        markers = (block[:-1] == 0xFF) & (second != 0x00) & (second != 0xFF)
        if in_scan:
            markers &= (second & 0xF8) != 0xD0
        if markers.any():
            return position + int(markers.argmax())
        position += len(block) - 1
    return len(data)


_NO_MARKER = (b"", b"\x00", b"\xff")


def _without_pixels(what: str) -> ImageError:
    return ImageError(status.TRUNCATED_IMAGE, f"the JPEG {what}; fetch the file again")


def _cut(scanned: bool, position: int) -> ImageError:
    if scanned:
        return ImageError(status.TRUNCATED_IMAGE, "the JPEG data stop before their end marker; fetch the file again")
    return unreadable(f"the JPEG header is damaged or cut at byte {position}")
