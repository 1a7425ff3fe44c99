"""A calibration as tables, and calibration-report.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ensemble.calibration import OperatingPoint
from ensemble.calibration_file import Calibration
from forensics.calibrate.fit import FOLDS, LEAST_FOR_ISOTONIC, LEAST_OF_A_CLASS, Fit
from forensics.calibrate.operating_points import Support
from forensics.common.groups import count_groups
from forensics.common.metrics import Estimate
from forensics.common.report import Table, interval
from forensics.common.scoring.scores import Scores

FORMAT_VERSION = 1

NOT_SUPPORTED = "not supported"


def calibration_tables(fit: Fit, points: Sequence[OperatingPoint], support: Sequence[Support]) -> list[Table]:
    """All tables: what was tried, what the whole gains, the operating points, what the data support."""
    tables = []
    if fit.decisions:
        tables.append(_decisions(fit))
    if fit.calibration_errors is not None:
        tables.append(_whole(fit, fit.calibration_errors))
    if points:
        tables.append(_points(points))
    return [*tables, _support(support)]


def rules() -> str:
    """By what rules a part of the paper's vote is changed."""
    return (
        f"A part of the paper's vote changes only where the gain, on groups of images held out ({FOLDS} folds), has an "
        "interval of 95 % over groups, shared among the candidates of a decision, above 0; and all of it only where "
        f"the whole gains for certain too. Under {LEAST_OF_A_CLASS} real or fake groups nothing changes; isotonic maps "
        f"are tried from {LEAST_FOR_ISOTONIC} of each."
    )


def describe_groups(scores: Scores) -> str:
    """What is taken as independent, in words."""
    if scores.groups is None:
        return (
            "No groups are named, so every image is taken as independent: a group of its own. Frames of one video, "
            "crops of one photograph or pictures of one person are not independent: name them in the column group of "
            "a CSV, or put each in a subfolder of real/ or fake/."
        )
    kinds = (("real", ~scores.labels, scores.independent_real), ("fake", scores.labels, scores.independent_fake))
    counts = []
    for name, kind, independent in kinds:
        found = count_groups(kind, scores.groups)
        less = f", which count as {independent} as some hold more images than others" if independent < found else ""
        counts.append(f"{int(kind.sum())} {name} images are of {found} groups{less}")
    return f"{'; '.join(counts)}. All intervals are over groups, and an image without a group is one of its own."


def why_missing(support: Support, scores: Scores) -> str:
    """Why there is no operating point for a rate, and what to do; empty where there is one."""
    if support.supported:
        return ""
    unit = "images" if scores.groups is None else "groups"
    tried = f" On groups left out, false alarms were {_rate(support.left_out)}." if support.left_out else ""
    return (
        f"No operating point far={support.far:g}: {support.needed} real {unit} are needed, {support.independent} are "
        f"there.{tried} The rate is {NOT_SUPPORTED} by these data, which allow 1 in {support.independent} at the "
        "lowest, and the calibration does not hold it: add real images of other people, photographs or videos."
    )


def write_calibration_report(
    path: Path, fit: Fit, calibration: Calibration, support: Sequence[Support], scores: Scores
) -> None:
    """All numbers, for programs."""
    document = {
        "version": FORMAT_VERSION,
        "calibration": json.loads(calibration.to_text()),
        "conclusion": fit.conclusion,
        "groups": {
            "named": scores.groups is not None,
            "real": count_groups(~scores.labels, scores.groups),
            "fake": count_groups(scores.labels, scores.groups),
            "independent_real": scores.independent_real,
            "independent_fake": scores.independent_fake,
        },
        "decisions": [{**asdict(each), "choice": each.choice} for each in fit.decisions],
        "gains": {name: asdict(gain) for name, gain in fit.gains.items()},
        "calibration_errors": fit.calibration_errors,
        "support": [
            {**asdict(each), "supported": each.supported, "reason": why_missing(each, scores)} for each in support
        ],
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
    note = "Against the paper's vote, on groups held out, with intervals of 95 % over groups; above 0 is better."
    return Table("What the fitted vote gains as a whole", note, ("", "gain"), rows)


def _support(support: Sequence[Support]) -> Table:
    note = (
        "A rate needs one over it independent real images; those of a group count as one. False alarms on groups left "
        f"out are those of vote and threshold fitted on the others ({FOLDS} folds); intervals of 95 % over groups."
    )
    rows = [
        (
            f"far={each.far:g}",
            str(each.needed),
            str(each.independent),
            "" if each.left_out is None else _rate(each.left_out),
            "" if each.supported else NOT_SUPPORTED,
        )
        for each in support
    ]
    return Table("What the data support", note, ("", "needed", "there", "on groups left out", ""), rows)


def _points(points: Sequence[OperatingPoint]) -> Table:
    return Table(
        "Operating points",
        "Fake strictly above the threshold on the probability; intervals of 95 % over groups.",
        ("", "threshold", "false alarms", "detection"),
        [
            (
                f"far={each.far:g}",
                interval(Estimate(each.threshold, *each.threshold_interval)),
                _rate(Estimate(each.false_alarm_rate, *each.false_alarm_interval)),
                _rate(Estimate(each.detection_rate, *each.detection_interval)),
            )
            for each in points
        ],
    )


def _rate(rate: Estimate) -> str:
    return f"{rate.value:.2%} [{rate.low:.2%}, {rate.high:.2%}]"
