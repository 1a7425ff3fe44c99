"""Videos: frames by a rate or a number, scored as a stream; one verdict of many. Needs the extra `video` (PyAV)."""

from ..decoding.frames import VideoError
from ..decoding.sampling import DEFAULT_FPS, Sampling
from .rule import Judgement, Sample, Track, Window, judge
from .scoring import VideoOptions, score_items, score_video
from .timeline import draw_timeline
from .verdict import FrameVerdict, VideoSummary, VideoVerdict

__all__ = [
    "DEFAULT_FPS",
    "FrameVerdict",
    "Judgement",
    "Sample",
    "Sampling",
    "Track",
    "VideoError",
    "VideoOptions",
    "VideoSummary",
    "VideoVerdict",
    "Window",
    "draw_timeline",
    "judge",
    "score_items",
    "score_video",
]
