"""How every plot looks, and how it gets into a page."""

import io
from collections.abc import Callable

import matplotlib as mpl
from matplotlib.figure import Figure

from forensics.common.scores import MEAN, VOTE

COLOURS = {
    "global_texture": "#0072B2",
    "local_facial": "#E69F00",
    "semantic_fusion": "#009E73",
    MEAN: "#56565c",
    VOTE: "#000000",
}
"""Of Okabe and Ito, which colour-blind people can tell apart."""

GRID = "#e4e4e7"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#a1a1aa",
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "forensics",
    "svg.fonttype": "path",
}


def svg(draw: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """A figure of `size` inches as SVG text, for a page that holds it inline."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        for axes in figure.axes:
            axes.set_axisbelow(True)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
