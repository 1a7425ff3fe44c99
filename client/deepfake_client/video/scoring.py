"""Videos and images through one stream of requests: the frames of a video are images among others.

Frames are decoded while others are scored, and no more of them wait than `_FRAMES_BYTES`. The end of a video is an item
that cannot be read, so that its verdict comes back in its turn without asking the server.
"""

import hashlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from ..client import DetectorClient
from ..decoding.frames import VideoError, VideoFile
from ..decoding.sampling import Sampling
from ..decoding.source import Source, Window, opened
from ..images.items import Faces, Item
from ..results import Verdict
from .reading import read_frames
from .rule import Sample
from .verdict import FrameVerdict, VideoSummary, VideoVerdict, samples_of, video_verdict

_FRAMES_BYTES = 64 << 20
"""Bytes of encoded frames that wait for their verdicts at most, or a single larger one."""


@dataclass(frozen=True)
class VideoOptions:
    """How videos are scored.

    Attributes:
        sampling: Which frames.
        faces: "all": every face, each followed through the video. "main": what each frame is judged by alone.
        keep_frames: Whether the verdicts on the frames are kept.
        threshold: On the probability, where an operating point is in force.
        digest: Whether the verdict is to bear the SHA-256 of the file.
    """

    sampling: Sampling = Sampling()  # noqa: RUF009 - it is frozen
    faces: Faces = "all"
    keep_frames: bool = False
    threshold: float | None = None
    digest: bool = False


def score_video(
    client: DetectorClient,
    source: str | Path | bytes | BinaryIO,
    options: VideoOptions | None = None,
    *,
    name: str | None = None,
) -> VideoVerdict:
    """Scores one video: frames by a rate or a number, in constant memory.

    Args:
        client: Who scores the frames.
        source: Path of the file, its contents, or the open file.
        options: How; two frames a second and every face where left out.
        name: What its verdict is to call it, where that is not the path.

    Returns:
        Its verdict. A video that cannot be read has a `status` that says why.

    Raises:
        DetectorError: As `DetectorClient.score_many`.
    """
    given = str(source) if isinstance(source, Path) else source
    path = name if name is not None else given if isinstance(given, str) else None
    video = _Video(0, path, given, options or VideoOptions())
    (scored,) = _score(client, [video], ordered=True, stop=threading.Event())
    verdict = scored[1]
    assert isinstance(verdict, VideoVerdict)
    return verdict


def score_items(
    client: DetectorClient,
    items: Iterable[Item],
    options: VideoOptions,
    is_video: Callable[[Item], bool],
    *,
    ordered: bool,
    stop: threading.Event,
) -> Generator[tuple[int, Verdict], None, None]:
    """Scores images and videos in one stream.

    Args:
        client: Who scores them.
        items: Images, and videos as paths or bytes.
        options: How videos are scored.
        is_video: Tells the videos.
        ordered: Whether verdicts come in the order of the items.
        stop: Once it is set, a video that has begun is broken off, and has no verdict.

    Yields:
        The place of an item among the items, and its verdict.

    Raises:
        DetectorError: As `DetectorClient.score_many`.
    """
    sources = (
        _Video(number, item.path, _source_of(item), options) if is_video(item) else _Image(number, item)
        for number, item in enumerate(items)
    )
    return _score(client, sources, ordered=ordered, stop=stop)


def _source_of(item: Item) -> Source:
    if item.data is not None:
        return item.data
    return item.part or item.path or b""


@dataclass(frozen=True)
class _Image:
    number: int
    item: Item


@dataclass
class _Video:
    """A video whose frames are on their way."""

    number: int
    path: str | None
    source: Source
    options: VideoOptions
    about: VideoFile = field(default_factory=VideoFile)
    fault: tuple[str, str] | None = None
    sent: int = 0
    received: int = 0
    all_sent: bool = False
    broken_off: bool = False
    samples: list[list[Sample]] = field(default_factory=list)
    failed: list[Verdict] = field(default_factory=list)
    failures: int = 0
    kept: list[FrameVerdict] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = None

    @property
    def done(self) -> bool:
        return self.all_sent and self.received == self.sent

    def add(self, verdict: Verdict, seconds: float) -> None:
        """Takes the verdict on one frame."""
        self.weights = self.weights or {name: getattr(verdict, name) for name in ("weights", "untrained", "stand_in")}
        if samples := samples_of(verdict, seconds):
            self.samples.append(samples)
        else:
            self.failures += 1
            self.failed = self.failed or [verdict]
        if self.options.keep_frames:
            threshold = self.options.threshold
            values = {each.name: getattr(verdict, each.name) for each in fields(Verdict)} | {
                "path": self.path,
                "index": None,
                "threshold": threshold,
                "faces": verdict.faces and tuple(replace(face, threshold=threshold) for face in verdict.faces),
            }
            self.kept.append(FrameVerdict(**values, seconds=seconds))

    def verdict(self) -> VideoVerdict:
        """What its frames say, once all have come back."""
        self.samples.sort(key=lambda frame: frame[0].seconds)
        self.kept.sort(key=lambda frame: frame.seconds)
        summary = VideoSummary(
            duration=None if self.about.duration is None else round(self.about.duration, 3),
            width=self.about.width,
            height=self.about.height,
            frames=len(self.samples),
            frames_failed=self.failures,
            frames_without_face=sum(frame[0].box is None for frame in self.samples),
            rate=round(self.options.sampling.rate(self.about.duration), 6),
            judgement=None,
            warning=self.about.warning,
        )
        kept = tuple(self.kept)
        if self.samples:
            scored = video_verdict(self.path, summary, self.samples, self.options.threshold)
            return replace(scored, frames=kept, **self.weights)
        if self.failed:
            return VideoVerdict(
                self.path, self.failed[0].status, error=self.failed[0].error, video=summary, frames=kept
            )
        status, error = self.fault or ("unreadable_video", "it has no frame")
        return VideoVerdict(self.path, status, error=error, video=summary)


class _Room:
    """Holds the decoder back while too many bytes wait."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._bytes = 0
        self._closed = False

    def take(self, size: int) -> None:
        with self._free:
            self._free.wait_for(lambda: self._closed or not self._bytes or self._bytes + size <= _FRAMES_BYTES)
            self._bytes += size

    def give(self, size: int) -> None:
        with self._free:
            self._bytes -= size
            self._free.notify_all()

    def close(self) -> None:
        with self._free:
            self._closed = True
            self._free.notify_all()


@dataclass(frozen=True)
class _Place:
    """What an index of `score_many` stands for: an image; a frame, which has `seconds`; or the end of a video."""

    number: int
    video: _Video | None = None
    seconds: float | None = None
    size: int = 0


def _score(
    client: DetectorClient, sources: Iterable[_Image | _Video], *, ordered: bool, stop: threading.Event
) -> Generator[tuple[int, Verdict], None, None]:
    places: dict[int, _Place] = {}
    room = _Room()
    with closing(client.score_many(_flattened(sources, places, room, stop), ordered=ordered)) as verdicts:
        try:
            for verdict in verdicts:
                assert verdict.index is not None  # score_many says it
                place = places.pop(verdict.index)
                if place.video is None:
                    yield place.number, replace(verdict, index=place.number)
                    continue
                video = place.video
                video.received += 1
                if place.seconds is not None:
                    room.give(place.size)
                    video.add(verdict, place.seconds)
                if video.done and not video.broken_off:
                    yield place.number, replace(video.verdict(), index=place.number, sha256=video.sha256)
        finally:
            room.close()


def _flattened(
    sources: Iterable[_Image | _Video], places: dict[int, _Place], room: _Room, stop: threading.Event
) -> Iterator[Item]:
    index = count()
    for source in sources:
        if isinstance(source, _Image):
            places[next(index)] = _Place(source.number)
            yield source.item
            continue
        try:
            for frame in read_frames(source.source, source.options.sampling, source.about):
                if stop.is_set():
                    source.broken_off = True
                    break
                room.take(len(frame.data))
                source.sent += 1
                places[next(index)] = _Place(source.number, source, frame.seconds, len(frame.data))
                yield Item(source.path, frame.data, faces=source.options.faces, attempts=1)
        except VideoError as error:
            source.fault = error.status, str(error)
        except OSError as error:
            source.fault = "unreadable_file", f"{source.path}: {error.strerror or error}"
        if source.options.digest and not stop.is_set():
            source.sha256 = _digest(source.source)
        source.sent += 1
        source.all_sent = True
        places[next(index)] = _Place(source.number, source)
        yield Item(source.path, error="the end of the video")


def _digest(source: Source) -> str | None:
    """SHA-256 of a file; None where it cannot be read, of which its row says why."""
    try:
        with opened(source) as (descriptor, offset, size):
            return hashlib.file_digest(BufferedReader(Window(descriptor, offset, size)), "sha256").hexdigest()
    except (OSError, ValueError):
        return None
