"""The chosen frames of a video file as encoded images, one after the other; needs PyAV (the extra `video`)."""

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from .sampling import Sampling

MAX_PIXELS = 50_000_000
"""Largest frame, width × height: the server's own limit for an image by default."""

_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf,ogg"
"""Kinds of files that are read. Others can name further files and addresses, which FFmpeg would open (HLS, concat)."""

_SEEK_SECONDS = 10.0
"""Where the next frame is so far away, the file is gone to there instead of being decoded up to it."""

_DEFAULT_RATE = 25.0
"""Frames a second where a file has neither time stamps nor a rate."""


class VideoError(Exception):
    """A video of which nothing can be scored.

    Attributes:
        status: Why, as in `STATUS_HINTS`.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        seconds: Its time after the first frame.
        data: A PNG file, upright: no pixel is other than as decoded.
    """

    seconds: float
    data: bytes


@dataclass
class VideoFile:
    """What is known of a video; it grows while its frames are read.

    Attributes:
        duration: In seconds; None where it cannot be told.
        width: Of an upright frame, in pixels.
        height: The same.
        warning: What is wrong with it, where some of it could be read.
    """

    duration: float | None = None
    width: int = 0
    height: int = 0
    warning: str | None = None
    _faults: int = field(default=0, repr=False)


def require_av() -> Any:
    """PyAV.

    Raises:
        VideoError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise VideoError("unreadable_file", "videos need PyAV: pip install 'deepfake-client[video]'") from error
    av.logging.set_level(av.logging.PANIC)  # what is wrong with a file stands in its row
    return av


def read_frames(source: str | BinaryIO, sampling: Sampling, about: VideoFile) -> Iterator[Frame]:
    """Decodes a video as a stream; about one frame at a time is in memory.

    Args:
        source: Path of the file, or the open file.
        sampling: Which frames are given.
        about: Is told what becomes known of the video.

    Raises:
        VideoError: Nothing of it can be shown; once there was a frame, a fault is a warning in `about`.
        OSError: The file cannot be read.
    """
    av = require_av()
    try:
        container = av.open(
            source,
            "r",
            container_options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, av.error.FileNotFoundError | av.error.PermissionError | av.error.IsADirectoryError):
            raise OSError(error.strerror) from error
        raise VideoError("unreadable_video", f"no video that is read here: {_reason(error)}") from error
    with closing(container):
        stream = _picture_stream(av, container)
        about.duration = _duration(av, source, container, stream)
        yield from _chosen(av, container, stream, sampling, about)


def _picture_stream(av: Any, container: Any) -> Any:
    # The cover of a song is a stream with a single picture.
    streams = [each for each in container.streams.video if not each.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise VideoError("no_pictures", "it has sound only, or nothing; there is no picture to score")
    stream = streams[0]
    context = stream.codec_context
    if context is None:
        raise VideoError("unreadable_video", "its coding is not known here; convert it to H.264 in an MP4 file")
    _check_size(context.width, context.height)
    context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "AUTO"
    return stream


def _chosen(av: Any, container: Any, stream: Any, sampling: Sampling, about: VideoFile) -> Iterator[Frame]:
    chooser = sampling.chooser(about.duration, float(stream.average_rate or 0) or None)
    encoder = _PngEncoder(av)
    start: float | None = None
    position = 0.0
    last = -1.0
    number = 0
    while chooser.target is not None:
        if start is not None and about.duration is not None and chooser.target > about.duration + 1:
            break
        if start is not None and chooser.target - position > _SEEK_SECONDS:
            with suppress(av.error.FFmpegError):  # where that is not possible, it is decoded up to there
                container.seek(int((start + chooser.target) / stream.time_base), stream=stream)
        ended = True
        for frame in _decoded(av, container, stream, about):
            seconds = frame.time
            if seconds is None:
                seconds = number / float(stream.average_rate or _DEFAULT_RATE)
            number += 1
            start = seconds if start is None else start
            position = max(seconds - start, 0.0)
            if position > last and chooser.wants(position):
                last = position
                data = encoder.encode(frame, about)
                if data is not None:
                    yield Frame(round(position, 3), data)
                if chooser.target is None or chooser.target - position > _SEEK_SECONDS:
                    ended = False
                    break
        if ended:
            break
    if number == 0:
        raise VideoError("unreadable_video", about.warning or "none of its pictures can be decoded")


def _decoded(av: Any, container: Any, stream: Any, about: VideoFile) -> Iterator[Any]:
    """The frames that can be decoded: a damaged part costs what depends on it."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.error.FFmpegError, ValueError) as error:
            about.warning = about.warning or f"it cannot be read to its end: {_reason(error)}"
            return
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError) as error:
            about.warning = about.warning or f"parts of it are damaged: {_reason(error)}"
            continue
        yield from frames


def _duration(av: Any, source: str | BinaryIO, container: Any, stream: Any) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration / av.time_base)
    # Such as browsers record: the time stamps of all packets are looked at, which decodes nothing.
    last = first = None
    try:
        for packet in container.demux(stream):
            if packet.pts is not None:
                first = packet.pts if first is None else min(first, packet.pts)
                last = packet.pts if last is None else max(last, packet.pts)
        container.seek(0)
    except av.error.FFmpegError:
        return None
    return None if last is None or first is None else float((last - first) * stream.time_base)


class _PngEncoder:
    """Frames as PNG files, without loss; the coder is kept while the frames have one size."""

    def __init__(self, av: Any) -> None:
        self._av = av
        self._context: Any = None

    def encode(self, frame: Any, about: VideoFile) -> bytes | None:
        """A frame upright, as a PNG file; None where it is damaged beyond that, of which `about` is told."""
        try:
            _check_size(frame.width, frame.height)
            upright = self._upright(frame)
            about.width, about.height = upright.width, upright.height
            if self._context is None or (self._context.width, self._context.height) != (upright.width, upright.height):
                self._context = self._av.CodecContext.create("png", "w")
                self._context.width, self._context.height = upright.width, upright.height
                self._context.pix_fmt = "rgb24"
                self._context.time_base = Fraction(1, 1000)
                self._context.options = {"compression_level": "1"}
            upright.pts = None
            return b"".join(bytes(packet) for packet in self._context.encode(upright))
        except (self._av.error.FFmpegError, ValueError) as error:
            about.warning = about.warning or f"parts of it are damaged: {_reason(error)}"
            return None

    def _upright(self, frame: Any) -> Any:
        turns = round(frame.rotation / 90) % 4
        rgb = frame.reformat(format="rgb24")
        if not turns:
            return rgb
        pixels = np.ascontiguousarray(np.rot90(rgb.to_ndarray(), turns))
        return self._av.VideoFrame.from_ndarray(pixels, format="rgb24")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise VideoError("too_many_pixels", f"frames of {width}×{height} pixels are over the limit of {MAX_PIXELS}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
