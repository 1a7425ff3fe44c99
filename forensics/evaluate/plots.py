"""Plots of an evaluation, as SVG to put into a page."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forensics.common.arrays import Floats, Labels
from forensics.common.metrics import reliability, roc_auc, roc_points
from forensics.common.plots import COLOURS, GRID, svg
from forensics.common.scoring.scores import MEAN, TITLES, VOTE, Scores

REAL, FAKE = "#0072B2", "#D55E00"

_MOST_POINTS = 400
"""Of a curve: more cannot be seen, and a page with a million would not open."""


def roc_plot(scores: Scores) -> list[str]:
    """The ROC curves of all columns: whole, and the left edge with a logarithmic axis where false alarms are rare."""
    least = 1 / scores.real
    low_rates = np.geomspace(least, 1, _MOST_POINTS)  # straight lines of the curve are none on a logarithmic axis

    def draw(axes: Axes, rare: bool) -> None:
        for name, column in scores.columns.items():
            style: dict[str, Any] = {
                "color": COLOURS[name],
                "lw": 2.2 if name == VOTE else 1.4,
                "ls": "--" if name == MEAN else "-",
            }
            false_alarms, detections = roc_points(scores.labels, column)
            curve = (low_rates, np.interp(low_rates, false_alarms, detections))
            label = f"{TITLES[name]}  {roc_auc(scores.labels, column):.3f}"
            axes.plot(*(curve if rare else _thinned(false_alarms, detections)), label=label, **style)
        axes.plot(low_rates, low_rates, color="#a1a1aa", lw=0.8, ls=":")
        axes.set(xlabel="false-alarm rate (real called fake)", ylabel="detection rate", ylim=(0, 1.01))
        axes.grid(color=GRID)
        if rare:
            axes.set(title="The same where false alarms are rare", xscale="log", xlim=(least, 1))
        else:
            axes.set(title="ROC, with the area under each curve", xlim=(-0.005, 1), aspect="equal")
            axes.legend(loc="lower right", fontsize=8.5)

    return [svg(partial(_only, draw, rare), (5.2, 4.9)) for rare in (False, True)]


def _only(draw: Callable[[Axes, bool], None], rare: bool, figure: Figure) -> None:
    draw(figure.subplots(), rare)


def reliability_plot(scores: Scores) -> list[str]:
    """Score against the share of fake images, for each column."""

    def panel(axes: Axes, name: str, column: Floats, labels: Labels) -> None:
        bins = reliability(labels, column)
        axes.plot([0, 1], [0, 1], color="#a1a1aa", lw=0.8, ls=":")
        sizes = [12 + 160 * each.count / len(column) for each in bins]
        means, shares = [each.mean_score for each in bins], [each.fake_share for each in bins]
        axes.plot(means, shares, color=COLOURS[name], lw=1)
        axes.scatter(means, shares, sizes, color=COLOURS[name], alpha=0.75, linewidths=0)
        axes.set(
            title=TITLES[name],
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
            xlabel="score",
            aspect="equal",
            xticks=[0, 0.5, 1],
        )
        axes.grid(color=GRID)

    return _panels(scores, panel, "share of fake images", (3, 3.2))


def histogram_plot(scores: Scores) -> list[str]:
    """Distribution of each column's scores, real and fake images apart."""

    def panel(axes: Axes, name: str, column: Floats, labels: Labels) -> None:
        # Votes are multiples of a step: bins around each tenth, so that none lies on an edge.
        edges = np.linspace(-0.05, 1.05, 12) if name == VOTE else np.linspace(0, 1, 26)
        for chosen, colour, label in ((~labels, REAL, "real"), (labels, FAKE, "fake")):
            shares = np.histogram(column[chosen], edges)[0] / chosen.sum()
            axes.stairs(shares, edges, fill=True, alpha=0.3, color=colour, label=label)
            axes.stairs(shares, edges, lw=1.2, color=colour)
        axes.set(title=TITLES[name], xlim=(edges[0], edges[-1]), xlabel="score", xticks=[0, 0.5, 1])
        axes.grid(color=GRID, axis="y")
        if name == next(iter(TITLES)):
            axes.legend()

    return _panels(scores, panel, "share of the class", (3, 2.8))


def _panels(
    scores: Scores, panel: Callable[[Axes, str, Floats, Labels], None], ylabel: str, size: tuple[float, float]
) -> list[str]:
    def draw(name: str, figure: Figure) -> None:
        axes = figure.subplots()
        panel(axes, name, scores.columns[name], scores.labels)
        axes.set_ylabel(ylabel)

    return [svg(partial(draw, name), size) for name in scores.columns]


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    if len(x) <= _MOST_POINTS:
        return x, y
    length = np.append(0, np.cumsum(np.hypot(np.diff(x), np.diff(y))))
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _MOST_POINTS)))
    return x[kept], y[kept]
