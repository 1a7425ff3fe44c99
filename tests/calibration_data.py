"""Simulated scores with known properties, for the tests of evaluation and calibration."""

import numpy as np

from ensemble.calibration import PAPER_VOTE
from forensics.common.scoring.scores import Scores


def simulate(
    count: int,
    strengths: tuple[float, float, float] = (1.6, 1.0, 1.4),
    temperatures: tuple[float, float, float] = (1, 1, 1),
    biases: tuple[float, float, float] = (0, 0, 0),
    seed: int = 0,
) -> Scores:
    """Half real, half fake: independent streams whose logits are calibrated, then multiplied and shifted.

    A stream of strength s separates the classes like two unit normals s apart.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2 == 0
    sign = np.where(labels, 1, -1)
    logits = np.stack(
        [
            (sign * s * s / 2 + s * rng.normal(size=count) if s else 0.1 * rng.normal(size=count)) * t + b
            for s, t, b in zip(strengths, temperatures, biases, strict=True)
        ],
        axis=-1,
    )
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    scored = PAPER_VOTE.score(probabilities)
    mean, vote = ([float(str(value)) for value in values] for values in (scored.probability, scored.score))
    return Scores(labels, probabilities, scored.stream_votes, np.array(mean), np.array(vote))
