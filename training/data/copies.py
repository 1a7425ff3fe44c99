"""Leaks between splits: the same file, or nearly the same picture, on both sides of a judgement."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.images import RgbImage
from training.data.manifest import LABEL_NAMES, Item
from training.data.splits import listed
from training.errors import DataError

Bits = npt.NDArray[np.uint8]

NEAR = 8
"""Bits of the 256 of a perceptual hash in which near-duplicates may differ: re-encoded, resized or dimmed copies.

Measured: of copies of 56 pictures, all are found that were halved, slightly blurred, mirrored or saved as JPEG of
quality 75; 48 of quality 30, 53 dimmed by 30 %, 18 of quality 10, 2 cropped by 3 pixels. Different pictures are far
apart: aligned faces of 100 people 56 bits at the least, crops of different photographs 81.
"""

LEAST_CONTRAST = 12
"""Bits that must be set, and clear: plain surfaces and black frames all look alike."""


@dataclass(frozen=True)
class Fingerprint:
    """What an image is recognised by.

    Attributes:
        sha256: Of the file, hex.
        perceptual: 256 bits, or None where the image has too little contrast to be told from others.
        mirrored: The same of the image flipped from left to right, which training sees as often.
    """

    sha256: str
    perceptual: Bits | None = None
    mirrored: Bits | None = None


def require_one_label(items: Sequence[Item], fingerprints: Sequence[Fingerprint | None]) -> None:
    """Refuses a file that is there twice, once as real and once as fake.

    Args:
        items: The images, of all splits.
        fingerprints: Theirs; None for what cannot be read.

    Raises:
        DataError: Naming pairs.
    """
    wrong = [
        f"{known.name} ({LABEL_NAMES[known.label]}) and {item.name} ({LABEL_NAMES[item.label]}) are the same file"
        for known, item in _equal_files(items, fingerprints)
        if known.label != item.label
    ]
    if wrong:
        raise DataError(f"{listed(wrong)}: one image cannot be both; keep one, with its label")


def require_no_copies(items: Sequence[Item], fingerprints: Sequence[Fingerprint | None]) -> None:
    """Refuses the same file, or nearly the same picture, in two splits.

    Args:
        items: The images.
        fingerprints: Theirs; None for what cannot be read.

    Raises:
        DataError: Naming pairs.
    """
    leaks = [
        f"{known.name} ({known.split}) and {item.name} ({item.split}) are the same file"
        for known, item in _equal_files(items, fingerprints)
        if known.split != item.split
    ] or list(_same_pictures(items, fingerprints))
    if leaks:
        raise DataError(
            f"{listed(leaks)}: in two splits; put both into one group, or leave one out (--allow-duplicates goes on). "
            f"Found are equal files and pictures that differ in at most {NEAR} of 256 bits, mirrored or not"
        )


def fingerprint(data: bytes, image: RgbImage) -> Fingerprint:
    """What an encoded image is recognised by; `image` is its decoded pixels, uint8 [height, width, 3], RGB."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    sha256, bits = hashlib.sha256(data).hexdigest(), _rising(small)
    if not LEAST_CONTRAST <= bits.sum() <= bits.size - LEAST_CONTRAST or small.std() <= 1:
        return Fingerprint(sha256)
    return Fingerprint(sha256, np.packbits(bits), np.packbits(_rising(small[:, ::-1])))


def _rising(grey: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
    """Which pixels are brighter than their left neighbour."""
    return np.asarray(grey[:, 1:] > grey[:, :-1]).ravel()


def _equal_files(items: Sequence[Item], prints: Sequence[Fingerprint | None]) -> Iterator[tuple[Item, Item]]:
    """Each image whose file was there before, behind the first that holds the same."""
    first: dict[str, Item] = {}
    for item, found in zip(items, prints, strict=True):
        if found is not None and (known := first.setdefault(found.sha256, item)) is not item:
            yield known, item


def _same_pictures(items: Sequence[Item], prints: Sequence[Fingerprint | None]) -> Iterator[str]:
    """Pairs within `NEAR` bits, one of them mirrored or not.

    Of `NEAR` + 1 parts of the hash, one at least is equal then: only such pairs are compared.
    """
    buckets: dict[tuple[int, bytes], list[tuple[int, Bits]]] = defaultdict(list)
    seen: set[tuple[int, int, bool]] = set()
    for index, found in enumerate(prints):
        if found is None or found.perceptual is None:
            continue
        for bits, how in ((found.perceptual, ""), (found.mirrored, ", one of them mirrored")):
            if bits is None:
                continue
            for part in _parts(bits):
                for other, known in buckets[part]:
                    if items[other].split != items[index].split and (other, index, bool(how)) not in seen:
                        seen.add((other, index, bool(how)))
                        if int(np.unpackbits(known ^ bits).sum()) <= NEAR:
                            first, second = items[other], items[index]
                            yield f"{first.name} ({first.split}) and {second.name} ({second.split}) look the same{how}"
        for part in _parts(found.perceptual):
            buckets[part].append((index, found.perceptual))


def _parts(bits: Bits) -> list[tuple[int, bytes]]:
    return [(number, part.tobytes()) for number, part in enumerate(np.array_split(bits, NEAR + 1))]
