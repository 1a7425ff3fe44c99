"""Who trains and who judges: splits by group, and a search for leaks between them."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.images import ImageError, Limits, read_image
from training.data.manifest import SPLITS, Item
from training.errors import DataError

NEAR = 4
"""Bits of the 256 of a perceptual hash in which near-duplicates may differ: re-encoded, resized or dimmed copies."""

LEAST_CONTRAST = 12
"""Bits that must be set, and clear: plain surfaces and black frames all look alike."""

_SHOWN = 3


@dataclass(frozen=True)
class Fingerprint:
    """What an image is recognised by.

    Attributes:
        sha256: Of the file, hex.
        perceptual: 256 bits, or None where the image has too little contrast to be told from others.
    """

    sha256: str
    perceptual: npt.NDArray[np.uint8] | None


def split_by_group(items: Sequence[Item], validation_share: float, seed: int) -> list[Item]:
    """Gives every item without a split train or validation, by a hash of its group.

    The same group lands in the same split whatever else is in the data set.
    """
    return [item if item.split else replace(item, split=_drawn(item.group, validation_share, seed)) for item in items]


def require_groups_apart(items: Iterable[Item]) -> None:
    """Refuses a group in two splits.

    Raises:
        DataError: Naming the groups.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for item in items:
        splits[item.group].add(item.split)
    leaks = [f"{group} ({' and '.join(sorted(names))})" for group, names in splits.items() if len(names) > 1]
    if leaks:
        raise DataError(f"{_listed(leaks)}: a group in two splits; what is judged must not have been learnt from")


def require_no_copies(items: Sequence[Item], fingerprints: Sequence[Fingerprint | None]) -> None:
    """Refuses the same file, or nearly the same picture, in two splits.

    Args:
        items: The images.
        fingerprints: Theirs; None for what cannot be read.

    Raises:
        DataError: Naming pairs.
    """
    leaks = list(_same_files(items, fingerprints)) or list(_same_pictures(items, fingerprints))
    if leaks:
        raise DataError(
            f"{_listed(leaks)}: in two splits; put both into one group, or leave one out (--allow-duplicates goes on)"
        )


def fingerprint(data: bytes) -> Fingerprint | None:
    """What an encoded image is recognised by; None for one that cannot be read."""
    try:
        grey = cv2.cvtColor(read_image(data, Limits()), cv2.COLOR_RGB2GRAY)
    except ImageError:
        return None
    small = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = (small[:, 1:] > small[:, :-1]).ravel()  # brighter than its left neighbour
    distinct = LEAST_CONTRAST <= bits.sum() <= bits.size - LEAST_CONTRAST and small.std() > 1
    return Fingerprint(hashlib.sha256(data).hexdigest(), np.packbits(bits) if distinct else None)


def fingerprints(items: Sequence[Item]) -> list[Fingerprint | None]:
    """All items' fingerprints; None where a file is gone or unreadable."""

    def one(item: Item) -> Fingerprint | None:
        try:
            return fingerprint(item.read())
        except OSError:
            return None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, items))


def _drawn(group: str, validation_share: float, seed: int) -> str:
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    return SPLITS[1] if share < validation_share else SPLITS[0]


def _same_files(items: Sequence[Item], prints: Sequence[Fingerprint | None]) -> Iterable[str]:
    first: dict[str, Item] = {}
    for item, found in zip(items, prints, strict=True):
        if found is None:
            continue
        known = first.setdefault(found.sha256, item)
        if known.split != item.split:
            yield f"{known.name} ({known.split}) and {item.name} ({item.split}) are the same file"


def _same_pictures(items: Sequence[Item], prints: Sequence[Fingerprint | None]) -> Iterable[str]:
    """Pairs within `NEAR` bits. Of five parts of the hash, one at least is equal then: only such pairs are compared."""
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    seen: set[tuple[int, int]] = set()
    for index, found in enumerate(prints):
        if found is None or found.perceptual is None:
            continue
        for part, bits in enumerate(np.array_split(found.perceptual, NEAR + 1)):
            for other in buckets[part, bits.tobytes()]:
                if items[other].split != items[index].split and (other, index) not in seen:
                    seen.add((other, index))
                    known = prints[other]
                    if known is not None and known.perceptual is not None and _near(known.perceptual, found.perceptual):
                        first, second = items[other], items[index]
                        yield f"{first.name} ({first.split}) and {second.name} ({second.split}) look the same"
            buckets[part, bits.tobytes()].append(index)


def _near(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> bool:
    return int(np.unpackbits(one ^ other).sum()) <= NEAR


def _listed(leaks: Sequence[str]) -> str:
    more = f" and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
    return "; ".join(leaks[:_SHOWN]) + more
