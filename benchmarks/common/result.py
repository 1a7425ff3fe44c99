"""What every benchmark writes: figures of several rounds, ratios of them, and the circumstances, as JSON."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.common.machine import Circumstances, Machine

SCHEMA = 1
"""Version of the format; a file of another version is refused."""

Better = Literal["higher", "lower", "neither"]


class ResultError(ValueError):
    """A file is no result, or of another version."""


@dataclass(frozen=True)
class Figure:
    """One quantity, measured once in each round.

    Attributes:
        labels: What was measured, such as preset, load and concurrency; with `metric`, unique in a result.
        metric: The quantity, such as throughput.
        unit: Of the values.
        better: Which direction is an improvement; neither where the load gave the value, which is not compared then.
        rounds: The values.
    """

    labels: dict[str, str | int | float]
    metric: str
    unit: str
    better: Better
    rounds: list[float]

    @property
    def name(self) -> str:
        """Labels and metric in one line."""
        words = (value if isinstance(value, str) else f"{key} {value:g}" for key, value in self.labels.items())
        return " · ".join([*words, self.metric])

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Ratio:
    """One figure over another of the same run, with its interval.

    Attributes:
        name: What over what.
        preset: Of the networks.
        value: Ratio of the medians.
        low: Lower end of its interval of 95 %.
        high: Upper end.
        goal: The least that is aimed at; None where there is no goal for this preset.
        met: Whether the value reaches the goal.
    """

    name: str
    preset: str
    value: float
    low: float
    high: float
    goal: float | None
    met: bool | None

    @property
    def verdict(self) -> str:
        """Met or not, in words, and whether noise alone could have it so: another run may tell otherwise then."""
        if self.goal is None:
            return ""
        word = "met" if self.met else "not met"
        return f"{word}, but within noise" if self.low < self.goal <= self.high else word


@dataclass(frozen=True)
class Result:
    """One run of a benchmark.

    Attributes:
        benchmark: Which.
        measures: What it tells, in a sentence.
        circumstances: Where, when and with what.
        settings: What the run was asked for.
        figures: What can be compared with another run.
        ratios: What can be read without another run.
        details: What explains the figures, in the benchmark's own form.
    """

    benchmark: str
    measures: str
    circumstances: Circumstances
    settings: dict[str, Any]
    figures: list[Figure]
    ratios: list[Ratio] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def select(self, **labels: str | int | float) -> list[Figure]:
        """The figures that have all of these labels; `metric` counts as one."""
        return [each for each in self.figures if labels.items() <= ({**each.labels, "metric": each.metric}).items()]


def write(path: Path, result: Result) -> None:
    """Write a result; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> Result:
    """Read a result.

    Raises:
        OSError: The file cannot be read.
        ResultError: It is no result, or of another version.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultError(f"{path}: not JSON ({error}); give a file that a benchmark wrote") from error
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, Mapping) else None
        raise ResultError(f"{path}: a result of schema {found}, wanted {SCHEMA}; measure again with this version")
    try:
        given = document["circumstances"]
        return Result(
            **{
                **document,
                "circumstances": Circumstances(**{**given, "machine": Machine(**given["machine"])}),
                "figures": [Figure(**each) for each in document["figures"]],
                "ratios": [Ratio(**each) for each in document["ratios"]],
            }
        )
    except (KeyError, TypeError) as error:
        raise ResultError(f"{path}: not a whole result ({error}); measure again") from error
