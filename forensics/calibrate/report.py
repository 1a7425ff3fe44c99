"""A calibration as tables, and calibration-report.json."""

import json
from dataclasses import asdict
from pathlib import Path

from ensemble.calibration import OperatingPoint
from ensemble.calibration_file import Calibration
from forensics.calibrate.fit import FOLDS, LEAST_FOR_ISOTONIC, LEAST_OF_A_CLASS, Fit
from forensics.common.metrics import Estimate
from forensics.common.report import Table, interval

FORMAT_VERSION = 1


def calibration_tables(fit: Fit, points: tuple[OperatingPoint, ...]) -> list[Table]:
    """All tables: what was tried, what the whole gains, the operating points."""
    tables = []
    if fit.decisions:
        tables.append(_decisions(fit))
    if fit.calibration_errors is not None:
        tables.append(_whole(fit, fit.calibration_errors))
    if points:
        tables.append(_points(points))
    return tables


def rules() -> str:
    """By what rules a part of the paper's vote is changed."""
    return (
        f"A part of the paper's vote changes only where the gain, on images held out ({FOLDS} folds), has an interval "
        "of 95 %, shared among the candidates of a decision, above 0. "
        f"Under {LEAST_OF_A_CLASS} real or fake images nothing changes; isotonic maps are tried from "
        f"{LEAST_FOR_ISOTONIC} of each."
    )


def write_calibration_report(path: Path, fit: Fit, calibration: Calibration) -> None:
    """All numbers, for programs."""
    document = {
        "version": FORMAT_VERSION,
        "calibration": json.loads(calibration.to_text()),
        "conclusion": fit.conclusion,
        "decisions": [{**asdict(each), "choice": each.choice} for each in fit.decisions],
        "gains": {name: asdict(gain) for name, gain in fit.gains.items()},
        "calibration_errors": fit.calibration_errors,
    }
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _decisions(fit: Fit) -> Table:
    rows = []
    for decision in fit.decisions:
        rows.append((decision.subject, decision.paper, decision.measure, "", "the paper's"))
        rows += [
            ("", each.name, "", interval(each.gain, True), "adopted" if each.adopted else "")
            for each in decision.candidates
        ]
    header = ("", "choice", "measure", "gain on the one in force", "")
    return Table("What was tried", rules(), header, rows)


def _whole(fit: Fit, errors: tuple[float, float]) -> Table:
    rows = [(name, interval(gain, True)) for name, gain in fit.gains.items()]
    rows.append(("Unrounded mean, ECE, from and to", f"{errors[0]:.4f} → {errors[1]:.4f}"))
    note = "Against the paper's vote, on images held out, with intervals of 95 %; above 0 is better."
    return Table("What the fitted vote gains as a whole", note, ("", "gain"), rows)


def _points(points: tuple[OperatingPoint, ...]) -> Table:
    def rate(value: float, ends: tuple[float, float]) -> str:
        return f"{value:.2%} [{ends[0]:.2%}, {ends[1]:.2%}]"

    return Table(
        "Operating points",
        "Fake strictly above the threshold on the probability; intervals of 95 %.",
        ("", "threshold", "false alarms", "detection"),
        [
            (
                f"far={each.far:g}",
                interval(Estimate(each.threshold, *each.threshold_interval)),
                rate(each.false_alarm_rate, each.false_alarm_interval),
                rate(each.detection_rate, each.detection_interval),
            )
            for each in points
        ],
    )
