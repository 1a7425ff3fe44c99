"""Does `forensics calibrate` change the vote where it should, and leave it where it should not?"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from benchmarks.common.commands import run_module
from benchmarks.common.serving import Endpoint
from ensemble.calibration import PAPER_VOTE, Vote
from ensemble.calibration_file import parse_calibration
from ensemble.streams import STREAMS
from training.metrics import auc_interval

RATES = (0.05, 0.1)
"""False-alarm rates: lower ones need more real images than there are."""


@dataclass(frozen=True)
class Trial:
    """What a calibration is fitted on, and what it is tried on.

    Attributes:
        fitted_on: A manifest, or a folder with real/ and fake/, which names no groups.
        tried_on: Images of other origins, a folder with real/ and fake/.
        kind: Of the images; trials of one kind share their scores.
    """

    fitted_on: Path
    tried_on: Path
    kind: str


@dataclass(frozen=True)
class Scored:
    """N scored images.

    Attributes:
        labels: int64 [N], 1 for fake.
        streams: float32 [N, 3], probabilities of fake.
        groups: Name of the photograph or drawing that each is of, [N].
    """

    labels: npt.NDArray[np.int64]
    streams: npt.NDArray[np.float32]
    groups: npt.NDArray[np.str_]


def try_calibration(server: Endpoint, trial: Trial, folder: Path) -> dict[str, Any]:
    """What was fitted, and what it does to images of other origins.

    Args:
        server: Has the method's own vote.
        trial: The images.
        folder: For what is written.
    """
    fitted, evaluated = folder / f"{trial.kind}, calibration", folder / f"{trial.kind}, evaluation"
    rates = [option for rate in RATES for option in ("--far", str(rate))]
    for command, data, output, options in (
        ("calibrate", trial.fitted_on, fitted, rates),
        ("evaluate", trial.tried_on, evaluated, []),
    ):
        run_module("forensics", command, str(data), "--url", server.url, "--output", str(output), *options)
    report = json.loads((fitted / "calibration-report.json").read_text(encoding="utf-8"))
    calibration = parse_calibration((fitted / "calibration.json").read_text(encoding="utf-8"))
    scored = _read(evaluated / "scores.jsonl")
    probability = calibration.vote.score(scored.streams).probability
    return {
        "report": report,
        "tried": {
            "paper": _measured(PAPER_VOTE, scored),
            "calibrated": _measured(calibration.vote, scored),
            "operating_points": {
                f"{point.far:g}": {
                    "threshold": point.threshold,
                    "false_alarms": float((probability[scored.labels == 0] > point.threshold).mean()),
                    "detections": float((probability[scored.labels == 1] > point.threshold).mean()),
                    "expected_detections": point.detection_rate,
                }
                for point in calibration.operating_points
            },
        },
    }


def _read(path: Path) -> Scored:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row.get("status") == "ok"]
    return Scored(
        np.array([Path(row["path"]).parent.name == "fake" for row in rows], np.int64),
        np.array([[row["streams"][each.name]["probability"] for each in STREAMS] for row in rows], np.float32),
        np.array([Path(row["path"]).name.rpartition("_")[0] for row in rows]),
    )


def _measured(vote: Vote, scored: Scored) -> dict[str, float]:
    decided = vote.score(scored.streams)
    low, high = auc_interval(scored.labels, decided.score.astype(np.float64), scored.groups)
    return {
        "auc": float(roc_auc_score(scored.labels, decided.score)),
        "low": low,
        "high": high,
        "brier": float(((decided.probability - scored.labels) ** 2).mean()),
        "accuracy": float(((decided.score > 0.5) == scored.labels).mean()),
    }
