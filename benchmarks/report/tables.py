"""A result as tables of text, for the terminal and for the page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.common.result import Figure, Ratio, Result
from benchmarks.comparison.measure import COMPARISON
from benchmarks.load.sweep import CLOSED, OPEN, PERCENTILES


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: Its heading.
        note: What its numbers are.
        header: Names of the columns.
        rows: As many cells each; the first is a name.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def ratio_table(ratios: Iterable[Ratio]) -> Table:
    """The ratios with their goals."""
    return Table(
        "Ratios",
        "Of the median throughputs of one run, with the interval of 95 % over its rounds; where that spans the goal, "
        "noise alone could have it met or not.",
        ("ratio", "preset", "value", "interval", "goal", ""),
        [
            (
                each.name,
                each.preset,
                f"{each.value:.2f}",
                f"{each.low:.2f} to {each.high:.2f}" if each.low < each.high else "one round",
                "" if each.goal is None else f"≥ {each.goal:g}",
                each.verdict,
            )
            for each in ratios
        ],
    )


def preset_tables(result: Result, preset: str) -> list[Table]:
    """What was measured of one preset."""
    return [
        _ways(result, preset),
        _loads(result, preset, CLOSED),
        _loads(result, preset, OPEN),
        *_steps(result, preset),
    ]


def serving_tables(result: Result) -> list[Table]:
    """All tables of a result of `make bench`, the most important first."""
    presets = result.settings["presets"]
    return [ratio_table(result.ratios), *(table for preset in presets for table in preset_tables(result, preset))]


def print_tables(console: Console, tables: Iterable[Table]) -> None:
    """Tables on a terminal, one below the other."""
    for table in tables:
        grid = RichTable(title=table.title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
        for index, name in enumerate(table.header):
            grid.add_column(name, justify="right" if index else "left", overflow="fold")
        for row in table.rows:
            grid.add_row(*(Text(cell) for cell in row))
        console.print(grid, "")


def spread(figure: Figure, form: str = ".1f") -> tuple[str, str]:
    """Median, and the least and greatest of the rounds."""
    return f"{figure.median:{form}}", f"{min(figure.rounds):{form}} to {max(figure.rounds):{form}}"


def milliseconds(seconds: float) -> str:
    """With as many digits as tell something."""
    value = seconds * 1000
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _level(labels: dict[str, str | int | float]) -> str:
    """How hard a load drives, in words."""
    if "share" in labels:
        return f"{labels['share']:.0%} of capacity"
    return f"{labels['concurrency']} in flight"


def _ways(result: Result, preset: str) -> Table:
    figures = result.select(preset=preset, load=COMPARISON)
    return Table(
        f"{preset}: ways to do the same work",
        f"Images a second, in turn, on {figures[0].labels['images']}: median and range of the rounds. "
        f"Runtime of the server, of one process and of the backbones: {result.details[preset]['runtime']}.",
        ("way", "images/s", "range"),
        [(str(each.labels["way"]), *spread(each, ".2f")) for each in figures],
    )


def _loads(result: Result, preset: str, load: str) -> Table:
    """Requests in flight, or request rates, with their latencies."""
    notes = {
        CLOSED: "A new request for each answer.",
        OPEN: "Requests at random intervals, answered or not, at shares of the capacity measured first.",
    }
    rows = []
    requests = {load_name(each["labels"]): sum(each["requests"]) for each in result.details[preset]["loads"]}
    for throughput in result.select(preset=preset, load=load, metric="throughput"):
        latencies = [result.select(**{**throughput.labels, "metric": name})[0].median for name in PERCENTILES]
        name = load_name(throughput.labels)
        rows.append((name, str(requests[name]), *spread(throughput), *map(milliseconds, latencies)))
    header = ("load", "requests", "images/s", "range", *(f"{name} ms" for name in PERCENTILES))
    note = f"{notes[load]} Latencies by perf_analyzer, medians of the rounds; of few requests, p99 is the slowest one."
    return Table(f"{preset}: {load}", note, header, rows)


def _steps(result: Result, preset: str) -> list[Table]:
    return [
        Table(
            f"{preset}: steps, {load_name(each['labels'])}",
            "From Triton's own counters: what a request waits for the step's batch to run, and what the step computes "
            "for each image. Steps run side by side, so that their times do not add up to the latency.",
            ("step", "mean batch", "queue ms", "input ms", "infer ms", "output ms", "share of compute"),
            [
                (
                    step["model"],
                    f"{step['mean_batch']:.1f}",
                    *(milliseconds(step[part]) for part in ("queue", "input", "infer", "output")),
                    f"{step['share']:.1%}",
                )
                for step in each["steps"]
            ],
        )
        for each in shown_loads(result, preset)
    ]


def load_name(labels: dict[str, str | int | float]) -> str:
    """A load's kind of images, batch and level."""
    return f"{labels['images']}, batch {labels['batch']}, {_level(labels)}"


def shown_loads(result: Result, preset: str) -> list[dict[str, Any]]:
    """Loads whose steps are worth a look: the lightest and heaviest of single images, batches, other images."""
    loads = [each for each in result.details[preset]["loads"] if each["labels"]["load"] == CLOSED]
    main = loads[0]["labels"]["images"]
    singles = [each for each in loads if each["labels"]["images"] == main and each["labels"]["batch"] == 1]
    others = [each for each in loads if each["labels"]["images"] != main or each["labels"]["batch"] > 1]
    return [singles[0], *singles[-1:][: len(singles) - 1], *others]
