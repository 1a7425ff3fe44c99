"""The reader of headers: size and span of the first image of every kind, and what it refuses without decoding."""

import re
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble import status
from ensemble.images import ImageError, Limits, read_image
from ensemble.images.headers import FORMATS, read_header
from ensemble.images.headers import jpeg as jpeg_reader
from tests import hostile
from tests.wellformed import FILES, PHOTO, pillow, png, png_chunk, riff, tiff, webp_animation

TRAILERS = (b"trailer", b"\xff\xda\xff\xd9\xff\xd8\xff", bytes(1000), FILES["jpeg_plain"])
SELF_CONTAINED = ("JPEG", "PNG", "WEBP", "BMP")
"""Formats whose first image ends where its header says: what follows is not looked at."""


def truth(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


@pytest.mark.parametrize("name", FILES)
def test_size_and_format_are_those_of_the_first_image(name: str) -> None:
    header = read_header(FILES[name])
    expected = truth(FILES[name]).shape[:2]
    assert header.format.lower() == name.split("_")[0]
    assert header.format in FORMATS
    assert (header.height, header.width) in (expected, expected[::-1])
    assert 0 < header.end <= len(FILES[name])


@pytest.mark.parametrize("name", [n for n in FILES if n.split("_")[0].upper() in SELF_CONTAINED and "rle" not in n])
def test_what_follows_the_first_image_changes_nothing(name: str) -> None:
    alone = read_header(FILES[name])
    for trailer in TRAILERS:
        assert read_header(FILES[name] + trailer) == alone
    assert read_header(FILES[name][: alone.end]).still == alone.still


def test_an_animation_becomes_a_still_image() -> None:
    for name in ("png_animated", "png_animated_default_apart", "webp_animated", "webp_animated_lossless"):
        still = read_header(FILES[name]).still
        assert not any(kind in still for kind in (b"acTL", b"fcTL", b"fdAT", b"ANIM", b"ANMF", b"VP8X"))


def test_orientation_and_palette_stay_in_the_still_image_and_text_does_not() -> None:
    assert b"eXIf" in read_header(FILES["png_exif_6"]).still
    assert b"PLTE" in read_header(FILES["png_palette_alpha"]).still
    assert b"tRNS" in read_header(FILES["png_palette_alpha"]).still
    assert b"Exif" in read_header(FILES["jpeg_exif_6"]).still
    assert b"zTXt" in FILES["png_text"]
    assert b"zTXt" not in read_header(FILES["png_text"]).still
    assert len(read_header(FILES["jpeg_comment_icc"]).still) < len(FILES["jpeg_comment_icc"]) - 3000


def test_what_tells_a_jpeg_s_colours_stays() -> None:
    """Without JFIF's segment, components named R, G and B would be taken for those."""
    data = FILES["jpeg_plain"]
    for marker in (b"\xff\xc0", b"\xff\xda"):
        start, step = data.index(marker) + (10 if marker == b"\xff\xc0" else 5), 3 if marker == b"\xff\xc0" else 2
        for number, name in enumerate(b"RGB"):
            data = data[: start + step * number] + bytes((name,)) + data[start + step * number + 1 :]
    assert not np.array_equal(truth(data[:2] + data[20:]), truth(data))
    for each in (data, *(FILES[f"jpeg_{name}"] for name in ("rgb", "cmyk", "adobe_rgb", "adobe_ycck"))):
        np.testing.assert_array_equal(truth(read_header(each).still), truth(each))


def test_a_chunk_that_a_decoder_must_know_stays() -> None:
    data = png(4, 4, bytes(13 * 4), before=png_chunk(b"CgBI", bytes(4)))
    assert b"CgBI" in read_header(data).still


@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith("tiff") and "x" not in n.rsplit("_", 1)[1]])
def test_a_file_cut_anywhere_is_refused(name: str) -> None:
    data = FILES[name]
    whole = read_header(data)
    rng = np.random.default_rng(0)
    ends = {0, 1, 2, 3, 10, whole.end - 1, whole.end - 2, whole.end // 2, *rng.integers(0, whole.end, 40).tolist()}
    for end in sorted(ends):
        try:
            header = read_header(data[:end])
        except ImageError as error:
            expected = {status.UNSUPPORTED_FORMAT} if end < 12 else {status.UNREADABLE_IMAGE, status.TRUNCATED_IMAGE}
            assert error.status in expected | {status.UNREADABLE_IMAGE}  # noqa: PT017
            continue
        # Only what says itself where it ends may be cut behind that: the coded rows of a BMP.
        assert name.startswith("bmp_rle"), end
        assert header.end == end


@pytest.mark.parametrize("length", [1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_declared_length_is_not_believed_beyond_the_bytes_that_are_there(length: int) -> None:
    short = hostile.png_with_idat_of(length)
    big = length.to_bytes(4, "little")
    webp = FILES["webp_lossy"]
    directory = b"II*\0" + big + bytes(20)
    for data in (short, webp[:16] + big + webp[20:200], directory):
        with pytest.raises(ImageError) as caught:
            read_header(data)
        assert caught.value.status == status.UNREADABLE_IMAGE
        assert str(len(data)) in str(caught.value) or "follow" in str(caught.value)


def test_fill_bytes_and_padding_are_skipped_as_decoders_do() -> None:
    plain = FILES["jpeg_plain"]
    for count in (1, 2, 3, 100, 262_143, 262_144, 262_145, 3_000_000):
        assert read_header(hostile.with_fill_bytes(plain, count)).still == read_header(plain).still
    header = read_header(FILES["jpeg_fill_before_end"])
    assert header.end == len(FILES["jpeg_fill_before_end"])
    np.testing.assert_array_equal(truth(header.still), truth(plain))


def test_markers_are_found_across_the_borders_of_the_blocks_that_are_searched() -> None:
    plain = FILES["jpeg_plain"]
    scan = plain.index(b"\xff\xda") + 14
    for count in (*range(250, 262), *range(510, 518), *range(262_144 - 6, 262_144 + 6), *range(523_000, 525_000, 97)):
        data = plain[:scan] + b"\x55" * count + b"\xff\x00\xff\xd3\xff\xff\xd9tail\xff\xd9"
        for trailer in (b"", bytes(1 << 17)):  # files of either way to search
            assert read_header(data + trailer).end == scan + count + 7


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("jpeg", lambda n: FILES["jpeg_plain"][:2] + b"\xff\xfe\0\2" * n + FILES["jpeg_plain"][2:]),
        ("png", lambda n: png(1, 1, bytes(4), before=png_chunk(b"tEXt", b"") * n)),
        ("webp", lambda n: riff([(b"EXIF", b"")] * n + [(b"VP8 ", FILES["webp_lossy"][20:])])),
    ],
)
def test_the_number_of_parts_is_bounded(name: str, parts) -> None:
    assert read_header(parts(5000)).width > 0
    with pytest.raises(ImageError, match="more than 20000") as caught:
        read_header(parts(20_001))
    assert caught.value.status == status.UNREADABLE_IMAGE


def test_the_number_of_scans_is_bounded() -> None:
    """Few bytes make a decoder go over all pixels once more."""
    whole = FILES["jpeg_progressive"]
    scans = [index for index in range(len(whole)) if whole.startswith(b"\xff\xda", index)]
    assert len(scans) < 20

    def of(count: int) -> bytes:
        return whole[: scans[2]] + whole[scans[1] : scans[2]] * (count - len(scans)) + whole[scans[2] :]

    assert read_header(of(64)).width > 0
    with pytest.raises(ImageError, match="more than 64 scans") as caught:
        read_header(of(65))
    assert caught.value.status == status.UNREADABLE_IMAGE


@pytest.mark.parametrize("name", [name for name in FILES if "progressive" in name])
def test_a_progressive_jpeg_must_have_all_its_scans(name: str) -> None:
    """Decoders find nothing wrong with one that is cut behind a scan and closed: they paint it without details."""
    whole = FILES[name]
    scans = [found.start() for found in re.finditer(b"\xff\xda", whole)]
    assert len(scans) > 3
    for end in scans[1:]:
        with pytest.raises(ImageError, match=r"stops before the scans of its last details|colour components") as caught:
            read_header(whole[:end] + b"\xff\xd9")
        assert caught.value.status == status.TRUNCATED_IMAGE


def test_a_damaged_end_of_a_png_costs_no_pixel() -> None:
    data = FILES["png_RGB"]
    damaged = data[:-4] + b"\0\0\0\0"
    assert np.array_equal(read_image(damaged, Limits()), read_image(data, Limits()))


def test_all_colours_must_have_pixels() -> None:
    (case,) = (case for case in hostile.CASES if case.name == "jpeg_colours_missing")
    with pytest.raises(ImageError, match="1 of its 3 colour components") as caught:
        read_header(case.data)
    assert caught.value.status == status.TRUNCATED_IMAGE


def test_a_webp_frame_must_lie_on_its_canvas() -> None:
    frame = pillow(PHOTO.resize((40, 30)), "WEBP")
    header = read_header(webp_animation((70, 50), frame, (40, 30), (30, 20)))
    assert (header.width, header.height, header.canvas) == (70, 50, (30, 20))
    for canvas, size, place in (
        ((69, 50), (40, 30), (30, 20)),
        ((70, 49), (40, 30), (30, 20)),
        ((70, 50), (41, 30), (0, 0)),
        ((70, 50), (40, 31), (0, 0)),
        ((70, 50), (40, 30), (32, 0)),
    ):
        with pytest.raises(ImageError) as caught:
            read_header(webp_animation(canvas, frame, size, place))
        assert caught.value.status == status.UNREADABLE_IMAGE
    still = [(b"VP8X", bytes(4) + b"\x45\0\0\x31\0\0"), (b"VP8 ", frame[20:])]
    with pytest.raises(ImageError, match="canvas"):
        read_header(riff(still))
    with pytest.raises(ImageError, match="without pixels"):
        read_header(riff(still[:1]))


@pytest.mark.parametrize("kind", ["<", ">"])
def test_a_tiff_needs_both_sides(kind: str) -> None:
    data = tiff(np.asarray(PHOTO), order=kind)
    assert (read_header(data).width, read_header(data).height) == PHOTO.size
    for side in PHOTO.size:
        entry = (side).to_bytes(4, "little" if kind == "<" else "big")
        start = data.index(entry, 8 + PHOTO.width * PHOTO.height * 3)
        with pytest.raises(ImageError) as caught:
            read_header(data[:start] + bytes(4) + data[start + 4 :])
        assert caught.value.status == status.UNREADABLE_IMAGE


def test_a_bmp_needs_all_its_rows() -> None:
    for name in ("bmp_rgb", "bmp_bits_1", "bmp_top_down"):
        data = FILES[name]
        assert read_header(data[: read_header(data).end]).still == data[: read_header(data).end]
        with pytest.raises(ImageError, match="bytes are needed") as caught:
            read_header(data[: read_header(data).end - 1])
        assert caught.value.status == status.UNREADABLE_IMAGE


def test_an_old_bmp_header_is_read() -> None:
    rows = np.asarray(PHOTO)[:5, :8].tobytes()
    data = b"BM" + (26 + len(rows)).to_bytes(4, "little") + bytes(4) + (26).to_bytes(4, "little")
    data += (12).to_bytes(4, "little") + b"\x08\0\x05\0\x01\0\x18\0" + rows
    header = read_header(data)
    assert (header.width, header.height) == (8, 5)
    assert truth(header.still).shape == (5, 8, 3)


def test_padding_of_scans_changes_no_whole_image() -> None:
    names = [name for name in FILES if name.startswith("jpeg")]
    for name in names:
        still = read_header(FILES[name]).still
        padded = jpeg_reader.with_padded_scans(still, b"\x55\xaa" * 20)
        assert len(padded) >= len(still) + 40
        np.testing.assert_array_equal(truth(padded), truth(still))
    assert len(names) > 30


@pytest.mark.parametrize("name", ["plain", "restarts", "progressive_restarts"])
def test_every_part_of_the_pixels_is_padded(name: str) -> None:
    """Pixels may be missing before any restart, and not at the end alone."""
    still = read_header(FILES[f"jpeg_{name}"]).still
    ends = len(re.findall(rb"\xff[\xd0-\xd7]", still)) + len(re.findall(rb"\xff\xda", still))
    assert (ends > 10) == ("restarts" in name)
    assert len(jpeg_reader.with_padded_scans(still, b"\x55" * 40)) == len(still) + 40 * ends


def test_arithmetic_coding_is_recognised() -> None:
    still = read_header(FILES["jpeg_plain"]).still
    assert not jpeg_reader.is_arithmetic(still)
    assert jpeg_reader.is_arithmetic(still.replace(b"\xff\xc0", b"\xff\xc9"))
    assert not jpeg_reader.is_arithmetic(read_header(FILES["jpeg_progressive"]).still)
    for name in ("adobe_rgb", "adobe_ycck", "grey", "subsampling_4:2:0"):  # whatever stands before it
        still = read_header(FILES[f"jpeg_{name}"]).still
        assert not jpeg_reader.is_arithmetic(still)
        assert jpeg_reader.is_arithmetic(still.replace(b"\xff\xc0", b"\xff\xc9")), name


@pytest.mark.parametrize("marker", [0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF])
def test_every_arithmetic_kind_is_one_and_each_second_of_them_is_progressive(marker: int) -> None:
    plain = FILES["jpeg_progressive"]
    data = plain.replace(b"\xff\xc2", bytes((0xFF, marker)))
    scan = [found.start() for found in re.finditer(b"\xff\xda", data)][1]
    assert jpeg_reader.is_arithmetic(read_header(data).still)
    if marker in (0xCA, 0xCE):
        with pytest.raises(ImageError, match=r"last details|colour components"):
            read_header(data[:scan] + b"\xff\xd9")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_damaged_headers_are_read_or_refused(name: str, data: st.DataObject) -> None:
    damaged = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, min(len(damaged) - 1, 300)))] = data.draw(st.integers(0, 255))
    try:
        header = read_header(bytes(damaged))
    except ImageError as error:
        assert error.status in {status.UNSUPPORTED_FORMAT, status.UNREADABLE_IMAGE, status.TRUNCATED_IMAGE}  # noqa: PT017
        return
    assert header.width > 0
    assert header.height > 0
    assert header.end <= len(damaged)
    assert len(header.still) <= len(damaged) + 20


@pytest.mark.parametrize(("order", "sign"), [("<", b"II+\0"), (">", b"MM\0+")])
@pytest.mark.parametrize(("kind", "code"), [(1, "B7x"), (3, "H6x"), (4, "I4x"), (16, "Q")])
def test_a_big_tiff_may_give_its_sides_as_any_integer(order: str, sign: bytes, kind: int, code: str) -> None:
    entries = b"".join(
        struct.pack(f"{order}HHQ", tag, kind, 1) + struct.pack(order + code, side)
        for tag, side in ((256, 70), (257, 50))
    )
    begin = sign + struct.pack(f"{order}HHQ", 8, 0, 16)
    header = read_header(begin + struct.pack(f"{order}Q", 2) + entries + bytes(8))
    assert (header.width, header.height) == (70, 50)
