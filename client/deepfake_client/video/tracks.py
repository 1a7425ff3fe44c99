"""Faces followed from frame to frame by the overlap of their boxes; pure."""

from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the frame."""

LEAST_OVERLAP = 0.3
"""Intersection over union from which on two boxes are the same face."""

LONGEST_GAP = 2.0
"""Seconds that a face may be away, or two samples where these are further apart."""


@dataclass
class _Seen:
    track: int
    box: Box
    seconds: float


class Tracker:
    """Numbers faces: the same face, the same number, from 0 in the order in which they appear.

    Args:
        interval: Seconds between two samples.
    """

    def __init__(self, interval: float) -> None:
        self._gap = max(LONGEST_GAP, 2.5 * interval)
        self._seen: list[_Seen] = []
        self._count = 0

    def follow(self, seconds: float, boxes: Sequence[Box]) -> list[int]:
        """The tracks of the faces of the next frame; pairs that overlap most are joined first."""
        self._seen = [each for each in self._seen if seconds - each.seconds <= self._gap]
        pairs = [
            (value, index, seen)
            for index, box in enumerate(boxes)
            for seen in self._seen
            if (value := overlap(box, seen.box)) >= LEAST_OVERLAP
        ]
        tracks: dict[int, int] = {}
        taken: set[int] = set()
        for _, index, seen in sorted(pairs, key=lambda pair: -pair[0]):
            if index not in tracks and seen.track not in taken:
                tracks[index] = seen.track
                taken.add(seen.track)
                seen.box, seen.seconds = boxes[index], seconds
        for index, box in enumerate(boxes):
            if index not in tracks:
                tracks[index] = self._count
                self._seen.append(_Seen(self._count, box, seconds))
                self._count += 1
        return [tracks[index] for index in range(len(boxes))]


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (_area(one) + _area(other) - common)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
