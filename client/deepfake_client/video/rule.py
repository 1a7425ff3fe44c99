"""One verdict of many: what the frames of a video say, for each face and for the whole; pure.

The rule. Each face is followed through the frames. Its *windows* are all runs of consecutive samples that take three
seconds, at least three samples; a face that is seen for less has one window, which is all of it. The video's
probability is the mean of its worst window: the one with the highest mean, of all faces. Faces that are seen in fewer
than three samples do not count, unless there are no others: then the worst face of each frame makes up one series, and
where no frame shows a face, the whole frames do.

Why not the mean of all frames: three manipulated seconds in ten make a third of it. Why not the highest frame: the
longer a video, the surer that some frame is blurred or cut badly and called fake.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from ..results import STREAM_NAMES, Decision, decide, decide_by
from .tracks import Box, Tracker

WINDOW_SECONDS = 3.0
"""Length of a window."""

LEAST_SAMPLES = 3
"""Samples in a window at least; a face that is seen more rarely counts only where there are no others."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One face in one frame, or one whole frame.

    Attributes:
        seconds: Time of the frame after the first one.
        probability: Of being fake, before rounding.
        score: The vote.
        streams: Probabilities of the streams, in the order of `STREAM_NAMES`.
        box: Of the face; None for a whole frame.
    """

    seconds: float
    probability: float
    score: float
    streams: tuple[float, ...] = ()
    box: Box | None = None

    def decision(self, threshold: float | None) -> Decision:
        """What is said of it alone."""
        if threshold is None:
            return decide(self.score)
        return decide_by(self.probability, threshold)


@dataclass(frozen=True)
class Window:
    """Consecutive samples of one face.

    Attributes:
        start: Time of the first, in seconds.
        end: Time of the last.
        probability: Mean of the samples' probabilities.
        score: Mean of the votes, with one decimal.
        streams: Means of the streams' probabilities.
        worst: The sample with the highest probability.
    """

    start: float
    end: float
    probability: float
    score: float
    streams: tuple[float, ...]
    worst: Sample


@dataclass(frozen=True)
class Track:
    """One face through the video.

    Attributes:
        number: Of the face, from 0 in the order in which they appear; None where whole frames are judged.
        samples: How many there are.
        start: Time of the first, in seconds.
        end: Time of the last.
        mean: Mean of the probabilities.
        fake_share: Share of the samples that are called fake.
        worst: The worst window.
        series: Time and probability of each sample.
    """

    number: int | None
    samples: int
    start: float
    end: float
    mean: float
    fake_share: float
    worst: Window
    series: Sequence[tuple[float, float]] = field(default=(), repr=False)


@dataclass(frozen=True)
class Judgement:
    """What is said of a video.

    Attributes:
        tracks: Its faces that count, the worst first; with the worst of these, the video is judged.
        mean: Mean over the frames of the worst face in each.
        fake_share: Share of the frames whose worst face is called fake.
    """

    tracks: Sequence[Track]
    mean: float
    fake_share: float


def judge(frames: Sequence[Sequence[Sample]], rate: float, threshold: float | None = None) -> Judgement:
    """Makes one verdict of many.

    Args:
        frames: The samples of each frame, by time: its faces, or the whole frame. None is empty.
        rate: Samples a second.
        threshold: On the probability, where an operating point is in force.

    Raises:
        ValueError: There are no frames.
    """
    if not frames:
        raise ValueError("there is no frame to judge")
    size = max(LEAST_SAMPLES, round(WINDOW_SECONDS * rate))
    worst = [max(frame, key=attrgetter("probability")) for frame in frames]
    faces = _followed(frames, 1 / rate)
    series: dict[int | None, list[Sample]] = {
        number: samples for number, samples in faces.items() if len(samples) >= LEAST_SAMPLES
    } or {None: [sample for sample in worst if sample.box is not None] or worst}
    tracks = [_track(number, samples, size, threshold) for number, samples in series.items()]
    return Judgement(
        tracks=sorted(tracks, key=lambda track: -track.worst.probability),
        mean=_mean(sample.probability for sample in worst),
        fake_share=_fake_share(worst, threshold),
    )


def worst_window(samples: Sequence[Sample], size: int) -> Window:
    """The run of `size` consecutive samples with the highest mean probability, the first of equal ones."""
    size = min(size, len(samples))
    sums = [sum(sample.probability for sample in samples[:size])]
    for leaving, coming in zip(samples, samples[size:], strict=False):
        sums.append(sums[-1] + coming.probability - leaving.probability)
    first = max(range(len(sums)), key=lambda index: (round(sums[index], 9), -index))
    run = samples[first : first + size]
    return Window(
        start=run[0].seconds,
        end=run[-1].seconds,
        probability=_mean(sample.probability for sample in run),
        score=round(_mean(sample.score for sample in run), 1),
        streams=tuple(
            _mean(sample.streams[place] for sample in run)
            for place in range(len(STREAM_NAMES) if all(sample.streams for sample in run) else 0)
        ),
        worst=max(run, key=attrgetter("probability")),
    )


def _followed(frames: Sequence[Sequence[Sample]], interval: float) -> dict[int, list[Sample]]:
    tracker = Tracker(interval)
    faces: dict[int, list[Sample]] = {}
    for frame in frames:
        shown = [(sample, sample.box) for sample in frame if sample.box is not None]
        if shown:
            numbers = tracker.follow(shown[0][0].seconds, [box for _, box in shown])
            for number, (sample, _) in zip(numbers, shown, strict=True):
                faces.setdefault(number, []).append(sample)
    return faces


def _track(number: int | None, samples: Sequence[Sample], size: int, threshold: float | None) -> Track:
    return Track(
        number=number,
        samples=len(samples),
        start=samples[0].seconds,
        end=samples[-1].seconds,
        mean=_mean(sample.probability for sample in samples),
        fake_share=_fake_share(samples, threshold),
        worst=worst_window(samples, size),
        series=[(sample.seconds, sample.probability) for sample in samples],
    )


def _fake_share(samples: Sequence[Sample], threshold: float | None) -> float:
    return round(_mean(sample.decision(threshold) == "fake" for sample in samples), 4)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return round(sum(numbers) / len(numbers), 6)
