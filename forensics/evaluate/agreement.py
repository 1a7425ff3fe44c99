"""How the streams complement each other: every choice of vote weights, and pairwise agreement."""

import math
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from scipy.stats import rankdata

from ensemble.calibration import NoMap, Vote
from ensemble.streams import STREAMS
from ensemble.voting import EnsembleScore
from forensics.common.arrays import Floats
from forensics.common.scoring.scores import Scores

_LARGEST_WEIGHT = 2


@dataclass(frozen=True)
class PairAgreement:
    """Two streams side by side.

    Attributes:
        streams: Their names.
        same_call: Share of the images that both votes call the same, fake above 0.5.
        kappa: The same beyond chance (Cohen 1960). None where one call is all there is.
        rank_correlation: Spearman's, of the probabilities. None where one stream is constant.
        both_wrong: Share of the images that both call wrongly: what no vote of the two can mend.
    """

    streams: tuple[str, str]
    same_call: float
    kappa: float | None
    rank_correlation: float | None
    both_wrong: float


def weight_choices() -> list[tuple[int, ...]]:
    """All ratios of 0, 1 and 2: each stream alone, each pair, all three; the paper's 2 : 1 : 2 is among them."""
    choices = product(range(_LARGEST_WEIGHT + 1), repeat=len(STREAMS))
    ratios = [weights for weights in choices if math.gcd(*weights) == 1]
    return sorted(ratios, key=lambda weights: (sum(map(bool, weights)), [-weight for weight in weights]))


def ensemble_score(scores: Scores, weights: tuple[float, ...], rounding_step: float) -> EnsembleScore:
    """The vote that the streams would give by other weights."""
    return Vote(tuple(NoMap() for _ in STREAMS), weights, rounding_step).score(scores.streams)


def pairwise_agreement(scores: Scores) -> list[PairAgreement]:
    """Every pair of streams."""
    calls = scores.votes > 0.5
    wrong = calls != scores.labels[:, None]
    pairs = []
    for a, b in combinations(range(len(STREAMS)), 2):
        same = float(np.mean(calls[:, a] == calls[:, b]))
        shares = calls[:, [a, b]].mean(axis=0)
        chance = float(shares.prod() + (1 - shares).prod())
        pairs.append(
            PairAgreement(
                streams=(STREAMS[a].name, STREAMS[b].name),
                same_call=same,
                kappa=None if chance == 1 else (same - chance) / (1 - chance),
                rank_correlation=_spearman(scores.streams[:, a].astype(np.float64), scores.streams[:, b].astype(float)),
                both_wrong=float(np.mean(wrong[:, a] & wrong[:, b])),
            )
        )
    return pairs


def _spearman(a: Floats, b: Floats) -> float | None:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
