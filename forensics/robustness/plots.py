"""Plots of a robustness study, as SVG to put into a page."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forensics.common.metrics import Estimate
from forensics.common.plots import COLOURS, GRID, svg
from forensics.common.scoring.scores import MEAN, TITLES, VOTE
from forensics.robustness.measures import LevelMeasures, SweepMeasures

Pick = Callable[[LevelMeasures], Mapping[str, Estimate]]


def sweep_plot(sweep: SweepMeasures) -> list[str]:
    """One sweep over its levels: AUC (or shift), flips, feature cosine, attention entropy; bands are intervals."""
    panels: list[tuple[str, Pick, tuple[float, float] | None]] = [
        ("images whose call flips", lambda each: each.flips, (-0.02, 1.02)),
        ("feature cosine with clean", lambda each: each.cosine, None),
        ("attention entropy (nats)", lambda each: each.entropy, None),
    ]
    if sweep.clean.auc is not None:
        panels.insert(0, ("ROC AUC", lambda each: each.auc or {}, (0, 1.02)))
    else:
        panels.insert(0, ("mean shift of the score", lambda each: each.shift, None))

    def draw(title: str, pick: Pick, limits: tuple[float, float] | None, figure: Figure) -> None:
        axes = figure.subplots()
        _panel(axes, sweep, pick)
        axes.set(title=title, xlabel=sweep.quantity)
        if limits:
            axes.set_ylim(limits)
        axes.legend(fontsize=7.5, loc="best")

    return [svg(partial(draw, *each), (3.9, 3.5)) for each in panels]


def _panel(axes: Axes, sweep: SweepMeasures, pick: Pick) -> None:
    # Levels at equal distances: qualities 100 … 5 are no even steps, and get worse to the right like all others.
    positions = np.arange(len(sweep.levels) + 1)
    states = [sweep.clean, *sweep.levels]
    for name in TITLES:
        if name not in pick(sweep.clean):
            continue
        values = [pick(each)[name] for each in states]
        style: dict[str, Any] = {
            "color": COLOURS[name],
            "lw": 2.2 if name == VOTE else 1.4,
            "ls": "--" if name == MEAN else "-",
        }
        axes.fill_between(
            positions, [v.low for v in values], [v.high for v in values], color=COLOURS[name], alpha=0.1, lw=0
        )
        axes.plot(positions, [v.value for v in values], label=TITLES[name], marker="o", ms=3, **style)
    axes.set_xticks(positions, ["clean", *(f"{each.level:g}" for each in sweep.levels)], rotation=45, fontsize=8)
    axes.grid(color=GRID)
