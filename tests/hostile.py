"""Files that people and attackers send: each with the status it must get."""

import random
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import PIL.Image

from ensemble import status
from tests.golden import IMAGES, read_rgb
from tests.wellformed import bmp, opencv, pillow, png, png_chunk

PHOTO = read_rgb(IMAGES[0])


@dataclass(frozen=True)
class Case:
    """One file and the status that its image must get."""

    name: str
    data: bytes
    status: str


def encode(image: np.ndarray, extension: str) -> bytes:
    """An image as OpenCV writes it."""
    return opencv(image, extension)


def png_declaring(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header declares any size."""
    return png(width, height, bytes(100))


def png_with_idat_of(declared: int) -> bytes:
    """A PNG of a few bytes whose chunk of pixels declares any length."""
    whole = png(64, 64, bytes(100))
    start = whole.index(b"IDAT") - 4
    return whole[:start] + struct.pack(">I", declared) + whole[start + 4 : -20]


def animated_png(*, first_is_bad: bool) -> bytes:
    """An animated PNG with a row whose filter does not exist; where that is the second frame, the first is whole."""
    rows = (b"\0" + bytes(range(192))) * 64
    bad = b"\x09" + rows[1:]

    def control(number: int) -> bytes:
        return png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 64, 64, 0, 0, 1, 10, 0, 0))

    second = png_chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(rows if first_is_bad else bad))
    return png(
        64,
        64,
        bad if first_is_bad else rows,
        before=png_chunk(b"acTL", struct.pack(">II", 2, 0)) + control(0),
        between=control(1) + second,
    )


def with_fill_bytes(jpeg: bytes, count: int) -> bytes:
    """A JPEG with legal fill bytes in front of its first segment."""
    return jpeg[:2] + b"\xff" * count + jpeg[2:]


def _png_chunks() -> dict[str, bytes]:
    """Faults in metadata that no pixel depends on."""
    size, rows = (PHOTO.shape[1], PHOTO.shape[0]), b"".join(b"\0" + row.tobytes() for row in PHOTO)
    crc = png_chunk(b"tEXt", b"Comment\0hello")[:-4] + b"\x12\x34\x56\x78"
    faults = {
        "bad_crc_text": crc,
        "gama_short": png_chunk(b"gAMA", b"\0\0"),
        "srgb_empty": png_chunk(b"sRGB", b""),
        "ztxt_method1": png_chunk(b"zTXt", b"a\0\1" + zlib.compress(b"text")),
        "iccp_garbage": png_chunk(b"iCCP", b"name\0\0garbage"),
        "phys_short": png_chunk(b"pHYs", b"\0"),
        "actl_alone": png_chunk(b"acTL", struct.pack(">II", 0xFFFFFFFF, 0)),
        "exif_garbage": png_chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    }
    return {name: png(*size, rows, before=chunk) for name, chunk in faults.items()}


def _jpeg_ends() -> dict[str, tuple[bytes, str]]:
    """JPEGs that end early, or that something follows."""
    photo = PIL.Image.fromarray(PHOTO)
    jpeg, progressive, restarts = (
        pillow(photo, "JPEG", **options) for options in ({}, {"progressive": True}, {"restart_marker_rows": 2})
    )
    thumbnail = pillow(photo.resize((160, 160)), "JPEG")
    with_thumbnail = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 8 + len(thumbnail)) + b"Exif\0\0" + thumbnail + jpeg[2:]
    half, end = len(jpeg) // 2, b"\xff\xd9"
    chance = random.Random(0)
    trailer = b"".join(chance.randbytes(50) + bytes((0xFF, marker)) for marker in range(0xC0, 0x100))
    first_restart = restarts.index(b"\xff\xd0")
    scans = [index for index in range(len(progressive)) if progressive.startswith(b"\xff\xda", index)]
    return {
        "motion_photo": (jpeg + b"\0\0\0\x18ftypmp42" + trailer, status.OK),
        "second_image_cut": (jpeg + thumbnail[:-2], status.OK),
        "second_image": (jpeg + progressive, status.OK),
        "half_eoi": (jpeg[:half] + end, status.TRUNCATED_IMAGE),
        "half_eoi_progressive": (progressive[: scans[-1] + 60] + end, status.TRUNCATED_IMAGE),
        "half_eoi_fill": (jpeg[:half] + b"\xff" * 9 + end, status.TRUNCATED_IMAGE),
        "half_then_second": (jpeg[:half] + end + thumbnail, status.TRUNCATED_IMAGE),
        "half_without_end_then_second": (jpeg[:half] + thumbnail, status.TRUNCATED_IMAGE),
        # The decoder complains of the first fault alone, and that one is harmless.
        "half_eoi_behind_garbage": (
            restarts[:first_restart] + b"abc" + restarts[first_restart:half] + end,
            status.TRUNCATED_IMAGE,
        ),
        "garbage_before_restart": (restarts[:first_restart] + b"abc" + restarts[first_restart:], status.OK),
        "thumbnail": (with_thumbnail, status.OK),
        "half_with_thumbnail": (with_thumbnail[: -half + 500], status.TRUNCATED_IMAGE),
        "colours_missing": (_first_scan_only(progressive, scans) + end, status.TRUNCATED_IMAGE),
        "without_end": (jpeg[:-2], status.TRUNCATED_IMAGE),
        "adobe_short": (jpeg[:2] + b"\xff\xee\0\7Adobe" + jpeg[2:], status.OK),
        "fill_bytes_100k": (with_fill_bytes(jpeg, 100_000), status.OK),
        "segments": (jpeg[:2] + b"\xff\xfe\0\2" * 100_000 + jpeg[2:], status.UNREADABLE_IMAGE),
        "height_0": (_without_height(jpeg), status.UNREADABLE_IMAGE),
        "length_0": (jpeg[:2] + b"\xff\xfe\0\0" + jpeg[2:], status.OK),
        "length_1": (jpeg[:2] + b"\xff\xe1\0\1" + jpeg[2:], status.OK),
        "length_of_scan_0": (jpeg.replace(b"\xff\xda\0\x0c", b"\xff\xda\0\0"), status.UNREADABLE_IMAGE),
        "exif_directory_beyond": (
            jpeg[:2] + b"\xff\xe1\0\x10Exif\0\0II*\0\xff\xff\xff\xff" + jpeg[2:],
            status.OK,
        ),
        "scans_1000": (
            progressive[: scans[1]] + progressive[scans[0] : scans[1]] * 1000 + progressive[scans[1] :],
            status.UNREADABLE_IMAGE,
        ),
        "restarts_alone": (
            jpeg[: jpeg.index(b"\xff\xda") + 14] + b"\xff\xd0\xff\xd1" * 9999 + end,
            status.TRUNCATED_IMAGE,
        ),
        "of_45_megapixels_without_them": (_of_size(jpeg, 65500, 680), status.TRUNCATED_IMAGE),
    }


def _first_scan_only(progressive: bytes, scans: list[int]) -> bytes:
    """A progressive JPEG whose only scan names the luminance alone."""
    start = scans[0]
    header = b"\xff\xda\0\x08\x01\x01\x00\x00\x00\x01"
    return progressive[:start] + header + progressive[start + 14 : scans[1]]


def _of_size(jpeg: bytes, width: int, height: int) -> bytes:
    frame = jpeg.index(b"\xff\xc0")
    return jpeg[: frame + 5] + struct.pack(">HH", height, width) + jpeg[frame + 9 :]


def _without_height(jpeg: bytes) -> bytes:
    frame = jpeg.index(b"\xff\xc0")
    return jpeg[: frame + 5] + b"\0\0" + jpeg[frame + 7 :]


def _png_with_text_of(count: int) -> bytes:
    packer = zlib.compressobj(9)
    block = bytes(1 << 24)
    text = b"".join(packer.compress(block) for _ in range(count >> 24)) + packer.flush()
    return png(64, 64, (b"\0" + bytes(192)) * 64, before=png_chunk(b"zTXt", b"a\0\0" + text))


def _png_with_two_headers() -> bytes:
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    return png(64, 64, (b"\0" + bytes(192)) * 64, before=png_chunk(b"IHDR", header))


def _tiff_directories() -> dict[str, bytes]:
    head = b"II*\0" + struct.pack("<I", 8)
    return {
        "tiff_entries_65535": head + b"\xff\xff" + bytes(100),
        "tiff_directory_beyond": b"II*\0\xff\xff\xff\xff" + bytes(100),
        "tiff_big_directory_beyond": b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(100),
        "tiff_big_entries": b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 63) + bytes(100),
        "tiff_empty_directory": head + bytes(100),
        "tiff_strips_1000000000": head + _tiff_entries(1_000_000_000) + bytes(100),
        "tiff_next_is_the_first": head + _tiff_entries(1)[:-4] + struct.pack("<I", 8) + bytes(100),
    }


def _tiff_entries(strips: int) -> bytes:
    entries = [(256, 1, 64), (257, 1, 64), (258, 1, 8), (259, 1, 1), (262, 1, 2), (277, 1, 3)]
    entries += [(273, strips, 8), (278, 1, 1), (279, strips, 8)]
    packed = [struct.pack("<HHII", tag, 4, count, value) for tag, count, value in sorted(entries)]
    return struct.pack("<H", len(packed)) + b"".join(packed) + bytes(4)


def _rotated() -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return pillow(PIL.Image.fromarray(PHOTO[:200]), "JPEG", exif=exif)


def _cases() -> list[Case]:
    photo = PIL.Image.fromarray(PHOTO)
    frames = [photo, photo.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)]
    animated = {"save_all": True, "append_images": frames[1:], "duration": 100}
    palette = photo.quantize(16)
    palette.info["transparency"] = 3
    jpeg, photo_png = encode(PHOTO, ".jpg"), IMAGES[0].read_bytes()
    wide = np.repeat(PHOTO.astype(np.uint16) * 257, 1, axis=0)
    return [
        Case("empty", b"", status.EMPTY_IMAGE),
        Case("text", b"this is no image\n" * 20, status.UNSUPPORTED_FORMAT),
        Case("html", b"<!doctype html><title>404</title>", status.UNSUPPORTED_FORMAT),
        Case("gif_animated", pillow(photo, "GIF", **animated), status.UNSUPPORTED_FORMAT),
        Case("pdf", b"%PDF-1.7\n" + b"0" * 500, status.UNSUPPORTED_FORMAT),
        Case("jpeg_half", jpeg[: len(jpeg) // 2], status.TRUNCATED_IMAGE),
        Case("jpeg_header", jpeg[:200], status.UNREADABLE_IMAGE),
        Case("png_half", photo_png[: len(photo_png) // 2], status.UNREADABLE_IMAGE),
        Case("webp_half", encode(PHOTO, ".webp")[:2000], status.UNREADABLE_IMAGE),
        Case("bmp_half", encode(PHOTO, ".bmp")[:9000], status.UNREADABLE_IMAGE),
        Case("tiff_half", encode(PHOTO, ".tiff")[:9000], status.UNREADABLE_IMAGE),
        Case("png_60000", png_declaring(60000, 60000), status.TOO_MANY_PIXELS),
        Case("png_0x0", png_declaring(0, 0), status.UNREADABLE_IMAGE),
        Case("png_1x60000", encode(np.zeros((1, 60000, 3), np.uint8), ".png"), status.TOO_ELONGATED),
        Case("too_long", photo_png + bytes(40_000_000), status.TOO_MANY_BYTES),
        Case("png_photo", photo_png, status.OK),
        Case("jpeg_photo", jpeg, status.OK),
        Case("jpeg_trailing_bytes", jpeg + b"trailer", status.OK),
        Case("webp_photo", encode(PHOTO, ".webp"), status.OK),
        Case("bmp_photo", encode(PHOTO, ".bmp"), status.OK),
        Case("tiff_photo", encode(PHOTO, ".tiff"), status.OK),
        Case("jpeg_progressive", pillow(photo, "JPEG", progressive=True), status.OK),
        Case("jpeg_cmyk", pillow(photo.convert("CMYK"), "JPEG"), status.OK),
        Case("jpeg_grey", pillow(photo.convert("L"), "JPEG"), status.OK),
        Case("jpeg_rotated", _rotated(), status.OK),
        Case("png_16bit", encode(wide, ".png"), status.OK),
        Case("png_palette_alpha", pillow(palette, "PNG", transparency=3), status.OK),
        Case("png_grey_alpha", pillow(photo.convert("LA"), "PNG"), status.OK),
        Case("png_rgba", pillow(photo.convert("RGBA"), "PNG"), status.OK),
        Case("png_1bit", pillow(photo.convert("1"), "PNG"), status.OK),
        Case("png_animated", pillow(photo, "PNG", **animated), status.OK),
        Case("webp_animated", pillow(photo, "WEBP", **animated), status.OK),
        Case("tiff_pages", pillow(photo, "TIFF", save_all=True, append_images=frames[1:]), status.OK),
        Case("tiff_16bit", encode(wide, ".tiff"), status.OK),
        Case("png_1x1", encode(np.full((1, 1, 3), 200, np.uint8), ".png"), status.OK),
        *(Case(f"png_{name}", data, status.OK) for name, data in _png_chunks().items()),
        *(Case(f"jpeg_{name}", data, expected) for name, (data, expected) in _jpeg_ends().items()),
        *(Case(name, data, status.UNREADABLE_IMAGE) for name, data in _tiff_directories().items()),
        Case("png_idat_2_gigabytes", png_with_idat_of(2_000_000_000), status.UNREADABLE_IMAGE),
        Case("png_idat_of_4_gigabytes", png_with_idat_of(0xFFFFFFFF), status.UNREADABLE_IMAGE),
        Case("png_chunks", png(8, 8, bytes(200), before=png_chunk(b"tEXt", b"") * 100_000), status.UNREADABLE_IMAGE),
        Case("png_animated_bad_filter", animated_png(first_is_bad=True), status.UNREADABLE_IMAGE),
        Case("png_animated_bad_second", animated_png(first_is_bad=False), status.OK),
        Case("png_text_of_64_megabytes", _png_with_text_of(1 << 26), status.OK),
        Case("png_two_headers", _png_with_two_headers(), status.UNREADABLE_IMAGE),
        Case("bmp_runs_of_49_megapixels", bmp(7000, 7000, bytes(100), bits=8, compression=1), status.UNREADABLE_IMAGE),
        Case("png_rows_missing", png(64, 64, bytes(193 * 40)), status.UNREADABLE_IMAGE),
        Case("png_without_end", photo_png[:-12], status.UNREADABLE_IMAGE),
        Case("webp_animated_cut", pillow(photo, "WEBP", **animated)[:-4000], status.OK),
        Case("bmp_65535", bmp(65535, 65535, b"", bits=1), status.UNREADABLE_IMAGE),
        Case("png_3x2000", encode(np.full((3, 2000, 3), 90, np.uint8), ".png"), status.OK),
    ]


CASES = _cases()
