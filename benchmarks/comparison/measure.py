"""`make bench`, preset by preset: the comparison, then the sweep."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.baselines.runtime import served_runtime
from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Ratio, Result
from benchmarks.common.serving import export, serve
from benchmarks.comparison.goals import CLIENT, ENSEMBLE, ratios
from benchmarks.comparison.rounds import all_ways, fits_together, measure_in_turn
from benchmarks.load.perf_analyzer import Load, PerfAnalyzer
from benchmarks.load.sweep import Plan, measure_capacity, points, step_details, sweep
from benchmarks.load.workloads import MAIN, OTHERS, Workload, items

COMPARISON = "comparison"

PLAN = Plan(
    rounds=4,
    seconds=1.5,
    comparison_seconds=12.0,
    concurrencies=(1, 2, 4, 8, 16, 32),
    shares=(0.25, 0.5, 0.75, 0.9),
    workloads=OTHERS,
)
QUICK = Plan(
    rounds=2,
    seconds=1.0,
    comparison_seconds=1.0,
    concurrencies=(1, 4),
    shares=(0.5,),
    workloads=(Workload("jpeg", "found"),),
)

BATCHED = {"tiny": Load(8, concurrency=4), "small": Load(8, concurrency=2), "giant": Load(4, concurrency=2)}
"""The load of the comparison, by preset: what keeps two cores busy without waiting minutes for an answer."""


def measure(presets: Sequence[str], plan: Plan, model_config_name: str | None, console: Console) -> Result:
    """Measure presets one after the other.

    Args:
        presets: Sizes of the networks.
        plan: What, and for how long.
        model_config_name: Of the server; None for each model's `config.pbtxt`.
        console: Where progress goes.

    Raises:
        click.ClickException: The server or perf_analyzer failed, or what is compared does not do the same work.
    """
    begun = circumstances("benchmarks")
    figures: list[Figure] = []
    found: list[Ratio] = []
    details: dict[str, Any] = {}
    for preset in presets:
        preset_figures, preset_ratios, details[preset] = _measure_preset(preset, plan, model_config_name, console)
        figures += preset_figures
        found += preset_ratios
    return Result(
        benchmark="serving",
        measures="throughput and latency of the ensemble, against other ways to do the same work on the same cores",
        circumstances=begun,
        settings={
            "presets": list(presets),
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "comparison_seconds": plan.comparison_seconds,
            "model_config_name": model_config_name,
        },
        figures=figures,
        ratios=found,
        details=details,
    )


def _measure_preset(
    preset: str, plan: Plan, model_config_name: str | None, console: Console
) -> tuple[list[Figure], list[Ratio], dict[str, Any]]:
    repository = export(preset)
    batched = BATCHED[preset]
    with serve(repository, model_config_name) as endpoint:
        runtime = served_runtime(endpoint.url)
        with PerfAnalyzer(endpoint.url, items(MAIN)) as perf_analyzer:
            capacity = measure_capacity(perf_analyzer, plan.seconds)
        loads = points(preset, plan, batched, capacity)
        with _progress(console, f"{preset}: loads", len(loads) * plan.rounds) as progress:
            sweep(endpoint.url, loads, plan, progress)
    participants = all_ways(repository, runtime, model_config_name, batched, plan.comparison_seconds)
    together = fits_together(repository, len(participants))
    with _progress(console, f"{preset}: ways", len(participants) * plan.rounds) as progress:
        throughputs, disagreements = measure_in_turn(participants, plan.rounds, together=together, advance=progress)
    ways = [
        Figure(_way_labels(preset, way, batched), "throughput", "images/s", "higher", rounds)
        for way, rounds in throughputs.items()
    ]
    details = {
        "runtime": str(runtime),
        "capacity": capacity,
        "ways_open_together": together,
        "largest_difference_of_a_probability": disagreements,
        "loads": step_details(loads),
    }
    return [*ways, *(each for point in loads for each in point.figures())], ratios(preset, throughputs), details


def _way_labels(preset: str, way: str, load: Load) -> dict[str, str | int | float]:
    served = {"batch": load.batch_size, "concurrency": load.concurrency or 0} if way in (ENSEMBLE, CLIENT) else {}
    return {"preset": preset, "load": COMPARISON, "images": str(MAIN), "way": way, **served}


@contextmanager
def _progress(console: Console, title: str, total: int) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
