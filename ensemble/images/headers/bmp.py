"""BMP: reads the size; a bitmap that is not compressed must be there whole."""

import struct

from ensemble.images.headers.header import Header, unreadable

SIGNATURE = b"BM"

_FILE_HEADER = 14
_OS2_HEADER = 12
_COMPRESSED = frozenset((1, 2))  # RLE8 and RLE4: how long they are only their decoder knows.


def read(data: bytes) -> Header:
    """The image of a BMP file.

    Raises:
        ImageError: `unreadable_image` where the header is damaged or pixels are missing.
    """
    if len(data) < _FILE_HEADER + _OS2_HEADER:
        raise unreadable(f"the BMP is cut at byte {len(data)}, before its size; fetch the file again")
    offset, header = struct.unpack_from("<II", data, 10)
    compression = 0
    if header == _OS2_HEADER:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        if header < 40 or len(data) < _FILE_HEADER + header:
            raise unreadable(f"the BMP header declares a length of {header} bytes")
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)
    if width <= 0 or height == 0:
        raise unreadable(f"the BMP header declares {width}×{height} pixels")
    needed = offset + (width * bits + 31) // 32 * 4 * height
    if compression in _COMPRESSED:
        return Header("BMP", width, height, len(data), data)
    if needed > len(data):
        raise unreadable(f"the BMP is cut: {needed} bytes are needed and {len(data)} are there; fetch the file again")
    return Header("BMP", width, height, needed, data[:needed])
