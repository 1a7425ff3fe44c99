"""Files that people and attackers send: each with the status it must get."""

import io
import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image

from ensemble import status
from tests.golden import IMAGES, read_rgb

PHOTO = read_rgb(IMAGES[0])


@dataclass(frozen=True)
class Case:
    """One file and the status that its image must get."""

    name: str
    data: bytes
    status: str


def encode(image: np.ndarray, extension: str) -> bytes:
    """An image as OpenCV writes it."""
    ok, data = cv2.imencode(extension, image)
    assert ok
    return data.tobytes()


def _pillow(image: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_declaring(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header declares any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def _rotated() -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return _pillow(PIL.Image.fromarray(PHOTO[:200]), "JPEG", exif=exif)


def _cases() -> list[Case]:
    photo = PIL.Image.fromarray(PHOTO)
    frames = [photo, photo.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)]
    animated = {"save_all": True, "append_images": frames[1:], "duration": 100}
    palette = photo.quantize(16)
    palette.info["transparency"] = 3
    jpeg, png = encode(PHOTO, ".jpg"), IMAGES[0].read_bytes()
    wide = np.repeat(PHOTO.astype(np.uint16) * 257, 1, axis=0)
    return [
        Case("empty", b"", status.EMPTY_IMAGE),
        Case("text", b"this is no image\n" * 20, status.UNSUPPORTED_FORMAT),
        Case("html", b"<!doctype html><title>404</title>", status.UNSUPPORTED_FORMAT),
        Case("gif_animated", _pillow(photo, "GIF", **animated), status.UNSUPPORTED_FORMAT),
        Case("pdf", b"%PDF-1.7\n" + b"0" * 500, status.UNSUPPORTED_FORMAT),
        Case("jpeg_half", jpeg[: len(jpeg) // 2], status.TRUNCATED_IMAGE),
        Case("jpeg_header", jpeg[:200], status.UNREADABLE_IMAGE),
        Case("png_half", png[: len(png) // 2], status.UNREADABLE_IMAGE),
        Case("webp_half", encode(PHOTO, ".webp")[:2000], status.UNREADABLE_IMAGE),
        Case("bmp_half", encode(PHOTO, ".bmp")[:9000], status.UNREADABLE_IMAGE),
        Case("tiff_half", encode(PHOTO, ".tiff")[:9000], status.UNREADABLE_IMAGE),
        Case("png_60000", png_declaring(60000, 60000), status.TOO_MANY_PIXELS),
        Case("png_0x0", png_declaring(0, 0), status.UNREADABLE_IMAGE),
        Case("png_1x60000", encode(np.zeros((1, 60000, 3), np.uint8), ".png"), status.TOO_ELONGATED),
        Case("too_long", png + bytes(40_000_000), status.TOO_MANY_BYTES),
        Case("png_photo", png, status.OK),
        Case("jpeg_photo", jpeg, status.OK),
        Case("jpeg_trailing_bytes", jpeg + b"trailer", status.OK),
        Case("webp_photo", encode(PHOTO, ".webp"), status.OK),
        Case("bmp_photo", encode(PHOTO, ".bmp"), status.OK),
        Case("tiff_photo", encode(PHOTO, ".tiff"), status.OK),
        Case("jpeg_progressive", _pillow(photo, "JPEG", progressive=True), status.OK),
        Case("jpeg_cmyk", _pillow(photo.convert("CMYK"), "JPEG"), status.OK),
        Case("jpeg_grey", _pillow(photo.convert("L"), "JPEG"), status.OK),
        Case("jpeg_rotated", _rotated(), status.OK),
        Case("png_16bit", encode(wide, ".png"), status.OK),
        Case("png_palette_alpha", _pillow(palette, "PNG", transparency=3), status.OK),
        Case("png_grey_alpha", _pillow(photo.convert("LA"), "PNG"), status.OK),
        Case("png_rgba", _pillow(photo.convert("RGBA"), "PNG"), status.OK),
        Case("png_1bit", _pillow(photo.convert("1"), "PNG"), status.OK),
        Case("png_animated", _pillow(photo, "PNG", **animated), status.OK),
        Case("webp_animated", _pillow(photo, "WEBP", **animated), status.OK),
        Case("tiff_pages", _pillow(photo, "TIFF", save_all=True, append_images=frames[1:]), status.OK),
        Case("tiff_16bit", encode(wide, ".tiff"), status.OK),
        Case("png_1x1", encode(np.full((1, 1, 3), 200, np.uint8), ".png"), status.OK),
        Case("png_3x2000", encode(np.full((3, 2000, 3), 90, np.uint8), ".png"), status.OK),
    ]


CASES = _cases()
