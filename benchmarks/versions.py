"""`python -m benchmarks.versions`: this version's server and another one's, in turn, under the same load."""

import subprocess
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.attacks.target import serving
from benchmarks.common.machine import ROOT, circumstances
from benchmarks.common.noise import ratio_of_medians
from benchmarks.common.result import Figure, Ratio, Result, write
from benchmarks.common.serving import export
from benchmarks.load.perf_analyzer import Load, PerfAnalyzer
from benchmarks.load.workloads import MAIN, items

PRESET = "tiny"
SINGLE, BATCHES = Load(1, concurrency=1), Load(8, concurrency=4)
REQUESTS = {SINGLE: 200, BATCHES: 60}
LEAST_THROUGHPUT, MOST_LATENCY = 0.95, 1.05


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("checkout", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("repository", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--rounds", default=6, type=click.IntRange(min=2), help="In each, both servers take every load.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(checkout: Path, repository: Path, rounds: int, output: Path | None) -> None:
    """Compare with the server of CHECKOUT, which has an environment of its own, on its REPOSITORY of preset tiny.

    Both servers run all the time; one of them has work. JPEG photographs, the face supplied: nothing but the server's
    own cost and the networks. Single images one after the other give the latency, batches of 8 the throughput.
    """
    begun = circumstances("benchmarks.versions")
    other = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()
    latency: dict[str, list[float]] = {}
    throughput: dict[str, list[float]] = {}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(PerfAnalyzer(stack.enter_context(serving(where, models)).url, items(MAIN)))
            for name, where, models in (("this", ROOT, export(PRESET)), ("other", checkout, repository))
        }
        for server in servers.values():
            server.run(BATCHES, REQUESTS[BATCHES])
        for number in range(rounds):
            for name in sorted(servers, reverse=number % 2 == 1):
                latency.setdefault(name, []).append(servers[name].run(SINGLE, REQUESTS[SINGLE]).latency.p50)
                throughput.setdefault(name, []).append(servers[name].run(BATCHES, REQUESTS[BATCHES]).throughput)
    figures = [
        *(Figure({"server": name}, "p50 of a single image", "s", "lower", values) for name, values in latency.items()),
        *(Figure({"server": name}, "throughput", "images/s", "higher", each) for name, each in throughput.items()),
    ]
    ratios = [
        _ratio("throughput, this over the other", throughput, LEAST_THROUGHPUT),
        _ratio("p50 of a single image, the other over this", latency, 1 / MOST_LATENCY, turned=True),
    ]
    result = Result(
        benchmark="versions",
        measures="throughput and latency of two versions, in turn",
        circumstances=begun,
        settings={"rounds": rounds, "preset": PRESET, "other": other},
        figures=figures,
        ratios=ratios,
    )
    table = Table("ratio", "value", "95 %", "goal", "")
    for ratio in ratios:
        table.add_row(
            ratio.name, f"{ratio.value:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}", f"{ratio.goal:.3f}", ratio.verdict
        )
    Console().print(table)
    if output:
        write(output, result)


def _ratio(name: str, values: dict[str, list[float]], goal: float, *, turned: bool = False) -> Ratio:
    above, below = (values["other"], values["this"]) if turned else (values["this"], values["other"])
    found = ratio_of_medians(above, below, paired=True)
    return Ratio(name, PRESET, found.value, found.low, found.high, goal, found.value >= goal)


if __name__ == "__main__":
    main()
