"""The chosen frames of a video file as encoded images, one after the other, from a process that may die of them."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any

from ..decoding.frames import VideoError, VideoFile
from ..decoding.limits import MAX_PIXELS
from ..decoding.processes import WorkerLostError, ask
from ..decoding.sampling import Sampling
from ..decoding.source import Source


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        seconds: Its time after the first frame.
        data: A PNG file, upright: no pixel is other than as decoded.
    """

    seconds: float
    data: bytes


def read_frames(source: Source, sampling: Sampling, about: VideoFile) -> Iterator[Frame]:
    """Decodes a video as a stream; about one frame at a time is in memory.

    Args:
        source: The video.
        sampling: Which frames are given.
        about: Is told what becomes known of the video.

    Raises:
        VideoError: Nothing of it can be shown; once there was a frame, a fault is a warning in `about`.
        OSError: The file cannot be read.
    """
    if importlib.util.find_spec("av") is None:
        raise VideoError("unreadable_file", "videos need PyAV: pip install 'deepfake-client[video]'")
    job = {"job": "frames", "fps": sampling.fps, "frames": sampling.frames, "max_pixels": MAX_PIXELS}
    shown = 0
    try:
        with closing(ask(job, source)) as answers:
            for answer, data in answers:
                _note(about, answer)
                if "error" in answer:
                    status, reason = answer["error"]
                    if not shown:
                        raise VideoError(status, reason)
                    about.warning = about.warning or reason
                if data:
                    shown += 1
                    yield Frame(float(answer["time"]), data)
    except WorkerLostError as error:
        if not shown:
            raise VideoError("unreadable_video", f"{error}; convert it, or cut out the part that does") from error
        about.warning = f"it cannot be read to its end: {error}"


def _note(about: VideoFile, answer: Mapping[str, Any]) -> None:
    for field in fields(VideoFile):
        setattr(about, field.name, answer[field.name])
