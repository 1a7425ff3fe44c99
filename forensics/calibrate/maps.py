"""Fits of a calibration map to one stream; pure."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from ensemble.calibration import Isotonic, NoMap, Platt, Probabilities, ProbabilityMap, Temperature, logit
from forensics.common.arrays import Labels

Fitter = Callable[[Probabilities, Labels], ProbabilityMap]
"""From float32 [N] probabilities and bool [N] labels, True for fake, to a map."""

_TEMPERATURES = (0.05, 50.0)
_SLOPES = (0.02, 20.0)


def fit_none(probabilities: Probabilities, labels: Labels) -> NoMap:
    """The map that changes nothing."""
    return NoMap()


def fit_temperature(probabilities: Probabilities, labels: Labels) -> Temperature:
    """The temperature of the least log loss, between 0.05 and 50."""
    margins = np.where(labels, 1, -1) * logit(probabilities)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -margins / np.exp(log_temperature)).mean())

    low, high = np.log(_TEMPERATURES)
    fitted = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return Temperature(round(float(np.exp(fitted.x)), 6))


def fit_platt(probabilities: Probabilities, labels: Labels) -> Platt:
    """Logistic regression on the logit, with Platt's smoothed targets so that separable data stay finite.

    The slope is held between 0.02 and 20: a stream that ranks backwards is not turned around.
    """
    logits = logit(probabilities)[:, None]
    fake, real = int(labels.sum()), int((~labels).sum())
    target = np.where(labels, (fake + 1) / (fake + 2), 1 / (real + 2))
    regression = LogisticRegression(penalty=None, max_iter=1000).fit(
        np.concatenate([logits, logits]),
        np.repeat([True, False], len(labels)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope = float(np.clip(regression.coef_[0, 0], *_SLOPES))
    return Platt(round(slope, 6), round(float(np.clip(regression.intercept_[0], -100, 100)), 6))


def fit_isotonic(probabilities: Probabilities, labels: Labels) -> Isotonic:
    """The rising step function of the least squared error, as lines between its knots."""
    fitted = IsotonicRegression(y_min=0, y_max=1).fit(probabilities.astype(np.float64), labels.astype(np.float64))
    return Isotonic(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))


FITTERS: dict[str, Fitter] = {
    NoMap.kind: fit_none,
    Temperature.kind: fit_temperature,
    Platt.kind: fit_platt,
    Isotonic.kind: fit_isotonic,
}
"""By the kind of map, the simplest first."""
