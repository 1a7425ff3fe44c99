"""Which frames an epoch is made of: the first of each video, capped, and whole videos dropped by rate."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from training.data.manifest import Item
from training.recipe import NO_CAP


@dataclass(frozen=True)
class Selection:
    """How many frames of which videos are kept.

    Attributes:
        frames: First frames of each video.
        caps: By data set, what replaces `frames` for real and for fake videos; `NO_CAP` where nothing does.
        drop_rates: By data set, the share of real and of fake videos that is left out.
        seed: Draws the videos that are left out.
    """

    frames: int
    caps: Mapping[str, tuple[int, int]]
    drop_rates: Mapping[str, tuple[float, float]]
    seed: int


def select(items: Iterable[Item], selection: Selection) -> list[Item]:
    """The frames that are kept: drawn once, in the order given, video by video.

    Frames of a video are sorted by the trailing number of their file's name (`frame_number`), and the first are kept:
    not frames spread over the video, as the authors' code does it.
    """
    videos: dict[tuple[str, int, str], list[Item]] = defaultdict(list)
    for item in items:
        videos[item.dataset, item.label, item.video].append(item)
    rng = random.Random(selection.seed)
    kept: list[Item] = []
    for (dataset, label, _), frames in videos.items():
        rate = selection.drop_rates.get(dataset, (0.0, 0.0))[label]
        if rng.random() < rate:
            continue
        cap = selection.caps.get(dataset, (NO_CAP, NO_CAP))[label]
        count = selection.frames if cap == NO_CAP else cap
        kept += sorted(frames, key=lambda frame: frame_number(frame.name))[:count]
    return kept


def frame_number(name: str) -> int:
    """The number that the part of a file's name before its first dot ends in; 0 where there is none."""
    match = re.search(r"\d+$", PurePath(name).name.partition(".")[0])
    return int(match[0]) if match else 0
