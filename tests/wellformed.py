"""Well-formed files of every kind that OpenCV reads, small; and how to write the parts of one by hand."""

import io
import struct
import zlib
from collections.abc import Iterable

import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.PngImagePlugin

from tests.golden import IMAGES, read_rgb

PHOTO = PIL.Image.fromarray(read_rgb(IMAGES[0])[40:141, 60:197])
"""137×101 pixels: no side is a multiple of a block's."""


def pillow(image: PIL.Image.Image, kind: str, **options: object) -> bytes:
    """An image as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opencv(image: np.ndarray, extension: str, *parameters: int) -> bytes:
    """An image as OpenCV writes it."""
    ok, data = cv2.imencode(extension, image, parameters)
    assert ok
    return data.tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int,
    height: int,
    rows: bytes,
    *,
    depth: int = 8,
    colour: int = 2,
    interlaced: bool = False,
    before: bytes = b"",
    between: bytes = b"",
    parts: int = 1,
) -> bytes:
    """A PNG of rows, each with its filter's number in front.

    Args:
        width: In pixels.
        height: In pixels.
        rows: Uncompressed; with `interlaced` those of the seven passes.
        depth: Bits of a sample.
        colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        interlaced: Whether the rows are those of Adam7.
        before: Chunks before the pixels.
        between: Chunks behind the pixels.
        parts: Number of chunks of pixels.
    """
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    data = zlib.compress(rows)
    size = -(-len(data) // parts)
    pixels = b"".join(png_chunk(b"IDAT", data[start : start + size]) for start in range(0, len(data), size))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + between + png_chunk(b"IEND", b"")


def interlaced_png(image: np.ndarray) -> bytes:
    """An RGB image in the seven passes of Adam7."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = [
        b"\x00" + row.tobytes()
        for x, y, across, down in passes
        for row in image[y::down, x::across]
        if image[y::down, x::across].size
    ]
    return png(image.shape[1], image.shape[0], b"".join(rows), interlaced=True)


def riff(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A WebP of chunks."""
    body = b"".join(struct.pack("<4sI", kind, len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(body), b"WEBP") + body


def _u24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


def webp_animation(canvas: tuple[int, int], frame: bytes, size: tuple[int, int], place: tuple[int, int]) -> bytes:
    """A WebP of two equal frames, each a still WebP's only chunk, at an even place on a canvas."""
    header = b"".join(map(_u24, (place[0] // 2, place[1] // 2, size[0] - 1, size[1] - 1, 100))) + b"\0"
    chunks = [
        (b"VP8X", b"\x02\0\0\0" + _u24(canvas[0] - 1) + _u24(canvas[1] - 1)),
        (b"ANIM", b"\xff\x80\x40\xff\0\0"),
        (b"ANMF", header + frame[12:]),
        (b"ANMF", header + frame[12:]),
    ]
    return riff(chunks)


def bmp(width: int, height: int, pixels: bytes, *, bits: int, compression: int = 0, masks: bytes = b"") -> bytes:
    """A BMP with a grey palette up to 8 bits; a negative height means top-down."""
    greys = np.linspace(0, 255, 1 << bits).astype(np.uint8).tolist() if bits <= 8 else []
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in greys)
    offset = 54 + len(palette) + len(masks)
    sizes = (40, width, height, 1, bits, compression, len(pixels), 0, 0, len(greys), 0)
    header = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    return header + struct.pack("<IiiHHIIiiII", *sizes) + masks + palette + pixels


def tiff(image: np.ndarray, *, order: str = "<", tile: int | None = None) -> bytes:
    """An RGB TIFF without compression, in one strip or in tiles."""
    height, width = image.shape[:2]
    if tile is None:
        blocks = [image.tobytes()]
    else:
        down, across = -(-height // tile), -(-width // tile)
        padded = np.zeros((down * tile, across * tile, 3), np.uint8)
        padded[:height, :width] = image
        cells = [(y * tile, x * tile) for y in range(down) for x in range(across)]
        blocks = [padded[y : y + tile, x : x + tile].tobytes() for y, x in cells]
    pixels = b"".join(blocks)
    lengths = [len(block) for block in blocks]
    starts = [8 + sum(lengths[:number]) for number in range(len(blocks))]
    tags = [(256, [width]), (257, [height]), (258, [8, 8, 8]), (259, [1]), (262, [2]), (277, [3])]
    if tile is None:
        tags += [(273, starts), (278, [height]), (279, lengths)]
    else:
        tags += [(322, [tile]), (323, [tile]), (324, starts), (325, lengths)]
    tags.sort()
    directory = 8 + len(pixels)
    extra = directory + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, numbers in tags:
        data = b"".join(struct.pack(f"{order}I", number) for number in numbers)
        if len(numbers) > 1:
            values, data = values + data, struct.pack(f"{order}I", extra + len(values))
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + data
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, directory)
    return head + pixels + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0) + values


def _exif(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return exif


def _jpegs() -> dict[str, bytes]:
    rgb = PHOTO
    plain, cmyk = pillow(rgb, "JPEG"), pillow(rgb.convert("CMYK"), "JPEG")
    scan = plain.index(b"\xff\xda")
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    files = {
        "plain": plain,
        "progressive": pillow(rgb, "JPEG", progressive=True),
        "grey": pillow(rgb.convert("L"), "JPEG"),
        "grey_progressive": pillow(rgb.convert("L"), "JPEG", progressive=True),
        "cmyk": cmyk,
        "cmyk_progressive": pillow(rgb.convert("CMYK"), "JPEG", progressive=True),
        "rgb": pillow(rgb, "JPEG", keep_rgb=True),
        "restarts": pillow(rgb, "JPEG", restart_marker_blocks=3),
        "progressive_restarts": pillow(rgb, "JPEG", progressive=True, restart_marker_rows=1),
        "comment_icc": pillow(rgb, "JPEG", comment=b"x" * 3000, icc_profile=profile),
        "optimised": pillow(rgb, "JPEG", optimize=True, quality=100),
        "fill_bytes": plain[:scan] + b"\xff" * 500 + plain[scan:],
        "fill_before_end": plain[:-2] + b"\xff" * 9 + plain[-2:],
        "garbage_between": plain[:scan] + b"\0garbage\xff\0" + plain[scan:],
        "extraneous_at_end": plain[:-2] + b"\x12\x34\x56" + plain[-2:],
        "trailer": plain + b"trailer \xff\xda \xff\xd8\xff",
        "second_image": plain + plain,
        "thumbnail_in_exif": plain[:2] + _app1(b"Exif\0\0" + pillow(rgb.resize((16, 12)), "JPEG")) + plain[2:],
        "jfif_2": plain.replace(b"JFIF\0\x01", b"JFIF\0\x02"),
        "adobe_9": plain[:2] + _adobe(9) + plain[2:],
        # Without JFIF's segment, Adobe's alone tells how colours are coded: as they are, or in YCCK.
        "adobe_rgb": plain[:2] + _adobe(0) + plain[20:],
        "adobe_ycck": cmyk.replace(_adobe(0), _adobe(2)),
    }
    files |= {f"quality_{quality}": pillow(rgb, "JPEG", quality=quality) for quality in (1, 30, 95)}
    files |= {f"subsampling_{name}": pillow(rgb, "JPEG", subsampling=name) for name in ("4:4:4", "4:2:2", "4:2:0")}
    files |= {f"exif_{number}": pillow(rgb, "JPEG", exif=_exif(number)) for number in range(1, 9)}
    return files


def _adobe(transform: int) -> bytes:
    return b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


def _app1(payload: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", 2 + len(payload)) + payload


def _pngs() -> dict[str, bytes]:
    rgb, array = PHOTO, np.asarray(PHOTO)
    rows = b"".join(b"\x00" + row.tobytes() for row in array)
    wide = array.astype(np.uint16) * 257
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 2000, zip=True)
    text.add_itxt("Title", "ä")
    transparent = rgb.quantize(16)
    size = rgb.size
    frames = {"save_all": True, "append_images": [rgb.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)], "duration": 90}
    grey2 = np.packbits(
        np.unpackbits(np.asarray(rgb.convert("L"))[:, :, None], axis=2)[:, :136, :2].reshape(101, -1), 1
    )
    files = {mode.replace(";", "_"): pillow(rgb.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")}
    return (
        files
        | {
            "16bit_rgb": opencv(wide, ".png"),
            "16bit_grey": opencv(wide[:, :, 0], ".png"),
            "16bit_rgba": opencv(np.dstack((wide, wide[:, :, 0])), ".png"),
            "2bit_grey": png(136, 101, b"".join(b"\x00" + row.tobytes() for row in grey2), depth=2, colour=0),
            "palette_4": pillow(rgb.quantize(4), "PNG", bits=2),
            "palette_alpha": pillow(transparent, "PNG", transparency=3),
            "grey_transparent": pillow(rgb.convert("L"), "PNG", transparency=90),
            "rgb_transparent": pillow(rgb, "PNG", transparency=rgb.getpixel((3, 3))),
            "interlaced": interlaced_png(array),
            "interlaced_3x2": interlaced_png(array[:2, :3]),
            "many_parts": png(*size, rows, parts=40),
            "text": pillow(rgb, "PNG", pnginfo=text, dpi=(72, 72)),
            "gamma_profile": png(*size, rows, before=png_chunk(b"gAMA", b"\0\1\0\0") + png_chunk(b"bKGD", bytes(6))),
            "too_many_pixels_coded": png(*size, rows + rows[:500]),
            "chunk_behind": png(*size, rows, between=png_chunk(b"tEXt", b"Comment\0behind")),
            "animated": pillow(rgb, "PNG", **frames),
            "animated_default_apart": pillow(rgb, "PNG", default_image=True, **frames),
            "trailer": pillow(rgb, "PNG") + b"trailer",
        }
        | {f"exif_{number}": pillow(rgb, "PNG", exif=_exif(number)) for number in range(1, 9)}
    )


def _webps() -> dict[str, bytes]:
    rgb = PHOTO
    rgba = rgb.copy()
    rgba.putalpha(PIL.Image.linear_gradient("L").resize(rgb.size))
    frames = {"save_all": True, "append_images": [rgb.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)], "duration": 90}
    small = rgb.resize((40, 31))
    return {
        "lossy": pillow(rgb, "WEBP"),
        "lossless": pillow(rgb, "WEBP", lossless=True),
        "lossy_alpha": pillow(rgba, "WEBP"),
        "lossless_alpha": pillow(rgba, "WEBP", lossless=True),
        "exif_6": pillow(rgb, "WEBP", exif=_exif(6)),
        "animated": pillow(rgb, "WEBP", **frames),
        "animated_lossless": pillow(rgb, "WEBP", lossless=True, **frames),
        "frame_on_canvas": webp_animation((70, 50), pillow(small, "WEBP"), small.size, (6, 14)),
        "lossless_frame_on_canvas": webp_animation((70, 50), pillow(small, "WEBP", lossless=True), small.size, (30, 0)),
        "trailer": pillow(rgb, "WEBP") + b"trailer",
    }


def _bmps() -> dict[str, bytes]:
    rgb, grey = PHOTO, np.asarray(PHOTO.convert("L"))
    run = bytes((64, 100, 0, 0))
    packed = (np.asarray(PHOTO)[:20, :32].astype(np.uint16) >> 3) @ np.array([1 << 10, 1 << 5, 1], np.uint16)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    return {
        "rgb": pillow(rgb, "BMP"),
        "grey": pillow(rgb.convert("L"), "BMP"),
        "palette": pillow(rgb.quantize(64), "BMP"),
        "bits_1": pillow(rgb.convert("1"), "BMP"),
        "rgba": pillow(rgb.convert("RGBA"), "BMP"),
        "bits_4": bmp(32, 20, grey[:20, :16].tobytes(), bits=4),
        "top_down": bmp(32, -20, np.asarray(rgb)[:20, :32].tobytes(), bits=24),
        "bits_15": bmp(32, 20, packed.astype("<u2").tobytes(), bits=16),
        "bits_16": bmp(32, 20, packed.astype("<u2").tobytes(), bits=16, compression=3, masks=masks),
        "rle8": bmp(64, 64, run * 64 + b"\0\1", bits=8, compression=1),
        "rle8_absolute": bmp(4, 2, b"\0\4\1\2\3\4\0\0\4\7\0\1", bits=8, compression=1),
        "rle4": bmp(64, 64, bytes((64, 0x3A, 0, 0)) * 64 + b"\0\1", bits=4, compression=2),
        "trailer": pillow(rgb, "BMP") + b"trailer",
    }


def _tiffs() -> dict[str, bytes]:
    rgb, array = PHOTO, np.asarray(PHOTO)
    wide = array.astype(np.uint16) * 257
    rgba = rgb.copy()
    rgba.putalpha(PIL.Image.linear_gradient("L").resize(rgb.size))
    files = {
        f"rgb_{name}": pillow(rgb, "TIFF", compression=name)
        for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    }
    return (
        files
        | {
            "grey": pillow(rgb.convert("L"), "TIFF"),
            "palette": pillow(rgb.quantize(64), "TIFF"),
            "bits_1": pillow(rgb.convert("1"), "TIFF"),
            "group3": pillow(rgb.convert("1"), "TIFF", compression="group3"),
            "group4": pillow(rgb.convert("1"), "TIFF", compression="group4"),
            "rgba": pillow(rgba, "TIFF"),
            "cmyk": pillow(rgb.convert("CMYK"), "TIFF"),
            "16bit": opencv(wide, ".tiff"),
            "16bit_grey": opencv(wide[:, :, 0], ".tiff"),
            "float": opencv(array.astype(np.float32), ".tiff"),
            "pages": pillow(rgb, "TIFF", save_all=True, append_images=[rgb.rotate(90)]),
            "big": pillow(rgb, "TIFF", big_tiff=True),
            "big_endian": tiff(array, order=">"),
            "tiles": tiff(array[:96, :96], tile=32),  # OpenCV reads no tiles that leave the image.
            "tiles_big_endian": tiff(array[:64, :96], tile=32, order=">"),
            "orientation_6": pillow(rgb, "TIFF", tiffinfo={274: 6}),
            "trailer": pillow(rgb, "TIFF") + b"trailer",
        }
    )


def _sizes() -> dict[str, bytes]:
    files = {}
    for width, height in ((1, 1), (2, 1), (7, 3), (8, 8), (16, 17), (300, 5)):
        image = PHOTO.resize((width, height))
        for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
            files[f"{kind.lower()}_{width}x{height}"] = pillow(image, kind)
    return files


FILES: dict[str, bytes] = {
    **{f"jpeg_{name}": data for name, data in _jpegs().items()},
    **{f"png_{name}": data for name, data in _pngs().items()},
    **{f"webp_{name}": data for name, data in _webps().items()},
    **{f"bmp_{name}": data for name, data in _bmps().items()},
    **{f"tiff_{name}": data for name, data in _tiffs().items()},
    **_sizes(),
}
"""By name."""
