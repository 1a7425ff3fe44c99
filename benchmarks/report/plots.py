"""Plots of results, as PNG."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.common.result import Figure, Result
from benchmarks.load.statistics import STEPS
from benchmarks.load.sweep import CLOSED, OPEN, PERCENTILES
from benchmarks.load.workloads import MAIN
from benchmarks.report.tables import load_name, shown_loads
from forensics.common.plots import GRID, STYLE

# Of Okabe and Ito, which colour-blind people can tell apart.
STEP_COLOURS = dict(zip(STEPS, ("#56B4E9", "#CC79A7", "#0072B2", "#E69F00", "#009E73", "#56565c"), strict=True))
PERCENTILE_COLOURS = dict(zip(PERCENTILES, ("#0072B2", "#E69F00", "#D55E00"), strict=True))
_PARTS = ("input", "infer", "output")

Draw = Callable[[Canvas], None]


def latency_plot(result: Result, preset: str) -> bytes:
    """Latency over throughput, closed and open loop side by side."""

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(1, 2, sharey=True)
        kinds = ((CLOSED, "concurrency", "{:g} in flight"), (OPEN, "share", "{:.0%} of capacity"))
        for axes, (load, label, words) in zip(panels, kinds, strict=True):
            throughputs = _main_loads(result, preset, "throughput", load=load)
            x = [each.median for each in throughputs]
            for metric in PERCENTILES:
                figures = [result.select(**{**each.labels, "metric": metric})[0] for each in throughputs]
                style = {"color": PERCENTILE_COLOURS[metric], "marker": "o", "ms": 4, "lw": 1.6, "label": metric}
                axes.plot(x, [each.median * 1000 for each in figures], **style)
                axes.vlines(
                    x,
                    [min(each.rounds) * 1000 for each in figures],
                    [max(each.rounds) * 1000 for each in figures],
                    color=PERCENTILE_COLOURS[metric],
                    alpha=0.35,
                    lw=3,
                )
            lowest = [result.select(**{**each.labels, "metric": "p50"})[0].median * 1000 for each in throughputs]
            for place, height, each in zip(x, lowest, throughputs, strict=True):
                text = words.format(each.labels[label])
                axes.annotate(
                    text, (place, height), (3, -11), textcoords="offset points", fontsize=7.5, color="#52525b"
                )
            axes.set(title=load, xlabel="images/s", yscale="log", xlim=(0, 1.3 * max(x)))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
            axes.grid(color=GRID)
        figures = [each for metric in PERCENTILES for each in _main_loads(result, preset, metric)]
        values = [1000 * value for each in figures for value in each.rounds]
        panels[0].set(ylabel="latency, ms", ylim=(0.6 * min(values), 1.6 * max(values)))
        panels[0].legend(loc="upper left")

    return png(draw, (10.4, 4.4))


def step_plot(result: Result, preset: str) -> bytes:
    """Share of each step in the compute time, and what an image costs and waits in all steps, load by load."""
    loads: list[Any] = shown_loads(result, preset)

    def draw(canvas: Canvas) -> None:
        shares, times = canvas.subplots(1, 2, width_ratios=[3, 2], sharey=True)
        names = [load_name(each["labels"]) for each in loads]
        left = [0.0] * len(loads)
        for step in STEPS:
            widths = [_value(each, step, "share") * 100 for each in loads]
            shares.barh(names, widths, left=left, color=STEP_COLOURS[step], label=step, height=0.7)
            for index, width in enumerate(widths):
                if width >= 7:
                    centre = left[index] + width / 2
                    shares.text(centre, index, f"{width:.0f}", ha="center", va="center", color="white", fontsize=8)
            left = [before + width for before, width in zip(left, widths, strict=True)]
        bars = (("compute", "#18181b", -0.18, _PARTS), ("queues", "#a1a1aa", 0.18, ("queue",)))
        for name, colour, shift, parts in bars:
            widths = [1000 * sum(_value(each, step, part) for step in STEPS for part in parts) for each in loads]
            times.barh([row + shift for row in range(len(loads))], widths, height=0.34, color=colour, label=name)
        shares.set(title="share of the compute time, %", xlim=(0, 100))
        times.set(title="ms for an image, all steps", xscale="log")
        times.xaxis.set_major_formatter("{x:g}")
        times.grid(color=GRID, axis="x")
        shares.invert_yaxis()
        canvas.legend(*_handles(shares, times), loc="outside lower center", ncols=8, fontsize=8)

    return png(draw, (11.2, 1.6 + 0.36 * len(loads)))


def memory_plot(minutes: Sequence[float], memory: dict[str, Sequence[float]]) -> bytes:
    """Memory over time of several processes, MiB, each on a panel of its own that begins at zero."""

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(len(memory), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(panels, memory.items(), strict=True):
            axes.plot(minutes, values, color="#0072B2", lw=1.4)
            axes.set(title=f"{name}, MiB", ylim=(0, 1.15 * max(values)))
            axes.grid(color=GRID)
        panels[-1].set(xlabel="minutes", xlim=(0, None))

    return png(draw, (9, 2.2 * len(memory)))


def png(draw: Draw, size: tuple[float, float]) -> bytes:
    """A figure of `size` inches."""
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=size, layout="constrained")
        draw(canvas)
        for axes in canvas.axes:
            axes.set_axisbelow(True)
        file = io.BytesIO()
        canvas.savefig(file, format="png", dpi=144, metadata={"Software": None})
    return file.getvalue()


def write_plots(folder: Path, result: Result) -> dict[str, bytes]:
    """The plots of every preset, also as files of the folder; file name to picture."""
    plots = {}
    for preset in result.settings["presets"]:
        plots[f"{preset}-latency.png"] = latency_plot(result, preset)
        plots[f"{preset}-steps.png"] = step_plot(result, preset)
    for name, picture in plots.items():
        (folder / name).write_bytes(picture)
    return plots


def data_url(picture: bytes) -> str:
    """For a page that needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _main_loads(result: Result, preset: str, metric: str, **labels: str) -> list[Figure]:
    """A metric of single images of the main kind."""
    return result.select(preset=preset, images=str(MAIN), batch=1, metric=metric, **labels)


def _value(load: Any, step: str, part: str) -> float:
    return next((float(each[part]) for each in load["steps"] if each["model"] == step), 0.0)


def _handles(*panels: Any) -> tuple[list[Any], list[str]]:
    pairs = [axes.get_legend_handles_labels() for axes in panels]
    return [handle for handles, _ in pairs for handle in handles], [name for _, names in pairs for name in names]
