"""`python -m benchmarks.learn`: stand-in weights from sample photographs, and whether they tell photographs that they
never saw from manipulations of them, through the served ensemble. `make learn` runs this."""

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from benchmarks.common.commands import run_module
from benchmarks.common.machine import ROOT, circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.common.serving import Endpoint, serve
from training.errors import TrainingError
from training.learn.keep import keep
from training.learn.make import make_stand_ins
from training.learn.photographs import PHOTOGRAPHS, TEST, split_of
from training.learn.plan import FULL, QUICK
from training.metrics import auc_interval

GOAL = 0.9
"""AUC of the vote on photographs never seen, clean."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--quick", is_flag=True, help="About two minutes: must beat chance, no more.")
@click.option("--folder", type=click.Path(path_type=Path), default=ROOT / "build" / "learn", help="Where all goes.")
@click.option(
    "--keep", "samples", type=click.Path(path_type=Path), help="Put small weights and test images there, for the demo."
)
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(quick: bool, folder: Path, samples: Path | None, output: Path | None) -> None:
    """Train the three streams at a small size, export, serve, evaluate and degrade.

    Exit status 1 where the vote does not reach an AUC of 0.9 on the clean photographs of the test, or a sweep's last
    level does not lower it; with --quick, where the interval of its AUC holds 0.5.
    """
    console = Console()
    effort = QUICK if quick else FULL
    begun = circumstances("benchmarks.learn")
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        seconds = make_stand_ins(folder, effort, lambda text: console.print(text, highlight=False))
    except TrainingError as error:
        raise click.ClickException(str(error)) from error
    began = time.monotonic()
    repository = folder / "model_repository"
    run_module("export", "--weights", str(folder / "weights"), "--repository", str(repository))
    seconds["export"] = time.monotonic() - began
    with serve(repository) as server:
        began = time.monotonic()
        test = folder / "data" / "test"
        _forensics(server, "evaluate", test, folder / "evaluation", "--resamples", str(effort.resamples))
        seconds["evaluate"] = time.monotonic() - began
        began = time.monotonic()
        sweeps = [option for name in effort.sweeps for option in ("--sweep", name)]
        if sweeps:
            _forensics(server, "robustness", test, folder / "robustness", *sweeps)
            seconds["robustness"] = time.monotonic() - began
    areas = _areas(folder / "evaluation" / "scores.jsonl")
    degraded = _degraded(folder / "robustness" / "robustness.json") if sweeps else {}
    seconds["all"] = time.monotonic() - started
    result = Result(
        benchmark="learn",
        measures="AUC on photographs that the training never saw, through the served ensemble",
        circumstances=begun,
        settings={
            "quick": quick,
            "pairs": effort.pairs,
            "training": [name for name in PHOTOGRAPHS if split_of(name) == "train"],
            "test": list(TEST),
        },
        figures=[
            *(Figure({"of": name}, "AUC", "", "higher", [area["value"]]) for name, area in areas.items()),
            *(Figure({"step": name}, "time", "s", "lower", [value]) for name, value in seconds.items()),
        ],
        details={"areas": areas, "degraded": degraded},
    )
    _print(console, areas, degraded, seconds)
    if output:
        write(output, result)
    if samples:
        keep(folder, samples, _right(folder / "evaluation" / "scores.jsonl"))
    vote = areas["vote"]
    if quick and vote["low"] <= 0.5:
        raise click.ClickException(
            f"the vote's AUC {vote['value']:.3f} is not above chance ({vote['low']:.3f} at least)"
        )
    if not quick and vote["value"] < GOAL:
        raise click.ClickException(f"the vote's AUC is {vote['value']:.3f}; the goal is {GOAL}")
    if level := [name for name, values in degraded.items() if list(values.values())[-1] >= values["clean"]]:
        raise click.ClickException(f"the vote's AUC does not fall as {', '.join(level)} grows")


def _forensics(server: Endpoint, command: str, data: Path, output: Path, *options: str) -> None:
    run_module("forensics", command, str(data), "--url", server.url, "--output", str(output), *options)


def _areas(scores: Path) -> dict[str, dict[str, Any]]:
    """AUC with the interval over photographs: of the vote, of each stream, and of each photograph's own images."""
    rows = _scored(scores)
    labels = np.array([Path(row["path"]).parent.name == "fake" for row in rows], np.int64)
    groups = np.array([Path(row["path"]).name.rpartition("_")[0] for row in rows])
    columns = {"vote": np.array([row["score"] for row in rows])}
    columns |= {name: np.array([row["streams"][name]["probability"] for row in rows]) for name in rows[0]["streams"]}
    areas = {}
    for name, values in columns.items():
        low, high = auc_interval(labels, values, groups)
        areas[name] = {"value": float(roc_auc_score(labels, values)), "low": low, "high": high, "images": len(rows)}
    for group in np.unique(groups):
        part = groups == group
        value = float(roc_auc_score(labels[part], columns["vote"][part]))
        areas[f"vote, {group} alone"] = {"value": value, "images": int(part.sum())}
    return areas


def _scored(scores: Path) -> list[dict[str, Any]]:
    """The rows of images that were scored; the first of the file says by which server."""
    rows = [json.loads(line) for line in scores.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row.get("status") == "ok"]


def _right(scores: Path) -> dict[str, bool]:
    """Whether the vote judges each image rightly, by kind/name."""
    rows = _scored(scores)
    kinds = {row["path"]: Path(row["path"]).parent.name for row in rows}
    return {f"{kinds[row['path']]}/{Path(row['path']).name}": row.get("verdict") == kinds[row["path"]] for row in rows}


def _degraded(path: Path) -> dict[str, dict[str, float]]:
    """AUC of the vote by sweep and level; the clean images first."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return {
        sweep["name"]: {
            "clean" if each["level"] is None else f"{each['level']:g}": each["auc"]["vote"]["value"]
            for each in (sweep["clean"], *sweep["levels"])
        }
        for sweep in document["sweeps"]
    }


def _print(
    console: Console, areas: dict[str, dict[str, Any]], degraded: dict[str, dict[str, float]], seconds: dict[str, float]
) -> None:
    table = Table("of", "AUC", "95 %, over photographs", "images")
    for name, area in areas.items():
        interval = f"{area['low']:.3f} – {area['high']:.3f}" if "low" in area else ""
        table.add_row(name, f"{area['value']:.3f}", interval, str(area["images"]))
    console.print(table)
    for sweep, levels in degraded.items():
        console.print(
            f"{sweep}: " + ", ".join(f"{level} {value:.2f}" for level, value in levels.items()), highlight=False
        )
    console.print(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()), highlight=False)


if __name__ == "__main__":
    main()
