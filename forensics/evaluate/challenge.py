"""Numbers as the challenge's participants compute them: on predictions rounded to one decimal; pure."""

from dataclasses import dataclass

import numpy as np

from forensics.common.arrays import Floats, Groups, Labels
from forensics.common.metrics import confusion, roc_auc
from forensics.common.scoring.scores import Scores

THRESHOLD = 0.5


@dataclass(frozen=True)
class ChallengeNumbers:
    """What one column of scores is worth, rounded to one decimal or as it is.

    Attributes:
        auc: ROC AUC of the images.
        accuracy: Share of the images that are called what they are, fake above 0.5.
        video_auc: ROC AUC of the videos, each by the mean of its images; None where the data set has no videos.
    """

    auc: float
    accuracy: float
    video_auc: float | None


@dataclass(frozen=True)
class Challenge:
    """Both, side by side.

    Attributes:
        rounded: Of predictions rounded to one decimal before anything else, as the authors' code has it.
        unrounded: Of the predictions as they are.
    """

    rounded: ChallengeNumbers
    unrounded: ChallengeNumbers


def challenge(scores: Scores) -> dict[str, Challenge]:
    """The numbers of every column, by the names of `TITLES`."""
    return {
        name: Challenge(
            rounded=_numbers(scores.labels, one_decimal(column), scores.videos),
            unrounded=_numbers(scores.labels, column, scores.videos),
        )
        for name, column in scores.columns.items()
    }


def one_decimal(values: Floats) -> Floats:
    """Rounded by NumPy in float32, the type in which networks give them: 0.35 becomes 0.4 there, and 0.3 in float64."""
    return np.round(values.astype(np.float32), 1).astype(np.float64)


def _numbers(labels: Labels, column: Floats, videos: Groups | None) -> ChallengeNumbers:
    video_auc = None
    if videos is not None:
        counts = np.bincount(videos)
        video_labels = np.bincount(videos, labels) > 0
        video_auc = roc_auc(video_labels, np.bincount(videos, column) / counts)
    return ChallengeNumbers(roc_auc(labels, column), confusion(labels, column, THRESHOLD).accuracy, video_auc)
