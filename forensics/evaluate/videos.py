"""One score of a video from those of its frames: the client's rule beside others; pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from deepfake_client.video import Sample
from deepfake_client.video.rule import LEAST_SAMPLES, WINDOW_SECONDS, worst_window

from forensics.common.arrays import Floats
from forensics.common.metrics import Estimate, bootstrap_auc, confusion, estimate, roc_auc
from forensics.common.progress import Advance, silent
from forensics.common.scoring.scores import Scores

WORST_WINDOW = "worst window"
"""The client's rule (`deepfake_client.video.rule`), on the whole frames in their order."""

_TOP = 0.1
"""Share of the frames that the mean of the highest is taken of."""


@dataclass(frozen=True)
class VideoRule:
    """What a rule is worth that makes one score of a video's frames.

    Attributes:
        name: Of the rule.
        auc: ROC AUC of the videos.
        gain: ROC AUC above that of the worst window, on the same resampled videos.
        accuracy: Share of the videos that are called what they are, fake above 0.5.
        accused: Real videos that are called fake.
    """

    name: str
    auc: Estimate
    gain: Estimate
    accuracy: float
    accused: int


@dataclass(frozen=True)
class VideoRules:
    """Rules side by side.

    Attributes:
        real: Number of real videos.
        fake: Number of fake ones, those with any fake frame.
        window: Frames of a window.
        rules: All of them, the client's first.
    """

    real: int
    fake: int
    window: int
    rules: Sequence[VideoRule]


def rules(window: int) -> Mapping[str, Callable[[Floats], float]]:
    """A video's score from the probabilities of its frames by time, float64 [N], by the rule's name.

    Args:
        window: Frames of a window.
    """
    return {
        WORST_WINDOW: lambda frames: worst_window([Sample(n, p, p) for n, p in enumerate(frames)], window).probability,
        "mean": lambda frames: float(frames.mean()),
        "highest frame": lambda frames: float(frames.max()),
        f"mean of the highest {_TOP:.0%}": lambda frames: float(
            np.sort(frames)[-max(1, round(_TOP * len(frames))) :].mean()
        ),
        "share of fake frames": lambda frames: float((frames > 0.5).mean()),
    }


def video_rules(
    scores: Scores, frame_rate: float, *, resamples: int, seed: int = 0, advance: Advance = silent
) -> VideoRules | None:
    """Measures every rule; None where the images are no frames of videos, or videos of one kind alone.

    Args:
        scores: The frames, those of a video by time.
        frame_rate: Frames a second: it makes three seconds a number of frames.
        resamples: Of the bootstrap, over the groups of videos.
        seed: Of its draws.
        advance: Called after each resample.
    """
    if scores.videos is None:
        return None
    labels = np.bincount(scores.videos, scores.labels) > 0
    if labels.all() or not labels.any():
        return None
    window = max(LEAST_SAMPLES, round(WINDOW_SECONDS * frame_rate))
    frames = [scores.mean[scores.videos == number] for number in range(len(labels))]
    columns = {name: np.array([rule(each) for each in frames]) for name, rule in rules(window).items()}
    areas = {name: roc_auc(labels, column) for name, column in columns.items()}
    first = np.unique(scores.videos, return_index=True)[1]
    groups = None if scores.groups is None else scores.groups[first]
    drawn = bootstrap_auc(labels, list(columns.values()), resamples, seed, advance, groups=groups)
    resampled = dict(zip(columns, drawn.T, strict=True))
    measured = []
    for name, column in columns.items():
        counts = confusion(labels, column, 0.5)
        gain = estimate(areas[name] - areas[WORST_WINDOW], resampled[name] - resampled[WORST_WINDOW])
        measured.append(
            VideoRule(name, estimate(areas[name], resampled[name]), gain, counts.accuracy, counts.false_fake)
        )
    return VideoRules(int((~labels).sum()), int(labels.sum()), window, measured)
