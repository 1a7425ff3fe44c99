"""WebP (RFC 9649): walks the chunks up to the first frame, which becomes a still image of its own."""

import struct
from collections.abc import Iterator

from ensemble.images.headers.header import MAX_PARTS, Header, too_many_parts, unreadable

_RIFF = 12
_CHUNK = 8
_FRAME = 16
_BITSTREAMS = (b"VP8 ", b"VP8L")


def is_webp(data: bytes) -> bool:
    """Whether a file begins as WebP files do."""
    return data[:4] == b"RIFF" and data[8:_RIFF] == b"WEBP"


def read(data: bytes) -> Header:
    """The first image of a WebP file.

    Raises:
        ImageError: `unreadable_image` where a chunk that pixels depend on is missing, cut or damaged.
    """
    canvas: tuple[int, int] | None = None
    for kind, start, end in _chunks(data, _RIFF, min(len(data), _CHUNK + int.from_bytes(data[4:8], "little"))):
        if kind == b"VP8X":
            canvas = _canvas(data[start:end])
        elif kind in _BITSTREAMS:
            width, height = _size(kind, data[start:end])
            if canvas not in (None, (width, height)):
                raise unreadable(f"the WebP has {width}×{height} pixels for a canvas of {canvas}")
            return Header("WEBP", width, height, end, _still(kind, data[start:end]))
        elif kind == b"ANMF":
            return _first_frame(data, start, end, canvas)
    raise unreadable("a WebP without pixels")


def _first_frame(data: bytes, start: int, end: int, canvas: tuple[int, int] | None) -> Header:
    x, y, width, height = (
        int.from_bytes(data[start + offset : start + offset + 3], "little") for offset in (0, 3, 6, 9)
    )
    x, y, width, height = 2 * x, 2 * y, width + 1, height + 1
    if canvas is None or end < start + _FRAME or x + width > canvas[0] or y + height > canvas[1]:
        raise unreadable("the first frame of the WebP leaves its canvas")
    for kind, first, last in _chunks(data, start + _FRAME, end):
        if kind in _BITSTREAMS:
            if _size(kind, data[first:last]) != (width, height):
                raise unreadable("the first frame of the WebP has not the size that it declares")
            return Header("WEBP", *canvas, end, _still(kind, data[first:last]), (x, y))
    raise unreadable("the first frame of the WebP has no pixels")


def _chunks(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk's contents."""
    for _ in range(MAX_PARTS):
        if position + _CHUNK > end:
            return
        kind = data[position : position + 4]
        (length,) = struct.unpack_from("<I", data, position + 4)
        start = position + _CHUNK
        if start + length > end:
            raise unreadable(
                f"the WebP is cut: a chunk declares {length} bytes and {end - start} follow; fetch the file again"
            )
        yield kind, start, start + length
        position = start + length + length % 2
    raise too_many_parts("WebP chunks")


def _canvas(payload: bytes) -> tuple[int, int]:
    if len(payload) < 10:
        raise unreadable("the WebP header is too short")
    return int.from_bytes(payload[4:7], "little") + 1, int.from_bytes(payload[7:10], "little") + 1


def _size(kind: bytes, payload: bytes) -> tuple[int, int]:
    if kind == b"VP8 ":
        if len(payload) < 10 or payload[3:6] != b"\x9d\x01\x2a":
            raise unreadable("the WebP's pixels do not begin with their header")
        width, height = struct.unpack_from("<HH", payload, 6)
        width, height = width & 0x3FFF, height & 0x3FFF
    else:
        if len(payload) < 5 or payload[0] != 0x2F:
            raise unreadable("the WebP's pixels do not begin with their header")
        bits = int.from_bytes(payload[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if 0 in (width, height):
        raise unreadable(f"the WebP header declares {width}×{height} pixels")
    return width, height


def _still(kind: bytes, payload: bytes) -> bytes:
    padding = b"\x00" * (len(payload) % 2)
    chunk = struct.pack("<4sI", kind, len(payload)) + payload + padding
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunk), b"WEBP") + chunk
