"""Verdicts from some of the streams, where nothing that the others could say would change them.

The vote rises with each stream's probability. So what the full ensemble could still say of an image lies between its
vote with the missing streams at 0 and its vote with them at 1. Where both ends give one verdict, that is the verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble import status
from ensemble.calibration import Isotonic, NoMap, Platt, Temperature, Vote
from ensemble.streams import STREAMS
from ensemble.voting import EnsembleScore, fake_probability

FAKE = "fake"
REAL = "real"
UNCERTAIN = "uncertain"

_MIDDLE = np.float32(0.5)
"""The published reading of the vote: fake above it, real below."""


@dataclass(frozen=True)
class Bounds:
    """What the full ensemble could still say of N images; both ends are NaN where a stream that ran gave no number.

    Attributes:
        low: The vote with every missing stream at probability 0.
        high: The vote with every missing stream at probability 1.
    """

    low: EnsembleScore
    high: EnsembleScore

    @property
    def score_range(self) -> npt.NDArray[np.float32]:
        """float32 [N, 2]; both ends are equal where all streams ran."""
        return np.stack([self.low.score, self.high.score], axis=-1)

    @property
    def probability_range(self) -> npt.NDArray[np.float32]:
        """float32 [N, 2]; both ends are equal where all streams ran."""
        return np.stack([self.low.probability, self.high.probability], axis=-1)

    def verdicts(self, thresholds: npt.NDArray[np.float32]) -> list[str | None]:
        """The verdict on each image, for certain.

        Args:
            thresholds: float32 [N], on the probability; NaN for the published reading of the vote.

        Returns:
            `fake`, `real` or `uncertain`; None where the missing streams could still change it, and where a stream
            that ran gave no number.
        """
        ends = zip(verdicts(self.low, thresholds), verdicts(self.high, thresholds), strict=True)
        return [low if low == high else None for low, high in ends]


def bounds(probabilities: npt.NDArray[np.float32], ran: npt.NDArray[np.bool_], vote: Vote) -> Bounds:
    """What the full ensemble could still say.

    Args:
        probabilities: float32 [N, streams], softmax of the logits before any map; NaN where a logit was not finite.
            Values of streams that did not run are not looked at.
        ran: bool [N, streams], which streams have been run.
        vote: The vote in force; it must rise with each stream (`require_rising`).
    """
    low, high = (vote.score(np.where(ran, probabilities, end)) for end in (np.float32(0), np.float32(1)))
    return Bounds(low, high)


def verdicts(score: EnsembleScore, thresholds: npt.NDArray[np.float32]) -> list[str | None]:
    """The verdict of a full vote.

    Args:
        score: The vote on N images.
        thresholds: float32 [N], on the probability: fake strictly above it, else real. NaN: by the score, fake above
            0.5, real below, uncertain at 0.5.

    Returns:
        One a image; None where the score is NaN.
    """
    by_score = np.select([score.score > _MIDDLE, score.score < _MIDDLE], [FAKE, REAL], UNCERTAIN)
    by_probability = np.where(score.probability > thresholds, FAKE, REAL)
    chosen = np.where(np.isnan(thresholds), by_score, by_probability)
    return [None if missing else str(one) for one, missing in zip(chosen, np.isnan(score.score), strict=True)]


def late_streams(weights: Sequence[float], costs: Sequence[float]) -> tuple[int, ...]:
    """Which streams are asked last, and of undecided images only.

    Those whose votes weigh least for what they cost, as long as the others keep more than half of the weight: else
    they could decide nothing by themselves.

    Args:
        weights: Of each stream's vote, at least 0 and not all 0.
        costs: Of each stream for one image, above 0, in any unit.

    Returns:
        Indices, in the order in which they are asked.
    """
    late: list[int] = []
    by_worth = sorted(range(len(weights)), key=lambda index: weights[index] / costs[index])
    for index in by_worth:
        first = sum(weights) - sum(weights[other] for other in (*late, index))
        if 2 * first <= sum(weights):
            break
        late.append(index)
    return tuple(reversed(late))


def require_rising(vote: Vote) -> None:
    """Refuses a vote that does not rise with each stream's probability: its ends would bound nothing.

    Raises:
        ValueError: With the stream's index and what is wrong.
    """
    for index, (each, weight) in enumerate(zip(vote.maps, vote.weights, strict=True)):
        match each:
            case NoMap():
                rising = True
            case Temperature(temperature=temperature):
                rising = temperature > 0
            case Platt(slope=slope):
                rising = slope >= 0
            case Isotonic(x=x, y=y):
                rising = bool(np.all(np.diff(x) > 0) and np.all(np.diff(y) >= 0))
        if not rising or weight < 0:
            raise ValueError(
                f"stream {index}: the vote falls where its probability rises ({each}, weight {weight}), so that no "
                "verdict is certain before all streams ran; calibrate again"
            )


@dataclass
class Evidence:
    """What is known of N images so far.

    Attributes:
        statuses: `ok`, or why there is no verdict; N of them.
        probabilities: float32 [N, streams], in the order of `STREAMS`; NaN where the stream was not asked.
        ran: bool [N, streams], which streams were asked.
        thresholds: float32 [N], as `verdicts` takes them.
        vote: The vote in force.
    """

    statuses: list[str]
    probabilities: npt.NDArray[np.float32]
    ran: npt.NDArray[np.bool_]
    thresholds: npt.NDArray[np.float32]
    vote: Vote

    @classmethod
    def none(cls, statuses: Sequence[str], thresholds: npt.NDArray[np.float32], vote: Vote) -> "Evidence":
        """Nothing is known yet; images whose status is not `ok` stay out."""
        shape = (len(statuses), len(STREAMS))
        return cls(list(statuses), np.full(shape, np.nan, np.float32), np.zeros(shape, bool), thresholds, vote)

    @property
    def bounds(self) -> Bounds:
        """What the full ensemble could still say; NaN at both ends where the status is not `ok`."""
        found = np.where(self._alive()[:, None], self.probabilities, np.float32(np.nan))
        return bounds(found, self.ran | ~self._alive()[:, None], self.vote)

    @property
    def verdicts(self) -> list[str | None]:
        """The verdict where it is certain."""
        return self.bounds.verdicts(self.thresholds)

    @property
    def undecided(self) -> list[int]:
        """Images whose verdict a stream that was not asked could still change."""
        return [
            index
            for index, (alive, verdict) in enumerate(zip(self._alive(), self.verdicts, strict=True))
            if alive and verdict is None
        ]

    def add(self, stream: int, images: Sequence[int], logits: npt.NDArray[np.float32]) -> None:
        """Adds what a stream said; an image for which that is no number has no verdict from then on.

        Args:
            stream: Its index in `STREAMS`.
            images: Indices of the images that it was asked about.
            logits: float32 [len(images), 2].
        """
        found = fake_probability(logits)
        for index, probability in zip(images, found, strict=True):
            if self.statuses[index] != status.OK:
                continue
            self.probabilities[index, stream] = probability
            self.ran[index, stream] = True
            if np.isnan(probability):
                self.statuses[index] = status.NON_FINITE_LOGITS

    def _alive(self) -> npt.NDArray[np.bool_]:
        return np.array([each == status.OK for each in self.statuses], bool)
