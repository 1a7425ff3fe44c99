"""The chosen frames of a video file as encoded images, one after the other: what a worker does; needs PyAV."""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from io import BufferedReader
from typing import Any

import numpy as np

from .sampling import Sampling
from .source import Window

_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf,ogg"
"""Kinds of files that are read. Others can name further files and addresses, which FFmpeg would open (HLS, concat)."""

_SEEK_SECONDS = 10.0
"""Where the next frame is so far away, the file is gone to there instead of being decoded up to it."""

_BUFFER = 1 << 16

_FILLED_UP = 64
"""Pixels by which FFmpeg fills up a row at most."""

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


def load_av() -> Any:
    """PyAV, all of it, since a worker may open no file any more; None where it is not installed."""
    try:
        import av
    except ImportError:
        return None
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    av.logging.set_level(av.logging.PANIC)  # what is wrong with a file stands in its row
    return av


def send_frames(
    file: Window,
    send: Callable[..., None],
    progress: Callable[[], None],
    *,
    fps: float | None,
    frames: int | None,
    max_pixels: int,
) -> None:
    """Decodes a video as a stream and sends its chosen frames; about one at a time is in memory.

    Args:
        file: The video.
        send: Takes an answer: `time` of a frame after the first one, or `error`, a status with its reason; with what
            is known of the video by then. A frame's data are a PNG file, upright: no pixel is other than as decoded.
        progress: Is called wherever something was done.
        fps: Frames a second.
        frames: Or a number of them in all; see `Sampling`.
        max_pixels: Of a frame.
    """
    about = VideoFile()
    try:
        reader = _Reader(sys.modules["av"], about, progress, max_pixels)
        for seconds, data in reader.read(file, Sampling(fps, frames)):
            send({"time": seconds, **asdict(about)}, data)
        send(asdict(about))
    except VideoError as error:
        send({"error": [error.status, str(error)], **asdict(about)})


@dataclass(frozen=True)
class _Reader:
    av: Any
    about: VideoFile
    progress: Callable[[], None]
    max_pixels: int

    def read(self, file: Window, sampling: Sampling) -> Iterator[tuple[float, bytes]]:
        """Time and PNG file of each chosen frame."""
        try:
            container = self.av.open(
                BufferedReader(file, _BUFFER),
                "r",
                container_options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"},
                metadata_errors="replace",
            )
        except (self.av.error.FFmpegError, ValueError) as error:
            raise VideoError("unreadable_video", f"no video that is read here: {_reason(error)}") from error
        with closing(container):
            stream = self._picture_stream(container)
            self.about.duration = self._duration(file, container, stream)
            yield from self._chosen(container, stream, sampling)

    def _picture_stream(self, container: Any) -> Any:
        # The cover of a song is a stream with a single picture.
        cover = self.av.stream.Disposition.attached_pic
        streams = [each for each in container.streams.video if not each.disposition & cover]
        if not streams:
            raise VideoError("no_pictures", "it has sound only, or nothing; there is no picture to score")
        stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise VideoError("unreadable_video", "its coding is not known here; convert it to H.264 in an MP4 file")
        self._check_size(context.width, context.height)
        # FFmpeg counts the pixels by which it fills rows up as well.
        context.options = {"max_pixels": str(self.max_pixels + _FILLED_UP * context.height)}
        context.thread_count = 1  # a worker may not start any
        return stream

    def _chosen(self, container: Any, stream: Any, sampling: Sampling) -> Iterator[tuple[float, bytes]]:
        duration = self.about.duration
        chooser = sampling.chooser(duration, float(stream.average_rate or 0) or None)
        encoder = _PngEncoder(self.av)
        start: float | None = None
        position = 0.0
        last = -1.0
        number = 0
        while chooser.target is not None:
            if start is not None and duration is not None and chooser.target > duration + 1:
                break
            if start is not None and chooser.target - position > _SEEK_SECONDS:
                with suppress(self.av.error.FFmpegError):  # where that is not possible, it is decoded up to there
                    container.seek(int((start + chooser.target) / stream.time_base), stream=stream)
            ended = True
            for frame in self._decoded(container, stream):
                seconds = frame.time
                if seconds is None:
                    seconds = number / float(stream.average_rate or _DEFAULT_RATE)
                number += 1
                start = seconds if start is None else start
                position = max(seconds - start, 0.0)
                if position > last and chooser.wants(position):
                    last = position
                    data = self._encoded(encoder, frame)
                    if data is not None:
                        yield round(position, 3), data
                    if chooser.target is None or chooser.target - position > _SEEK_SECONDS:
                        ended = False
                        break
            if ended:
                break
        if number == 0:
            raise VideoError("unreadable_video", self.about.warning or "none of its pictures can be decoded")

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """The frames that can be decoded: a damaged part costs what depends on it."""
        packets = container.demux(stream)
        while True:
            self.progress()
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (self.av.error.FFmpegError, ValueError) as error:
                self._warn("it cannot be read to its end", error)
                return
            try:
                frames = packet.decode()
            except (self.av.error.FFmpegError, ValueError) as error:
                self._warn("parts of it are damaged", error)
                continue
            yield from frames

    def _encoded(self, encoder: "_PngEncoder", frame: Any) -> bytes | None:
        """A frame as a PNG file; None where it is damaged beyond that."""
        self.progress()
        self._check_size(frame.width, frame.height)
        try:
            data = encoder.encode(frame)
        except (self.av.error.FFmpegError, ValueError) as error:
            self._warn("parts of it are damaged", error)
            return None
        self.about.width, self.about.height = encoder.size
        return data

    def _duration(self, file: Window, container: Any, stream: Any) -> float | None:
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return float(container.duration / self.av.time_base)
        # Such as browsers record: the time stamps of all packets are looked at, which decodes nothing.
        last = first = None
        try:
            for packet in container.demux(stream):
                self.progress()
                if packet.pts is not None:
                    first = packet.pts if first is None else min(first, packet.pts)
                    last = packet.pts if last is None else max(last, packet.pts)
            container.seek(0)
        except self.av.error.FFmpegError:
            return None
        return None if last is None or first is None else float((last - first) * stream.time_base)

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            text = f"frames of {width}×{height} pixels are over the limit of {self.max_pixels}"
            raise VideoError("too_many_pixels", text)

    def _warn(self, what: str, error: Exception) -> None:
        self.about.warning = self.about.warning or f"{what}: {_reason(error)}"


class _PngEncoder:
    """Frames as PNG files, without loss; the coder is kept while the frames have one size."""

    def __init__(self, av: Any) -> None:
        self._av = av
        self._context: Any = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the last frame, upright."""
        return self._context.width, self._context.height

    def encode(self, frame: Any) -> bytes:
        """A frame upright, as a PNG file; raises FFmpegError or ValueError where it is damaged."""
        upright = self._upright(frame)
        if self._context is None or self.size != (upright.width, upright.height):
            self._context = self._av.CodecContext.create("png", "w")
            self._context.width, self._context.height = upright.width, upright.height
            self._context.pix_fmt = "rgb24"
            self._context.time_base = Fraction(1, 1000)
            self._context.thread_count = 1
            self._context.options = {"compression_level": "1"}
        upright.pts = None
        return b"".join(bytes(packet) for packet in self._context.encode(upright))

    def _upright(self, frame: Any) -> Any:
        turns = round(frame.rotation / 90) % 4
        rgb = frame.reformat(format="rgb24", threads=1)
        if not turns:
            return rgb
        pixels = np.ascontiguousarray(np.rot90(rgb.to_ndarray(), turns))
        return self._av.VideoFrame.from_ndarray(pixels, format="rgb24")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
