"""Groups of images that are not independent: frames of one video, crops of one photograph, pictures of one person.

What is said of further images must hold for those of other groups, so that whole groups are resampled, split and
counted. `groups` is int64 [N] everywhere, the number of each image's group; None where every image is independent.
"""

from collections.abc import Iterator

import numpy as np

from forensics.common.arrays import Floats, Groups, Labels


def count_groups(kind: Labels, groups: Groups | None) -> int:
    """In how many groups some images are.

    Args:
        kind: bool [N], which images.
        groups: Of all images.
    """
    return int(kind.sum()) if groups is None else len(np.unique(groups[kind]))


def count_independent(kind: Labels, groups: Groups | None) -> int:
    """How many independent images some images are worth, at worst: where all images of a group say the same.

    It is (Σn)² / Σn² over groups of n images (Kish 1965), rounded down: the number of groups where all are of one size,
    and less where some hold more than their share.

    Args:
        kind: bool [N], which images.
        groups: Of all images.
    """
    if groups is None or not kind.any():
        return int(kind.sum())
    sizes = np.unique(groups[kind], return_counts=True)[1]
    return int(sizes.sum() ** 2 // (sizes**2).sum())


def kinds_of_groups(labels: Labels, groups: Groups) -> Groups:
    """What each group holds, int64 [G]: 0 fake images alone, 1 real ones alone, 2 both.

    Args:
        labels: bool [N], True for fake.
        groups: Numbers from 0 to G − 1, each there.
    """
    fake, real = np.bincount(groups, labels) > 0, np.bincount(groups, ~labels) > 0
    return np.where(fake & real, 2, np.where(fake, 0, 1)).astype(np.int64)


def numbered(groups: Groups | None, count: int) -> Groups:
    """The groups of `count` images, numbered from 0 without a gap; those of independent images are one each."""
    if groups is None:
        return np.arange(count, dtype=np.int64)
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def resample(labels: Labels, groups: Groups | None, resamples: int, seed: int) -> Iterator[Floats]:
    """Draws whole groups with replacement: of fake images, of real ones and of both apart, as many as there are.

    Args:
        labels: bool [N], True for fake.
        groups: Of the images.
        resamples: How often.
        seed: Of the draws.

    Yields:
        float64 [N], how often each image is in a resample. Each kind of image is in every one.
    """
    rng = np.random.default_rng(seed)
    own = numbered(groups, len(labels))
    kinds = kinds_of_groups(labels, own)
    members = [found for kind in range(3) if len(found := np.flatnonzero(kinds == kind))]
    for _ in range(resamples):
        counts = np.zeros(len(kinds))
        for each in members:
            counts[each] = np.bincount(rng.integers(len(each), size=len(each)), minlength=len(each))
        yield counts[own]
