"""How far two sets of probabilities are apart."""

from collections.abc import Sequence

import numpy as np


def differences(expected: Sequence[float | None], actual: Sequence[float | None], changed: int) -> dict[str, float]:
    """Give the largest difference, that of all but one in a thousand, and the share of votes that changed.

    Args:
        expected: Probabilities of the reference.
        actual: Of the same images.
        changed: How many votes changed.
    """
    apart = np.abs(np.array(expected, np.float64) - np.array(actual, np.float64))
    return {
        "largest": float(apart.max()),
        "p99_9": float(np.percentile(apart, 99.9)),
        "votes_changed": changed / len(expected),
    }
