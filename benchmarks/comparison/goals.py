"""The ratios that are aimed at, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.common.noise import ratio_of_medians
from benchmarks.common.result import Ratio

ENSEMBLE, CLIENT = "ensemble", "client"
"""The server, asked by perf_analyzer, and asked by our client."""

ONE_PROCESS, AUTHORS, BACKBONES = "one process", "authors", "backbones"


@dataclass(frozen=True)
class Comparison:
    """Two ways whose throughputs are compared.

    Attributes:
        name: For tables and files.
        over: The way that is ours.
        under: What it is measured against.
        tells: What the ratio is, for people.
        goals: The least that is aimed at, by preset.
    """

    name: str
    over: str
    under: str
    tells: str
    goals: Mapping[str, float]


COMPARISONS = (
    Comparison(
        "ensemble / one process",
        ENSEMBLE,
        ONE_PROCESS,
        "the whole ensemble over gRPC against the same functions in one process: what serving costs",
        {"small": 0.95, "tiny": 0.6},
    ),
    Comparison(
        "ensemble / authors",
        ENSEMBLE,
        AUTHORS,
        "against the authors' way: PyTorch eager in float32, batches of 16, stage after stage",
        {"small": 2.0},
    ),
    Comparison(
        "ensemble / backbones",
        ENSEMBLE,
        BACKBONES,
        "against the bare networks on pixels that are ready, batches of 8, in the server's runtime",
        {"giant": 0.97},
    ),
    Comparison(
        "client / perf_analyzer",
        CLIENT,
        ENSEMBLE,
        "our client against perf_analyzer, at the same load",
        {"tiny": 0.95, "small": 0.95, "giant": 0.95},
    ),
)


def ratios(preset: str, throughputs: Mapping[str, Sequence[float]]) -> list[Ratio]:
    """Every comparison of one preset.

    Args:
        preset: Of the networks.
        throughputs: Way to its rounds; round i of all was measured side by side.
    """
    found = []
    for each in COMPARISONS:
        interval = ratio_of_medians(throughputs[each.over], throughputs[each.under], paired=True)
        goal = each.goals.get(preset)
        met = None if goal is None else interval.value >= goal
        found.append(Ratio(each.name, preset, interval.value, interval.low, interval.high, goal, met))
    return found
