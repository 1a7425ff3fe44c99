"""One look at every image before a run begins: whether it can be used, and what it is recognised by."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ensemble.images import ImageError, read_image
from ensemble.streams import Stream
from training.data.augmentation import TooSmallError
from training.data.copies import Fingerprint, fingerprint
from training.data.images import LIMITS, framed
from training.data.manifest import Item


@dataclass(frozen=True)
class Surveyed:
    """What was seen of one image.

    Attributes:
        fingerprint: What it is recognised by; None where it cannot be read.
        problem: Why the stream cannot use it; empty where it can.
    """

    fingerprint: Fingerprint | None
    problem: str = ""


def survey(items: Sequence[Item], stream: Stream) -> list[Surveyed]:
    """Reads, decodes and frames every image as the run will."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda item: _look(item, stream), items))


def _look(item: Item, stream: Stream) -> Surveyed:
    try:
        data = item.read()
        image = read_image(data, LIMITS)
    except (ImageError, OSError) as error:
        return Surveyed(None, str(error))
    found = fingerprint(data, image)
    try:
        framed(image, item, stream)
    except (ImageError, TooSmallError) as error:
        return Surveyed(found, str(error))
    return Surveyed(found)
