"""Measures of a validation: pure functions of arrays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

RESAMPLES = 1000


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve of some images.

    Attributes:
        value: Of the probabilities as they are.
        rounded: Of the probabilities rounded to one decimal, as the authors choose their checkpoint.
        images: How many there were.
    """

    value: float
    rounded: float
    images: int


def auc(labels: Labels, probabilities: Floats) -> Auc | None:
    """The AUC of some images; None where one class is absent.

    Args:
        labels: int64 [N], 1 for fake.
        probabilities: Of fake, float32 or float64 [N].
    """
    if len(np.unique(labels)) < 2:
        return None
    rounded = np.round(probabilities, 1)
    return Auc(float(roc_auc_score(labels, probabilities)), float(roc_auc_score(labels, rounded)), len(labels))


def auc_interval(
    labels: Labels, probabilities: Floats, groups: npt.NDArray[np.str_], seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the AUC, by resampling whole groups: images of one person or video are not independent.

    Args:
        labels: int64 [N], 1 for fake.
        probabilities: Of fake, [N].
        groups: Name of each image's group, [N].
        seed: Of the draws.

    Returns:
        The 2.5 % and 97.5 % quantiles over the resamples that hold both classes; NaN where none does.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    values = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([members[index] for index in rng.integers(len(members), size=len(members))])
        if len(np.unique(labels[chosen])) == 2:
            values.append(roc_auc_score(labels[chosen], probabilities[chosen]))
    if not values:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
