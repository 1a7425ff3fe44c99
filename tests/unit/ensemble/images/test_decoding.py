"""Pixels are those of the method's decoder for every kind of file, and none of them are made up."""

import hashlib
import random

import cv2
import numpy as np
import pytest

from benchmarks.fuzz.mutations import mutated
from ensemble import status
from ensemble.images import Decoders, ImageError, Limits, decode, decoding, read_image
from ensemble.images.decoding import decode_still
from ensemble.images.headers import Header, read_header
from tests.wellformed import FILES

LIMITS = Limits(max_pixels=4_000_000)
PATTERNS = ("85", "170")
"""What glibc fills fresh memory with: uninitialised pixels differ between the two."""


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_opencv(name: str) -> None:
    expected = cv2.imdecode(np.frombuffer(FILES[name], np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read_image(FILES[name], LIMITS)[:, :, ::-1], expected)
    np.testing.assert_array_equal(decode(FILES[name])[:, :, ::-1], expected)


@pytest.mark.parametrize("number", range(1, 9))
def test_jpeg_and_png_are_turned_as_exif_says_and_webp_is_not(number: int) -> None:
    turned = number > 4
    for kind in ("jpeg", "png"):
        shape = read_image(FILES[f"{kind}_exif_{number}"], LIMITS).shape
        assert shape == ((137, 101, 3) if turned else (101, 137, 3))
    assert read_image(FILES["webp_exif_6"], LIMITS).shape == (101, 137, 3)


def test_colours_of_a_tiff_are_multiplied_by_its_alpha() -> None:
    plain, alpha = read_image(FILES["tiff_rgb_raw"], LIMITS), read_image(FILES["tiff_rgba"], LIMITS)
    assert (alpha <= plain).all()
    assert alpha[:30].mean() < 0.3 * plain[:30].mean()


def cut_and_closed(name: str, share: float) -> bytes:
    data = FILES[name]
    return data[: data.index(b"\xff\xda") + int(share * (len(data) - data.index(b"\xff\xda")))] + b"\xff\xd9"


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    "name", ["plain", "restarts", "grey", "cmyk", "rgb", "optimised", "subsampling_4:2:2", "garbage_between"]
)
def test_a_jpeg_closed_before_its_pixels_end_is_truncated(name: str, share: float) -> None:
    with pytest.raises(ImageError, match=r"; fetch the file again$") as caught:
        read_image(cut_and_closed(f"jpeg_{name}", share), LIMITS)
    assert caught.value.status == status.TRUNCATED_IMAGE


@pytest.mark.parametrize(
    ("arithmetic", "said", "missing"), [(True, "", True), (False, "", False), (False, "something harmless", True)]
)
def test_pixels_that_change_with_what_follows_them_are_missing(
    arithmetic: bool, said: str, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arithmetic decoder says nothing of it, and another's first complaint may hide it."""
    still = read_header(FILES["jpeg_plain"]).still.replace(b"\xff\xc0", b"\xff\xc9" if arithmetic else b"\xff\xc0")
    monkeypatch.setattr(decoding, "_imdecode", lambda data: np.full((101, 137, 3), len(data) % 251, np.uint8))
    if not missing:
        assert decode_still(still, None, lambda: said).shape == (101, 137, 3)
        return
    with pytest.raises(ImageError) as caught:
        decode_still(still, None, lambda: said)
    assert caught.value.status == status.TRUNCATED_IMAGE


@pytest.mark.parametrize("name", ["rgb_tiff_lzw", "rgb_packbits", "group4"])
def test_a_tiff_of_damaged_rows_is_unreadable(name: str) -> None:
    data = bytearray(FILES[f"tiff_{name}"])
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    with pytest.raises(ImageError, match="the pixels are damaged") as caught:
        read_image(bytes(data), LIMITS)
    assert caught.value.status == status.UNREADABLE_IMAGE


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *(
            ("tiff_rgb_raw", f"TIFFSomewhere: {words} in row 3.")
            for words in (
                *("Not enough data", "Read error", "Decoding error", "Error at scanline 5", "Discarding 3", "Corrupt"),
                *("Premature EOL", "Bad code word", "not yet in table", "Line length mismatch", "Uncompressed data"),
                "Zlib error",
            )
        ),
        ("jpeg_plain", "Corrupt JPEG data: bad Huffman code"),
        ("jpeg_plain", "Corrupt JPEG data: bad arithmetic code"),
        ("jpeg_plain", "Corrupt JPEG data: found marker 0xd9 instead of RST3"),
    ],
)
def test_a_decoder_s_complaint_of_pixels_makes_an_image_unreadable(name: str, said: str) -> None:
    with pytest.raises(ImageError, match="the pixels are damaged") as caught:
        decode_still(read_header(FILES[name]).still, None, lambda: said)
    assert caught.value.status == status.UNREADABLE_IMAGE


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiff_rgb_raw", "TIFFReadDirectory: Warning, Unknown field with tag 65000."),
        ("jpeg_plain", "Corrupt JPEG data: 3 extraneous bytes before marker 0xd9"),
        ("png_RGB", "Decoding error"),
    ],
)
def test_a_harmless_one_does_not_and_all_that_is_said_is_heard_to_the_end(name: str, said: str) -> None:
    spoken = iter([said, "premature end of what was padded"])
    image = decode_still(read_header(FILES[name]).still, None, lambda: next(spoken))
    np.testing.assert_array_equal(image[:, :, ::-1], decode(FILES[name]))
    assert len(list(spoken)) == (not name.startswith("jpeg"))


def test_what_a_decoder_says_of_one_image_is_not_held_against_the_next() -> None:
    damaged = bytearray(FILES["tiff_rgb_jpeg"])
    middle = len(damaged) // 2
    damaged[middle : middle + 2000] = bytes(2000)
    cut = FILES["jpeg_plain"][:-300] + b"\xff\xd9"
    decoders = Decoders(1)
    for bad in (bytes(damaged), cut, FILES["bmp_rle8"][:-40], FILES["tiff_2x1"][:-3]):
        for name in ("tiff_rgb_raw", "jpeg_plain", "png_RGB"):
            with pytest.raises(ImageError):
                read_image(bad, LIMITS, decoders)
            np.testing.assert_array_equal(read_image(FILES[name], LIMITS, decoders), decode(FILES[name]))
    decoders.close()


def test_what_opencv_refuses_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*about: object) -> None:
        raise cv2.error("(-215:Assertion failed) rows")

    for answer in (refuse, lambda *about: None):
        monkeypatch.setattr(cv2, "imdecode", answer)
        with pytest.raises(ImageError, match="cannot be decoded") as caught:
            decode(FILES["png_RGB"])
        assert caught.value.status == status.UNREADABLE_IMAGE


def test_a_decoder_is_heard_however_much_was_said_before() -> None:
    """More than a message holds: what is missing would be painted grey, and nobody would know."""
    decoders = Decoders(1)
    cut = FILES["jpeg_8x8"][:-6] + b"\xff\xd9"
    for _ in range(400):
        with pytest.raises(ImageError) as caught:
            read_image(cut, LIMITS, decoders)
        assert caught.value.status == status.TRUNCATED_IMAGE
    decoders.close()


def outcomes(pattern: str, monkeypatch: pytest.MonkeyPatch, jobs: list[Header | bytes]) -> list[str]:
    """What becomes of each file in a process whose fresh memory has that pattern."""
    monkeypatch.setenv("MALLOC_PERTURB_", pattern)
    decoders = Decoders(1)
    found = []
    for job in jobs:
        try:
            image = decoders.decode(job) if isinstance(job, Header) else read_image(job, LIMITS, decoders)
            found.append(f"{status.OK} {image.shape} {hashlib.sha256(image).hexdigest()}")
        except ImageError as error:
            found.append(error.status)
    decoders.close()
    return found


def test_nothing_uninitialised_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    files = [mutated(data, chance) for data in FILES.values() for _ in range(12)]
    first, second = (outcomes(pattern, monkeypatch, files) for pattern in PATTERNS)
    assert first == second
    assert sum(outcome.startswith(status.OK) for outcome in first) > len(files) // 10


def test_that_the_patterns_show_what_is_uninitialised(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV's animation path, which read_image does not enter, scores memory that nobody wrote."""
    chance = random.Random(3)
    files = [mutated(FILES["png_animated"], chance) for _ in range(100)]
    jobs = [Header("PNG", 137, 101, len(data), data) for data in files]
    first, second = (outcomes(pattern, monkeypatch, jobs) for pattern in PATTERNS)
    assert first != second


def test_a_jpeg_of_damaged_pixels_is_unreadable() -> None:
    """Some flipped bits leave codes that stand for nothing, with no pixel missing: of 200 flips at least one does."""
    data = FILES["jpeg_grey_progressive"]
    start = data.index(b"\xff\xda") + 14
    chance = random.Random(1)
    for _ in range(200):
        damaged = bytearray(data)
        damaged[chance.randrange(start, len(data) - 2)] ^= 1 << chance.randrange(8)
        try:
            read_image(bytes(damaged), LIMITS)
        except ImageError as error:
            if "the pixels are damaged" in str(error):
                assert error.status == status.UNREADABLE_IMAGE  # noqa: PT017
                return
    pytest.fail("no damage was told")
