"""Two results of the same benchmark: what changed beyond noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.common.noise import Interval, chance, corrected, ratio_of_medians
from benchmarks.common.result import Figure, Result
from benchmarks.comparison.goals import CLIENT, ENSEMBLE
from benchmarks.report.tables import Table

Verdict = Literal["better", "worse", "same", "unknown"]

SIGNIFICANCE = 0.05
"""Chance that any of a group's figures seems changed, for the better or the worse, where nothing is."""

LEAST_ROUNDS = 4
"""On each side; fewer tell little of their own noise."""


class IncomparableError(ValueError):
    """Two results that say nothing about each other."""


@dataclass(frozen=True)
class Change:
    """One figure in both results.

    Attributes:
        old: Before.
        new: After.
        ratio: New over old, of the medians.
        chance: Of rounds so far apart where nothing changed, corrected for the other figures of its group;
            None where there are too few rounds to tell.
        verdict: `unknown` where there is no chance.
    """

    old: Figure
    new: Figure
    ratio: Interval
    chance: float | None
    verdict: Verdict


def check_comparable(old: Result, new: Result, *, other_machine: bool) -> list[str]:
    """What differs in the circumstances, one line each.

    Args:
        old: Before.
        new: After.
        other_machine: Results of different machines are wanted.

    Raises:
        IncomparableError: They are of different benchmarks, or of different machines without being asked for.
    """
    if old.benchmark != new.benchmark:
        raise IncomparableError(f"one result is of {old.benchmark!r}, the other of {new.benchmark!r}")
    before, after = old.circumstances, new.circumstances
    if before.machine != after.machine and not other_machine:
        raise IncomparableError(
            f"measured on different machines: {before.machine} and {after.machine}; what changed may be the machine. "
            "Measure both on one, or say --different-machines"
        )
    differences = [
        f"{name}: {before.versions.get(name, 'none')} → {after.versions.get(name, 'none')}"
        for name in sorted({*before.versions, *after.versions})
        if before.versions.get(name) != after.versions.get(name)
    ]
    if before.machine != after.machine:
        differences.insert(0, f"machine: {before.machine} → {after.machine}")
    differences += [
        f"{name}: {old.settings.get(name)} → {new.settings.get(name)}"
        for name in sorted({*old.settings, *new.settings})
        if old.settings.get(name) != new.settings.get(name)
    ]
    return differences


def compare(old: Result, new: Result, least: float) -> tuple[list[Change], list[str]]:
    """Every figure that both results have, and the names of those that only one has.

    A figure changed where rounds so far apart are unlikely without a change (t-test, corrected by Holm's method for the
    number of figures, 5 %) and the medians differ by at least the share `least`: rounds of one run tell nothing of what
    another hour would bring. The server's throughputs in the comparison are a group of their own, corrected apart, lest
    the many loads drown them. In either group something seems worse in 2.5 % of the comparisons of identical code, and
    something better in as many.
    """
    before, after = ({each.name: each for each in result.figures if each.better != "neither"} for result in (old, new))
    both = [(before[name], after[name]) for name in before if name in after]
    chances: dict[str, float] = {}
    for main in (True, False):
        told = [(o, n) for o, n in both if _is_main(o) == main and _rounds(o, n) >= LEAST_ROUNDS]
        found = corrected([chance(o.rounds, n.rounds) for o, n in told])
        chances |= {o.name: each for (o, _), each in zip(told, found, strict=True)}
    changes = [_change(o, n, chances.get(o.name), least) for o, n in both]
    return changes, [name for name in {**before, **after} if name not in before or name not in after]


def change_table(changes: Sequence[Change], *, everything: bool) -> Table:
    """The changes, greatest first; those that are none only when asked for."""
    shown = [each for each in changes if everything or each.verdict in ("better", "worse")]
    shown.sort(key=lambda each: (each.verdict not in ("worse", "better"), -abs(each.ratio.value - 1)))
    return Table(
        "What changed",
        "",
        ("figure", "old", "new", "new / old", "interval", "verdict"),
        [
            (
                each.old.name,
                f"{each.old.median:.4g} {each.old.unit}",
                f"{each.new.median:.4g} {each.new.unit}",
                f"{each.ratio.value:.3f}",
                f"{each.ratio.low:.3f} to {each.ratio.high:.3f}",
                each.verdict,
            )
            for each in shown
        ],
    )


def _is_main(figure: Figure) -> bool:
    """Whether it is a throughput that the goals are about."""
    return figure.labels.get("way") in (ENSEMBLE, CLIENT)


def _rounds(old: Figure, new: Figure) -> int:
    return min(len(old.rounds), len(new.rounds))


def _change(old: Figure, new: Figure, probability: float | None, least: float) -> Change:
    ratio = ratio_of_medians(new.rounds, old.rounds, paired=False)
    return Change(old, new, ratio, probability, _verdict(old, ratio.value, probability, least))


def _verdict(old: Figure, ratio: float, probability: float | None, least: float) -> Verdict:
    if probability is None:
        return "unknown"
    if probability >= SIGNIFICANCE or abs(ratio - 1) < least:
        return "same"
    return "better" if (ratio > 1) == (old.better == "higher") else "worse"
