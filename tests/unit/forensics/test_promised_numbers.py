"""Numbers of the studies that their documentation gives and their conclusions hang on, by value."""

import importlib
from typing import Any

import numpy as np
import pytest

from forensics.calibrate.maps import fit_isotonic, fit_platt, fit_temperature
from tests.constants import constant

NUMBERS: dict[str, Any] = {
    "common.metrics.CONFIDENCE": 0.95,
    "common.metrics.CALIBRATION_BINS": 15,
    "common.pixels.LARGEST_PIXELS": 1_000_000,
    "common.report.FORMAT_VERSION": 1,
    "common.scoring.server.SCORES_FILE": "scores.jsonl",
    "calibrate.fit.FOLDS": 5,
    "calibrate.fit.LEAST_OF_A_CLASS": 50,
    "calibrate.fit.LEAST_FOR_ISOTONIC": 500,
    "calibrate.operating_points.FALSE_ALARM_RATES": (0.001, 0.01, 0.05, 0.1),
    "calibrate.report.FORMAT_VERSION": 1,
    "calibrate.install.CALIBRATION_FILE": "calibration.json",
    "evaluate.report.LEAST_OF_A_CLASS": 30,
    "evaluate.challenge.THRESHOLD": 0.5,
    "explain.saliency.TOP_SHARE": 0.2,
    "robustness.measures.SAME_FACE_IOU": 0.5,
    "__main__.FAILED": 1,
    "__main__.SERVER_UNREACHABLE": 3,
    "__main__.INTERRUPTED": 130,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_the_one_that_was_promised(name: str) -> None:
    assert constant(f"forensics.{name}") == NUMBERS[name]


@pytest.mark.parametrize(
    ("command", "defaults"),
    [
        ("evaluate", {"batch_size": 8, "in_flight": 4, "resamples": 1000, "frame_rate": 2.0}),
        ("calibrate", {"batch_size": 8, "in_flight": 4, "resamples": 1000, "rates": (0.001, 0.01, 0.05, 0.1)}),
        ("robustness", {"batch_size": 8, "in_flight": 4, "seed": 1024, "resamples": 1000}),
    ],
)
def test_what_a_command_does_unless_it_is_told(command: str, defaults: dict[str, Any]) -> None:
    options = {each.name: each for each in importlib.import_module(f"forensics.{command}.command").command.params}
    assert {name: options[name].default for name in defaults} == defaults


def test_maps_are_held_within_their_bounds() -> None:
    """A stream that is always right, or always wrong, is believed no further."""
    labels = np.arange(4000) < 2000
    sure, wrong = (np.where(labels, *pair).astype(np.float32) for pair in ((0.55, 0.45), (0.4, 0.6)))
    assert fit_temperature(sure, labels).temperature == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(wrong, labels).temperature == pytest.approx(50, rel=1e-3)
    assert fit_platt(wrong, labels).slope == 0.02
    assert fit_platt(sure, labels).slope == 20
    assert fit_isotonic(sure, labels).y == (0, 1)
