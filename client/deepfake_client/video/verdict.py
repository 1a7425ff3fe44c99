"""What is said of a video and of its frames."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..results import STREAM_NAMES, Face, StreamVerdict, Verdict
from .rule import Judgement, Sample, Track, judge

MOST_TRACKS = 50
"""Faces that a row lists, the worst first."""


@dataclass(frozen=True)
class FrameVerdict(Verdict):
    """What is said of one frame; for the rest see `Verdict`.

    Attributes:
        seconds: Its time after the first frame.
    """

    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As of an image, with the `time`."""
        return {**super().to_dict(), "time": self.seconds}

    def extra_columns(self) -> dict[str, Any]:
        """The time."""
        return {"time": self.seconds}


@dataclass(frozen=True)
class VideoSummary:
    """What is known of a video.

    Attributes:
        duration: In seconds; None where it cannot be told.
        width: Of an upright frame, in pixels.
        height: The same.
        frames: Frames that were scored.
        frames_failed: Frames that were sent and could not be scored.
        frames_without_face: Scored frames that show no face that is large enough.
        rate: Frames a second that were asked for.
        judgement: What the frames say; None where none could be scored.
        warning: What is wrong with the file, where some of it could be read.
    """

    duration: float | None
    width: int
    height: int
    frames: int
    frames_failed: int
    frames_without_face: int
    rate: float
    judgement: Judgement | None
    warning: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a row."""
        row: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "judgement"}
        if self.judgement is not None:
            tracks = self.judgement.tracks
            row |= {
                "mean": self.judgement.mean,
                "fake_share": self.judgement.fake_share,
                "worst_window": _window(tracks[0]),
                "tracks": [_track(track) for track in tracks[:MOST_TRACKS]],
                "track_count": len(tracks),
            }
        return row


@dataclass(frozen=True)
class VideoVerdict(Verdict):
    """What is said of a video: score, probability, streams and face are those of the worst window (see `rule`).

    Attributes:
        video: What is known of it.
        frames: Its frames, where they were asked for.
    """

    video: VideoSummary | None = None
    frames: tuple[FrameVerdict, ...] = ()

    def rows(self) -> Iterable[Verdict]:
        """The frames that were asked for, and then itself."""
        return (*self.frames, self)

    def to_dict(self) -> dict[str, Any]:
        """As of an image, with `video`."""
        row = super().to_dict()
        return row if self.video is None else {**row, "video": self.video.to_dict()}

    def extra_columns(self) -> dict[str, Any]:
        """What is known of the video."""
        if self.video is None:
            return {}
        known = {
            f"video_{name}": getattr(self.video, name) for name in ("duration", "frames", "frames_failed", "warning")
        }
        if (judgement := self.video.judgement) is not None:
            worst = judgement.tracks[0].worst
            known |= {
                "video_mean": judgement.mean,
                "video_fake_share": judgement.fake_share,
                "video_worst_start": worst.start,
                "video_worst_end": worst.end,
            }
        return known


def samples_of(verdict: Verdict, seconds: float) -> list[Sample]:
    """A frame's faces, or the whole of it; empty where it could not be scored."""
    faces = [face for face in verdict.faces or () if face.ok] or ([verdict] if verdict.ok else [])
    return [
        Sample(
            seconds=seconds,
            probability=face.probability,
            score=face.score,
            streams=tuple(stream.probability for stream in face.streams.values() if stream.probability is not None),
            box=face.face.box,
        )
        for face in faces
        if face.probability is not None and face.score is not None
    ]


def video_verdict(
    path: str | None, summary: VideoSummary, frames: Sequence[Sequence[Sample]], threshold: float | None
) -> VideoVerdict:
    """The verdict from the samples of each frame, by time; there is at least one."""
    judgement = judge(frames, summary.rate, threshold)
    worst = judgement.tracks[0].worst
    streams = worst.streams or (None,) * len(STREAM_NAMES)
    return VideoVerdict(
        path=path,
        status="ok",
        score=worst.score,
        probability=worst.probability,
        streams={name: StreamVerdict(value) for name, value in zip(STREAM_NAMES, streams, strict=True)},
        face=Face(worst.worst.box),
        threshold=threshold,
        video=replace(summary, judgement=judgement),
    )


def _window(track: Track) -> dict[str, Any]:
    worst = track.worst
    return {"start": worst.start, "end": worst.end, "probability": worst.probability, "score": worst.score} | {
        "track": track.number
    }


def _track(track: Track) -> dict[str, Any]:
    row = {name: getattr(track, name) for name in ("samples", "start", "end", "mean", "fake_share")}
    box = track.worst.worst.box
    window = {name: value for name, value in _window(track).items() if name != "track"}
    return {"track": track.number, **row, "box": None if box is None else list(box), "worst_window": window}
