"""What sweeps of degradation do to the streams and to the vote; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from degradation import Sweep
from ensemble.streams import STREAMS
from forensics.common.arrays import Floats, Groups, Labels
from forensics.common.groups import numbered
from forensics.common.metrics import Estimate, bootstrap_auc, estimate, roc_auc
from forensics.common.progress import Advance, silent
from forensics.common.scoring.scores import MEAN, TITLES, VOTE

SAME_FACE_IOU = 0.5
"""Overlap (intersection over union) from which two boxes count as the same face."""

_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class LevelMeasures:
    """One level of a sweep over N images. Means have an interval of 95 %.

    Attributes:
        level: Its level; None for the clean images.
        auc: ROC AUC, by the names of `TITLES`; None without labels.
        auc_loss: That of the clean images above it, on the same resampled images; None without labels.
        shift: Mean of the scores, less the clean ones.
        distance: Mean of the same without its sign.
        flips: Share of the images whose call is not the clean one; a call is above, below or at 0.5, for streams of
            their vote.
        cosine: Mean cosine of the DINOv2 feature with the clean one, by stream.
        entropy: Mean attention entropy, in nats, by stream.
        same_face: Of the images with a face when clean, the share with the same face now; None where there are none.
    """

    level: float | None
    auc: Mapping[str, Estimate] | None
    auc_loss: Mapping[str, Estimate] | None
    shift: Mapping[str, Estimate]
    distance: Mapping[str, Estimate]
    flips: Mapping[str, Estimate]
    cosine: Mapping[str, Estimate]
    entropy: Mapping[str, Estimate]
    same_face: float | None


@dataclass(frozen=True)
class SweepMeasures:
    """One sweep.

    Attributes:
        name: Key in `SWEEPS`.
        title: For people.
        quantity: What a level is.
        images: Number of images.
        clean: The images as they are.
        levels: From mild to severe.
    """

    name: str
    title: str
    quantity: str
    images: int
    clean: LevelMeasures
    levels: Sequence[LevelMeasures]


def analyse(
    sweep: Sweep,
    rows: Sequence[Mapping[str, Any]],
    labels: Labels | None,
    *,
    resamples: int,
    seed: int = 0,
    advance: Advance = silent,
    groups: Groups | None = None,
) -> SweepMeasures:
    """Sums a sweep up.

    Args:
        sweep: The sweep.
        rows: Of N images with status `ok`, as `robustness_rows.measure` gives them, at least one.
        labels: bool [N], True for fake, both kinds among them; None where they are not known.
        resamples: Of the bootstrap that gives the intervals of AUC.
        seed: Of its draws.
        advance: Called after each resample.
        groups: Of the images (`Scores.groups`); None where all are independent.
    """
    own = numbered(groups, len(rows))
    clean = [row["clean"] for row in rows]
    states = [clean, *([row["levels"][index] for row in rows] for index in range(len(sweep.levels)))]
    columns = [_columns(state) for state in states]
    areas = None if labels is None else _areas(labels, columns, resamples, seed, advance, own)
    measured = [
        LevelMeasures(
            level=level,
            auc=None if areas is None else areas[index][0],
            auc_loss=None if areas is None else areas[index][1],
            shift={name: _mean(columns[index][name] - columns[0][name], own) for name in TITLES},
            distance={name: _mean(np.abs(columns[index][name] - columns[0][name]), own) for name in TITLES},
            flips={name: _mean(flips, own) for name, flips in _flips(state, clean).items()},
            cosine=_by_stream(state, "cosine", own),
            entropy=_by_stream(state, "entropy", own),
            same_face=_same_face(state, clean),
        )
        for index, (level, state) in enumerate(zip((None, *sweep.levels), states, strict=True))
    ]
    return SweepMeasures(sweep.name, sweep.title, sweep.quantity, len(rows), measured[0], measured[1:])


def _columns(state: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """All that ranks images, by the names of `TITLES`: float64 [N] each."""
    streams = {s.name: np.array([each["streams"][s.name]["probability"] for each in state]) for s in STREAMS}
    return {
        **streams,
        MEAN: np.array([each["probability"] for each in state]),
        VOTE: np.array([each["score"] for each in state]),
    }


def _areas(
    labels: Labels,
    columns: Sequence[Mapping[str, Floats]],
    resamples: int,
    seed: int,
    advance: Advance,
    groups: Groups,
) -> list[tuple[dict[str, Estimate], dict[str, Estimate]]]:
    """AUC of every column of every state, and what it lost against the first state."""
    values = np.array([[roc_auc(labels, column[name]) for name in TITLES] for column in columns])
    flat = [column[name] for column in columns for name in TITLES]
    resampled = bootstrap_auc(labels, flat, resamples, seed, advance, groups=groups).reshape(resamples, *values.shape)
    return [
        (
            {name: estimate(values[row, n], resampled[:, row, n]) for n, name in enumerate(TITLES)},
            {
                name: estimate(values[0, n] - values[row, n], resampled[:, 0, n] - resampled[:, row, n])
                for n, name in enumerate(TITLES)
            },
        )
        for row in range(len(columns))
    ]


def _flips(state: Sequence[Mapping[str, Any]], clean: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    def calls(images: Sequence[Mapping[str, Any]], name: str) -> Floats:
        if name in (MEAN, VOTE):
            values = [each["probability" if name == MEAN else "score"] for each in images]
        else:
            values = [each["streams"][name]["vote"] for each in images]
        return np.asarray(np.sign(np.array(values) - 0.5), np.float64)

    return {name: (calls(state, name) != calls(clean, name)).astype(np.float64) for name in TITLES}


def _by_stream(state: Sequence[Mapping[str, Any]], field: str, groups: Groups) -> dict[str, Estimate]:
    return {s.name: _mean(np.array([each["streams"][s.name][field] for each in state]), groups) for s in STREAMS}


def _mean(values: Floats, groups: Groups) -> Estimate:
    """Mean with the normal interval over groups, numbered from 0; of one group, the interval is the value."""
    mean = float(values.mean())
    off = np.bincount(groups, values - mean)
    half = _NORMAL_95 * (len(off) / (len(off) - 1) * float(off @ off)) ** 0.5 / len(values) if len(off) > 1 else 0.0
    return Estimate(mean, mean - half, mean + half)


def _same_face(state: Sequence[Mapping[str, Any]], clean: Sequence[Mapping[str, Any]]) -> float | None:
    pairs = [(now["face"], before["face"]) for now, before in zip(state, clean, strict=True) if before["face"]]
    if not pairs:
        return None
    return sum(now is not None and box_iou(now, before) >= SAME_FACE_IOU for now, before in pairs) / len(pairs)


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)
