"""Headers to the byte: the largest and smallest sizes, and what is one byte too short."""

import struct

import pytest

from ensemble import status
from ensemble.images import ImageError, Limits
from ensemble.images.headers import jpeg, read_header
from ensemble.images.headers.header import MAX_PARTS
from tests.wellformed import FILES, bmp, png, png_chunk, riff

SIDE = 1 << 31


def refused(data: bytes, words: str = "", code: str = status.UNREADABLE_IMAGE) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        read_header(data)
    assert caught.value.status == code


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (SIDE, 1), (1, SIDE), (1 << 32, 1)])
def test_a_png_of_no_size_or_of_one_beyond_the_format_is_refused(width: int, height: int) -> None:
    refused(png(width % (1 << 32), height, bytes(10)), "the PNG header declares")


def test_a_png_of_the_format_s_largest_size_is_read() -> None:
    header = read_header(png(SIDE - 1, 7, bytes(10)))
    assert (header.width, header.height) == (SIDE - 1, 7)


def test_a_png_begins_with_a_header_of_its_length() -> None:
    data = png(4, 4, bytes(52))
    start = data.index(b"IHDR") - 4
    for payload in (b"", bytes(12), bytes(14)):
        refused(data[:start] + png_chunk(b"IHDR", payload) + data[start + 25 :], "does not begin with its header")
    refused(data[:start] + png_chunk(b"tEXt", bytes(13)) + data[start:], "does not begin with its header")


def test_a_png_needs_pixels() -> None:
    data = png(4, 4, bytes(52))
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    refused(data[:start] + data[end:], "a PNG without pixels")


def jpeg_with(marker: bytes, payload: bytes) -> bytes:
    """A JPEG whose first segment of a kind is another."""
    data = FILES["jpeg_plain"]
    start = data.index(marker)
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return data[:start] + marker + (len(payload) + 2).to_bytes(2, "big") + payload + data[end:]


FRAME = b"\x08\x00\x65\x00\x89\x03" + bytes((1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1))


def test_a_jpeg_s_size_is_read_from_a_whole_header_alone() -> None:
    header = read_header(jpeg_with(b"\xff\xc0", FRAME))
    assert (header.width, header.height) == (0x89, 0x65)
    for short in (FRAME[:-1], FRAME[:5], b""):
        refused(jpeg_with(b"\xff\xc0", short), "header of the size is too short")
    for at in (1, 3):
        refused(jpeg_with(b"\xff\xc0", FRAME[:at] + b"\0\0" + FRAME[at + 2 :]), "the JPEG header declares")
    refused(jpeg_with(b"\xff\xc0", FRAME[:5] + b"\0" + FRAME[6:]), "of 0 colour components")


def test_of_several_headers_of_its_size_a_jpeg_s_first_counts() -> None:
    data = FILES["jpeg_plain"]
    scan = data.index(b"\xff\xda")
    other = b"\xff\xc0" + (len(FRAME) + 2).to_bytes(2, "big") + FRAME.replace(b"\x89", b"\x88")
    header = read_header(data[:scan] + other + data[scan:])
    assert (header.width, header.height) == (137, 101)


@pytest.mark.parametrize(
    "odd",
    [
        b"\xff\x01\xff\xd0\xff\xd7",  # markers without a length
        b"\xff\xe5\0\0",  # lengths that do not count themselves
        b"\xff\xfe\0\1",
    ],
)
def test_what_decoders_pass_over_is_passed_over(odd: bytes) -> None:
    data = FILES["jpeg_plain"]
    scan = data.index(b"\xff\xda")
    header = read_header(data[:scan] + odd + data[scan:])
    assert (header.still, header.end) == (read_header(data).still, len(data) + len(odd))


@pytest.mark.parametrize("marker", [0xC4, 0xC8, 0xCC])
def test_no_other_segment_is_taken_for_the_header_of_the_size(marker: int) -> None:
    """Their numbers lie among those of the headers, and they may stand before it."""
    data = FILES["jpeg_plain"]
    other = bytes((0xFF, marker)) + (len(FRAME) + 2).to_bytes(2, "big") + FRAME.replace(b"\x89", b"\x88")
    header = read_header(data[:2] + other + data[2:])
    assert (header.width, header.height) == (137, 101)
    assert not jpeg.is_arithmetic(header.still)


def test_a_jpeg_needs_a_header_of_its_size_and_pixels() -> None:
    data = FILES["jpeg_plain"]
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    refused(data[:scan] + b"\xff\xd9", "a JPEG without pixels")
    refused(data[:2] + b"\xff\xd9", "a JPEG without pixels")
    refused(data[:frame] + data[scan:], "pixels without a header of their size")
    refused(data[:scan] + b"\xff\xd8\0\4ab" + data[scan:], "the JPEG header is damaged")  # it begins anew


def test_a_jpeg_s_scan_needs_a_whole_header() -> None:
    scan = b"\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00"
    assert read_header(jpeg_with(b"\xff\xda", scan)).width == 137
    for short in (scan[:-1], scan[:1], b""):
        refused(jpeg_with(b"\xff\xda", short), "header of a scan is too short")


@pytest.mark.parametrize(
    "scan",
    [
        b"\x03\x01\x00\x02\x11\x03\x11\x01\x3f\x00",  # from the second coefficient on
        b"\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x10",  # a refinement of what was told before
        b"\x01\x01\x00\x00\x3f\x00",  # one colour of three
    ],
)
def test_a_scan_that_does_not_tell_the_mean_of_each_block_leaves_colours_without_pixels(scan: bytes) -> None:
    refused(jpeg_with(b"\xff\xda", scan), "of its 3 colour components", status.TRUNCATED_IMAGE)


LOSSY = FILES["webp_lossy"][20:]


def lossless(width: int, height: int) -> bytes:
    return b"\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little") + bytes(4)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (16384, 3), (3, 16384)])
def test_a_lossless_webp_has_sides_of_14_bits(width: int, height: int) -> None:
    header = read_header(riff([(b"VP8L", lossless(width, height))]))
    assert (header.width, header.height) == (width, height)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (b"VP8L", lossless(3, 3)[:4]),
        (b"VP8L", b"\x2e" + lossless(3, 3)[1:]),
        (b"VP8 ", LOSSY[:9]),
        (b"VP8 ", LOSSY[:3] + b"\x9d\x01\x2b" + LOSSY[6:]),
        (b"VP8 ", LOSSY[:3] + b"\x9c\x01\x2a" + LOSSY[6:]),
    ],
)
def test_a_webp_s_pixels_begin_with_their_header(kind: bytes, payload: bytes) -> None:
    refused(riff([(kind, payload)]), "do not begin with their header")


@pytest.mark.parametrize(("kind", "payload"), [(b"VP8L", lossless(137, 101)[:5]), (b"VP8 ", LOSSY[:10])])
def test_that_header_alone_tells_a_webp_s_size(kind: bytes, payload: bytes) -> None:
    header = read_header(riff([(kind, payload)]))
    assert (header.width, header.height) == (137, 101)


def test_chunks_of_odd_length_are_padded() -> None:
    data = riff([(b"EXIF", b"odd"), (b"VP8L", lossless(5, 7))])
    header = read_header(data)
    assert (header.width, header.height) == (5, 7)
    assert header.still == riff([(b"VP8L", lossless(5, 7))])


@pytest.mark.parametrize(("width", "height"), [(0, 9), (9, 0), (1 << 14, 9)])
def test_a_lossy_webp_of_no_size_is_refused(width: int, height: int) -> None:
    refused(riff([(b"VP8 ", LOSSY[:6] + struct.pack("<HH", width, height) + LOSSY[10:])]), "the WebP header declares")


def test_the_scale_in_a_lossy_webp_is_no_part_of_its_size() -> None:
    header = read_header(riff([(b"VP8 ", LOSSY[:6] + struct.pack("<HH", 20 | 1 << 14, 10 | 3 << 14) + LOSSY[10:])]))
    assert (header.width, header.height) == (20, 10)


def test_a_webp_s_canvas_must_be_whole_and_the_size_of_a_still_image() -> None:
    canvas = bytes(4) + (136).to_bytes(3, "little") + (100).to_bytes(3, "little")
    assert read_header(riff([(b"VP8X", canvas), (b"VP8 ", LOSSY)])).width == 137
    refused(riff([(b"VP8X", canvas[:9]), (b"VP8 ", LOSSY)]), "header is too short")
    for size in ((137, 100), (136, 101), (100, 136)):
        other = bytes(4) + b"".join(side.to_bytes(3, "little") for side in size)
        refused(riff([(b"VP8X", other), (b"VP8 ", LOSSY)]), "137×101 pixels for a canvas of")


def test_an_animation_needs_a_canvas_a_whole_frame_and_pixels_in_it() -> None:
    frame = bytes(3) + bytes(3) + (136).to_bytes(3, "little") + (100).to_bytes(3, "little") + bytes(4)
    canvas = (b"VP8X", b"\2" + bytes(3) + (136).to_bytes(3, "little") + (100).to_bytes(3, "little"))
    whole = frame + FILES["webp_lossy"][12:]
    assert read_header(riff([canvas, (b"ANMF", whole)])).canvas == (0, 0)
    refused(riff([(b"ANMF", whole)]), "leaves its canvas")
    refused(riff([canvas, (b"ANMF", frame[:15])]), "leaves its canvas")
    refused(riff([canvas, (b"ANMF", frame)]), "has no pixels")
    smaller = frame[:6] + (135).to_bytes(3, "little") + frame[9:] + FILES["webp_lossy"][12:]
    refused(riff([canvas, (b"ANMF", smaller)]), "not the size that it declares")


def test_what_lies_behind_the_length_of_a_webp_is_not_looked_at() -> None:
    data = riff([(b"EXIF", b"ab")])
    refused(data + LOSSY[:0] + b"VP8 " + struct.pack("<I", len(LOSSY)) + LOSSY, "a WebP without pixels")
    whole = riff([(b"VP8 ", LOSSY)])
    for length in (len(whole) - 10, len(whole) - 9):  # its chunk lies beyond, by two bytes and by one
        refused(whole[:4] + struct.pack("<I", length) + whole[8:], "the WebP is cut")


@pytest.mark.parametrize("kind", [0, 2, 5, 13, 17])
def test_a_tiff_s_sides_are_integers(kind: int) -> None:
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, 9) for tag in (256, 257))
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4)
    refused(data, "the TIFF's directory declares 0×0 pixels")


@pytest.mark.parametrize(("order", "sign"), [("<", b"II"), (">", b"MM")])
@pytest.mark.parametrize(("kind", "code"), [(1, "B3x"), (3, "H2x"), (4, "I")])
def test_a_tiff_s_sides_have_their_bytes_where_their_type_has_them(
    order: str, sign: bytes, kind: int, code: str
) -> None:
    sides = (200, 90)
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(order + code, side)
        for tag, side in zip((256, 257), sides, strict=True)
    )
    magic = struct.pack(f"{order}HI", 42, 8)
    data = sign + magic + struct.pack(f"{order}H", 2) + entries
    header = read_header(data)  # to the last byte of the directory, and no further
    assert (header.width, header.height, header.end) == (*sides, len(data))
    refused(data[:-1], "has 2 entries, more than")


def test_of_fields_that_are_there_twice_the_first_counts() -> None:
    """As decoders have it."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, side) for tag, side in ((256, 9), (256, 8), (257, 7), (257, 6)))
    header = read_header(b"II*\0\x08\0\0\0" + struct.pack("<H", 4) + entries + bytes(4))
    assert (header.width, header.height) == (9, 7)
    data = png(4, 5, bytes(70), before=png_chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 7, 8, 2, 0, 0, 0)))
    assert (read_header(data).width, read_header(data).height) == (4, 5)


def test_a_tiff_s_directory_must_lie_in_the_file() -> None:
    refused(b"II*\0\x08\0\0\0", "its directory lies at byte 8, and it has 8 bytes")
    refused(b"II*\0\x09\0\0\0\0\0", "its directory lies at byte 9, and it has 10 bytes")
    refused(b"II*\0\0\0", "the TIFF is cut")


def test_a_bmp_needs_its_size_and_a_header_that_is_known() -> None:
    data = bmp(5, 3, bytes(16 * 3), bits=24)
    assert (read_header(data).width, read_header(data).height) == (5, 3)
    refused(data[:25], "the BMP is cut at byte 25, before its size")
    for length in (0, 11, 13, 39, 1000, 1 << 31):
        refused(data[:14] + struct.pack("<I", length) + data[18:], f"declares a length of {length} bytes")


def test_the_sides_of_an_old_bmp_are_never_negative() -> None:
    data = b"BM" + bytes(8) + struct.pack("<IIHHHH", 26, 12, 40_000, 1, 1, 1) + bytes(5000)
    header = read_header(data)
    assert (header.width, header.height, header.end) == (40_000, 1, 26 + 5000)


@pytest.mark.parametrize(("width", "height"), [(0, 3), (-5, 3), (5, 0)])
def test_a_bmp_of_no_size_is_refused(width: int, height: int) -> None:
    refused(bmp(width, height, bytes(48), bits=24), "the BMP header declares")


@pytest.mark.parametrize(
    ("width", "bits", "row"), [(1, 1, 4), (32, 1, 4), (33, 1, 8), (5, 24, 16), (3, 32, 12), (4, 8, 4)]
)
def test_rows_of_a_bmp_end_at_four_bytes(width: int, bits: int, row: int) -> None:
    for height in (2, -2):
        data = bmp(width, height, bytes(2 * row), bits=bits)
        header = read_header(data + b"trailer")
        assert (header.height, header.end, header.still) == (2, len(data), data)
        refused(data[:-1], "bytes are needed")


@pytest.mark.parametrize("compression", [1, 2])
def test_only_its_decoder_knows_how_long_a_compressed_bmp_is(compression: int) -> None:
    data = bmp(50, 50, bytes(3), bits=8, compression=compression)
    assert read_header(data).end == len(data)
    refused(bmp(50, 50, bytes(3), bits=8, compression=3), "bytes are needed")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"GIF89a" + bytes(50), b"RIFF\0\0\0\0WAVE", b"II*", b"\x89PNG"])
def test_anything_else_is_of_no_format(data: bytes) -> None:
    refused(data, "no header of a JPEG, PNG, WEBP, BMP, TIFF file found", status.UNSUPPORTED_FORMAT)


def test_no_file_takes_more_steps_than_its_bound() -> None:
    assert MAX_PARTS == 20_000


def limit(code: str, limits: Limits, width: int, height: int) -> None:
    with pytest.raises(ImageError) as caught:
        limits.check_size(width, height)
    assert caught.value.status == code


def test_the_limits_are_those_that_the_documentation_names() -> None:
    limits = Limits()
    assert (limits.max_bytes, limits.max_pixels) == (32 << 20, 50_000_000)
    limits.check_size(10_000, 5000)
    limit(status.TOO_MANY_PIXELS, limits, 10_000, 5001)
    limits.check_file(bytes(limits.max_bytes))
    with pytest.raises(ImageError, match="bytes are over the limit") as caught:
        limits.check_file(bytes(limits.max_bytes + 1))
    assert caught.value.status == status.TOO_MANY_BYTES
    with pytest.raises(ImageError) as caught:
        limits.check_file(b"")
    assert caught.value.status == status.EMPTY_IMAGE


def test_an_image_is_too_elongated_where_its_square_would_be_too_large() -> None:
    limits = Limits(max_pixels=256 * 256 * 10)
    limits.check_size(7, 70)
    limits.check_size(70, 7)
    limit(status.TOO_ELONGATED, limits, 7, 71)
    limit(status.TOO_ELONGATED, limits, 71, 7)
