"""Which frames of a video are scored: by a rate, or a number of them spread over its length; pure."""

import math
from dataclasses import dataclass

DEFAULT_FPS = 2.0
"""Frames a second that are scored where nothing is said."""

_EARLY = 1e-3
"""Seconds that a frame may come before its target: time stamps are rounded to the ticks of their file."""


@dataclass(frozen=True)
class Sampling:
    """Which frames are scored; one of both is there.

    Attributes:
        fps: So many in each second of the video, by time stamps; fewer where the video has fewer.
        frames: So many of the whole video, in the middles of as many equal parts; fewer where the video has fewer.

    Raises:
        ValueError: A value is not above 0, or both are given.
    """

    fps: float | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and self.frames is not None:
            raise ValueError("frames are taken by fps or by frames; give one of them")
        for name, value in (("fps", self.fps), ("frames", self.frames)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be above 0")

    def rate(self, duration: float | None) -> float:
        """Frames that are scored of each second.

        Args:
            duration: Of the video in seconds; needed where a number of frames is given.
        """
        if self.frames is not None:
            return self.frames / duration if duration else DEFAULT_FPS
        return self.fps or DEFAULT_FPS

    def chooser(self, duration: float | None, native: float | None = None) -> "Chooser":
        """What picks the frames of a video.

        Args:
            duration: Of the video in seconds, where it is known.
            native: Frames that it has each second, where that is known.
        """
        rate = self.rate(duration)
        every_frame = native is not None and rate >= native
        return Chooser(rate, 0.0 if self.frames is None or every_frame else 0.5, self.frames)


class Chooser:
    """Says of each frame, in the order of the video, whether it is scored. None is chosen twice.

    Args:
        rate: Frames wanted a second.
        offset: Of the first one, in intervals.
        most: Frames wanted at most.
    """

    def __init__(self, rate: float, offset: float = 0.0, most: int | None = None) -> None:
        self._rate, self._offset = rate, offset
        self._most = math.inf if most is None else most
        self._next = 0

    @property
    def target(self) -> float | None:
        """Seconds after the first frame from which on the next one is wanted; None where none is."""
        return None if self._next >= self._most else (self._next + self._offset) / self._rate - _EARLY

    def wants(self, seconds: float) -> bool:
        """Whether the frame at this time is scored; targets up to there are done with."""
        target = self.target
        if target is None or seconds < target:
            return False
        self._next = max(self._next, math.floor((seconds + _EARLY) * self._rate - self._offset)) + 1
        return True
