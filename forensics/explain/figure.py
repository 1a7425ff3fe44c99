"""Views as pictures: the image, where each stream looked, and how the votes add up."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from deepfake_client import decide
from deepfake_client.text import printable
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ensemble.faces.detection import Box
from ensemble.images import RgbImage
from forensics.common.plots import COLOURS, STYLE
from forensics.explain.views import StreamView, View, arithmetic, describe_face

COLOUR_MAP = "inferno"
FACE_COLOUR = "#56d4ff"
LEAST_OPACITY, LARGEST_OPACITY = 0.35, 0.85
"""Of the map over the image, rising with it: where nothing is salient, the image is to be recognised."""

MAP_SIDE = 256
LONGEST_SIDE = 1024
"""px; larger images are reduced for the picture."""

DPI = 110
PANEL_WIDTH = 3.1
"""Inches, of each image."""

MUTED = "#52525b"

_STYLE = {**STYLE, "axes.titlelocation": "center", "axes.titlesize": 10.5}


def draw_views(name: str, method: str, views: Sequence[View], weights: Sequence[float], warning: str) -> bytes:
    """A PNG with a row for each view.

    Args:
        name: Of the image.
        method: What the maps are, for the colour bar.
        views: The clean image, and the degraded one where there is one.
        weights: Vote weights in force.
        warning: What the picture says of the weights at its foot; empty for nothing.
    """
    height, width = views[0].image.shape[:2]
    panel_height = PANEL_WIDTH * min(max(height / width, 0.5), 1.6)
    columns = 1 + len(views[0].streams)
    with mpl.rc_context(_STYLE):
        figure = Figure(
            figsize=(PANEL_WIDTH * columns + 1.0, (panel_height + 1.75) * len(views) + 0.6), layout="constrained"
        )
        grid = figure.add_gridspec(2 * len(views), columns, height_ratios=[panel_height + 0.75, 0.75] * len(views))
        overlays = []
        for row, view in enumerate(views):
            panels = [figure.add_subplot(grid[2 * row, column]) for column in range(columns)]
            _draw_image(panels[0], view)
            for axes, stream, weight in zip(panels[1:], view.streams, weights, strict=True):
                _draw_overlay(axes, view, stream, weight)
            overlays += panels[1:]
            _draw_votes(figure.add_subplot(grid[2 * row + 1, :]), view, weights)
        bar = figure.colorbar(
            ScalarMappable(mpl.colors.Normalize(0, 1), COLOUR_MAP), ax=overlays, fraction=0.025, pad=0.01, aspect=30
        )
        bar.set_label(f"{method},\neach map scaled to its own range", fontsize=8.5)
        bar.outline.set_visible(False)  # type: ignore[operator]
        scores = "; ".join(f"{each.title}: score {each.score:g}, {decide(each.score)}" for each in views)
        scores = scores if len(views) > 1 else scores.removeprefix(f"{views[0].title}: ")
        figure.suptitle(f"{_shortened(printable(name))}\n{scores}", fontweight="bold", fontsize=13, parse_math=False)
        if warning:
            figure.supxlabel(
                warning,
                color="#b91c1c",
                fontweight="bold",
                fontsize=11,
            )
        return _png(figure)


def draw_panels(view: View, weights: Sequence[float]) -> list[bytes]:
    """The panels of a view, each a PNG of its own, for a page that lays them out as it has room.

    Args:
        view: The image, clean or degraded.
        weights: Vote weights in force.

    Returns:
        The image, each stream's map over it, and the votes.
    """
    height, width = view.image.shape[:2]
    size = PANEL_WIDTH, PANEL_WIDTH * min(max(height / width, 0.5), 1.6) + 0.75
    draws: list[Callable[[Axes], None]] = [partial(_draw_image, view=view)]
    for stream, weight in zip(view.streams, weights, strict=True):
        draws.append(partial(_draw_overlay, view=view, stream=stream, weight=weight))
    with mpl.rc_context(_STYLE):
        votes = _panel(partial(_draw_votes, view=view, weights=weights), (1.5 * PANEL_WIDTH, 0.95))
        return [*(_panel(draw, size) for draw in draws), votes]


def _panel(draw: Callable[[Axes], None], size: tuple[float, float]) -> bytes:
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    return _png(figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def _draw_image(axes: Axes, view: View) -> None:
    _show(axes, view.image)
    _draw_face(axes, view.face)
    axes.set_title(view.title)
    axes.set_xlabel(describe_face(view), fontsize=9, color=MUTED)


def _draw_overlay(axes: Axes, view: View, stream: StreamView, weight: float) -> None:
    height, width = view.image.shape[:2]
    grey = cv2.cvtColor(cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    _show(axes, np.asarray(grey, np.uint8))
    x1, y1, x2, y2 = stream.window
    saliency = np.clip(cv2.resize(stream.saliency, (MAP_SIDE, MAP_SIDE), interpolation=cv2.INTER_LINEAR), 0, 1)
    opacity = LEAST_OPACITY + (LARGEST_OPACITY - LEAST_OPACITY) * saliency
    axes.imshow(saliency, extent=(x1, x2, y2, y1), cmap=COLOUR_MAP, vmin=0, vmax=1, alpha=opacity)
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec="white", lw=1, ls=(0, (4, 3))))
    _draw_face(axes, view.face)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    title = f"{stream.stream.title}\n{stream.probability:.3f} → vote {stream.vote:g}, weight {weight:g}"
    axes.set_title(title, color=COLOURS[stream.stream.name])
    axes.set_xlabel("\n".join(_numbers(stream)), fontsize=9, color=MUTED)


def _numbers(stream: StreamView) -> list[str]:
    if stream.entropy is None:
        return ["nothing is salient"]
    first = [f"entropy {stream.entropy:.2f}"]
    if stream.outside_face is not None:
        first.insert(0, f"outside the face {stream.outside_face:.0%}")
    lines = [", ".join(first)]
    if stream.drift is not None:
        lines.append(f"moved {stream.drift.moved_mass:.0%}, top 20 % overlap {stream.drift.top_iou:.2f}")
    return lines


def _draw_votes(axes: Axes, view: View, weights: Sequence[float]) -> None:
    """The weighted votes laid end to end: their length is the mean, which is rounded to the score."""
    total, left = sum(weights), 0.0
    for stream, weight in zip(view.streams, weights, strict=True):
        share = weight * stream.vote / total
        colour = COLOURS[stream.stream.name]
        axes.barh(0, share, left=left, height=0.7, color=colour, label=stream.stream.title)
        if share > 0.02:
            axes.text(left + share / 2, 0, f"{share:.2f}", ha="center", va="center", color="white", fontsize=9)
        left += share
    axes.plot([0.5, 0.5], [-0.5, 0.5], color="#18181b", lw=1, ls=":")
    axes.plot(view.score, 0, marker="D", ms=8, mfc="white", mec="#18181b", mew=1.6, ls="none", clip_on=False)
    axes.set(xlim=(0, 1), ylim=(-0.5, 0.5), yticks=[], xticks=np.linspace(0, 1, 11))
    axes.spines["left"].set_visible(False)
    axes.set_title(f"{arithmetic(view, weights)}   ({decide(view.score)})", fontsize=10)
    axes.tick_params(labelsize=8.5)


def _draw_face(axes: Axes, face: Box | None) -> None:
    if face is not None:
        x1, y1, x2, y2 = face
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=FACE_COLOUR, lw=1.8))


def _show(axes: Axes, image: RgbImage) -> None:
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    hidden: dict[str, Any] = {"xticks": [], "yticks": []}
    axes.imshow(image, extent=(0, width, height, 0))
    axes.set(**hidden)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _shortened(name: str, length: int = 60) -> str:
    return name if len(name) <= length else f"{name[: length // 2]}…{name[-length // 2 + 1 :]}"
