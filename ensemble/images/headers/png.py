"""PNG (ISO/IEC 15948): walks the chunks; of an animation the default image is kept."""

import struct

from ensemble.images.headers.header import MAX_PARTS, Header, too_many_parts, unreadable

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Ancillary chunks that pixels depend on: transparency, which OpenCV reads, and Exif's orientation. The others are
# metadata, whose faults are of no account, or animation. Critical chunks (a capital first letter) are all kept.
_KEPT = frozenset((b"tRNS", b"eXIf"))
_END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk. The file's own may be damaged, and no pixel depends on it."""


def read(data: bytes) -> Header:
    """The still image of a PNG file.

    Raises:
        ImageError: `unreadable_image` where a chunk that pixels depend on is missing, cut or out of place.
    """
    parts = [SIGNATURE]
    position = len(SIGNATURE)
    size: tuple[int, int] | None = None
    pixels = False
    for _ in range(MAX_PARTS):
        if position + 12 > len(data):
            raise unreadable(f"the PNG is cut at byte {len(data)}, before its end; fetch the file again")
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            raise unreadable(
                f"the PNG is cut: a chunk declares {length} bytes and {len(data) - position - 8} follow; "
                "fetch the file again"
            )
        if size is None:
            size = _size(kind, data[position + 8 : end - 4])
        position, start = end, position
        if kind == b"IEND":
            break
        if kind[:1].isupper() or kind in _KEPT:
            parts.append(data[start:end])
        pixels |= kind == b"IDAT"
    else:
        raise too_many_parts("PNG chunks")
    if not pixels:
        raise unreadable("a PNG without pixels")
    return Header("PNG", *size, position, b"".join((*parts, _END)))


def _size(kind: bytes, payload: bytes) -> tuple[int, int]:
    if kind != b"IHDR" or len(payload) != 13:
        raise unreadable("the PNG does not begin with its header")
    width, height = struct.unpack_from(">II", payload)
    if 0 in (width, height) or max(width, height) >= 1 << 31:
        raise unreadable(f"the PNG header declares {width}×{height} pixels")
    return width, height
