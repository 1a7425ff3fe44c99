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
    *,
    per_group: int = 1,
    spread: float = 0.0,
) -> Scores:
    """Half real, half fake: independent streams whose logits are calibrated, then multiplied and shifted.

    A stream of strength s separates the classes like two unit normals s apart.

    Of every `per_group` images in turn, both kinds among them, one group is made: their logits share a shift of the
    standard deviation `spread`, times the stream's strength, and are calibrated over many groups.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2 == 0
    sign = np.where(labels, 1, -1)
    groups = np.arange(count) // per_group
    shared = spread * rng.normal(size=count)[groups] if spread else 0.0
    logits = np.stack(
        [
            (sign * s * s / 2 + s * (rng.normal(size=count) + shared) if s else 0.1 * rng.normal(size=count))
            * (t / (1 + spread**2))
            + b
            for s, t, b in zip(strengths, temperatures, biases, strict=True)
        ],
        axis=-1,
    )
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    scored = PAPER_VOTE.score(probabilities)
    mean, vote = ([float(str(value)) for value in values] for values in (scored.probability, scored.score))
    named = groups if per_group > 1 else None
    return Scores(labels, probabilities, scored.stream_votes, np.array(mean), np.array(vote), groups=named)
