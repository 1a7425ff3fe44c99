"""Videos for tests, made with PyAV: of numbered grey frames, or of pictures."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def av() -> Any:
    return pytest.importorskip("av", reason="needs pip install './client[video]'")


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: float = 10,
    *,
    seconds: Iterable[float] | None = None,
    codec: str = "libx264",
    key_frames: int = 12,
) -> Path:
    """Writes frames, uint8 [height, width, 3], RGB, even sides; with time stamps of their own where given."""
    times = None if seconds is None else iter(seconds)
    with av().open(str(path), "w") as file:
        stream = None
        for number, pixels in enumerate(frames):
            if stream is None:
                stream = file.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.gop_size = key_frames
                if codec == "libx264":
                    stream.codec_context.time_base = Fraction(1, 1000)
                if codec == "libx264":
                    stream.options = {"preset": "ultrafast", "crf": "12"}
            frame = av().VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = round(1000 * (number / fps if times is None else next(times)))
            frame.time_base = Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def greys(count: int, size: tuple[int, int] = (64, 96)) -> Iterable[np.ndarray]:
    """Frames that tell their number, modulo 50, by their grey: `number_of` reads it."""
    return (np.full((*size, 3), number % 50 * 4 + 20, np.uint8) for number in range(count))


def number_of(pixels: np.ndarray) -> int:
    """Which of the frames of `greys` it is, modulo 50."""
    return round((float(pixels.mean()) - 20) / 4)


def write_audio(path: Path) -> Path:
    """A second of silence."""
    with av().open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av().AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def rotate(path: Path) -> Path:
    """Says in an MP4 file that it is shown turned by 90° clockwise, as a phone held upright does."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, times and track, reserved to volume
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
    return path
