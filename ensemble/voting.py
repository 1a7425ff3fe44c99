"""The calibrated, discretised vote (paper section 3; `method`: one decimal per stream, weighted mean, one decimal)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.streams import STREAMS

WEIGHTS = tuple(stream.weight for stream in STREAMS)


@dataclass(frozen=True)
class EnsembleScore:
    """The vote on N images and how it came about; every value lies in [0, 1], or is NaN where a logit was not finite.

    Attributes:
        score: float32 [N], the vote, in steps of 0.1.
        probability: float32 [N], weighted mean of the stream probabilities before any rounding, for ranking.
        stream_probabilities: float32 [N, 3], probability of fake in the order of `STREAMS`.
        stream_votes: float32 [N, 3], those rounded to one decimal.
    """

    score: npt.NDArray[np.float32]
    probability: npt.NDArray[np.float32]
    stream_probabilities: npt.NDArray[np.float32]
    stream_votes: npt.NDArray[np.float32]


def fake_probability(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax of the logits, class 1.

    Args:
        logits: float32 [..., 2], real and fake.

    Returns:
        float32 [...] in [0, 1]; NaN where a logit is not finite.
    """
    finite = np.isfinite(logits).all(axis=-1, keepdims=True)
    logits = np.where(finite, logits, np.float32(np.nan))
    with np.errstate(over="ignore"):  # a difference beyond float32 is -inf, whose exponential is 0 as it should be
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials[..., 1] / exponentials.sum(axis=-1), np.float32)


def quantise(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Rounds as the method writes a probability, `f"{p:.1f}"`: correctly, from the exact float32 value, ties to even.

    `numpy.round` is no substitute: it scales by ten first, which rounds values such as 0.35 the other way.
    """
    flat = [float(f"{value:.1f}") for value in probabilities.ravel().tolist()]
    return np.array(flat, np.float64).reshape(probabilities.shape)


def vote(votes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weighted mean 2 : 1 : 2 of the one-decimal votes, float64 [..., 3], rounded to one decimal by `numpy.round`."""
    return np.asarray(np.round(_weighted_mean(votes), 1), np.float64)


def score_logits(logits: npt.NDArray[np.float32]) -> EnsembleScore:
    """The vote of the three streams.

    Args:
        logits: float32 [N, 3, 2], streams in the order of `STREAMS`, classes real and fake.
    """
    probabilities = fake_probability(logits)
    votes = quantise(probabilities)
    return EnsembleScore(
        score=vote(votes).astype(np.float32),
        probability=_weighted_mean(probabilities.astype(np.float64)).astype(np.float32),
        stream_probabilities=probabilities,
        stream_votes=votes.astype(np.float32),
    )


def _weighted_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """As `numpy.average` over the streams, without its checks: for one image they take longer than the mean."""
    return np.asarray(np.multiply(values, WEIGHTS).sum(axis=-1) / sum(WEIGHTS), np.float64)
