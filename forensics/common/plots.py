"""How every plot looks, and how it gets into a page."""

import io
from collections.abc import Callable
from itertools import cycle

import matplotlib as mpl
from matplotlib.figure import Figure

from ensemble.streams import STREAMS
from forensics.common.scoring.scores import MEAN, VOTE

_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Of Okabe and Ito, which colour-blind people can tell apart."""

COLOURS = {
    **{stream.name: colour for stream, colour in zip(STREAMS, cycle(_PALETTE), strict=False)},
    MEAN: "#56565c",
    VOTE: "#000000",
}
"""Of each curve."""

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
