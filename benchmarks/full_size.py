"""`python -m benchmarks.full_size`: the published size end to end through the real server, against PyTorch eager.

Everything has the machine to itself in turn, since two copies of the networks do not fit into its memory; rounds go
over all of it again, so that what slows the machine down for a while hits no way alone.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import numpy as np
from deepfake_client import STREAM_NAMES, DetectorClient, Verdict
from rich.console import Console
from rich.table import Table

from benchmarks.baselines.authors import Authors
from benchmarks.baselines.backbones import Backbones
from benchmarks.baselines.baseline import Baseline
from benchmarks.baselines.runtime import served_runtime
from benchmarks.common.machine import circumstances
from benchmarks.common.noise import ratio_of_medians
from benchmarks.common.result import Figure, Ratio, Result, write
from benchmarks.common.serving import export, serve, weights_of
from benchmarks.comparison.goals import AUTHORS, BACKBONES
from benchmarks.load.workloads import MAIN, Item, items

BATCH_SIZE = 8
CONFIGURATIONS = {"default": None, "openvino": "openvino"}
GOALS = {AUTHORS: 2.3, BACKBONES: 0.97}
"""The least throughput of the fastest configuration over each of these."""


@dataclass(frozen=True)
class Served:
    """What came of one configuration in one round.

    Attributes:
        name: Of the configuration.
        runtime: What ran the networks.
        ready: Seconds from the start to the first answer.
        images_per_second: Of the ensemble.
        backbones: Of the bare networks in the same runtime.
        memory: That the server and its steps held after the images, GiB.
        verdicts: For the images, in order.
    """

    name: str
    runtime: str
    ready: float
    images_per_second: float
    backbones: float
    memory: float
    verdicts: list[Verdict]


@dataclass(frozen=True)
class Round:
    """Everything once.

    Attributes:
        served: By configuration.
        eager: Images/s of PyTorch eager.
        expected: Its probabilities for the images, in order.
    """

    served: dict[str, Served]
    eager: float
    expected: list[float]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--preset", type=click.Choice(["tiny", "small", "giant"]), default="giant", help="Size of the networks.")
@click.option(
    "--configuration",
    "configurations",
    type=click.Choice(list(CONFIGURATIONS)),
    multiple=True,
    default=list(CONFIGURATIONS),
    help="Of the server; may be repeated.",
)
@click.option("--images", "count", default=16, type=click.IntRange(min=1), help="Scored in each way.")
@click.option("--rounds", default=2, type=click.IntRange(min=1), help="How often all is measured.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the result as JSON to this file."
)
def main(preset: str, configurations: tuple[str, ...], count: int, rounds: int, output: Path | None) -> None:
    """Score some images at full size: by the real server in each of its CPU configurations, and by PyTorch eager.

    giant has the published size (seeded weights, which detect nothing; 15 GB of checkpoints and as much of models under
    build/benchmarks, 24 GB of memory). On two cores a round takes about half an hour, the export excepted.
    """
    begun = circumstances("benchmarks.full_size")
    console = Console()
    repository = export(preset)
    images = [items(MAIN)[number % len(items(MAIN))] for number in range(count)]
    found = [_measure(repository, configurations, images, console, number) for number in range(1, rounds + 1)]
    eager = [each.eager for each in found]
    by_name = {name: [each.served[name] for each in found] for name in configurations}
    best = max(configurations, key=lambda name: median(each.images_per_second for each in by_name[name]))
    first, expected = by_name[configurations[0]][0], found[0].expected
    result = Result(
        benchmark="full_size",
        measures="images/s of the whole ensemble over gRPC at full size, against PyTorch eager and the bare networks",
        circumstances=begun,
        settings={"preset": preset, "images": count, "batch_size": BATCH_SIZE, "rounds": rounds},
        figures=[
            Figure({"way": AUTHORS}, "throughput", "images/s", "higher", eager),
            *(figure for each in by_name.values() for figure in _figures(each, first, expected)),
        ],
        ratios=[
            _ratio(f"ensemble ({best}) / {AUTHORS}", preset, by_name[best], eager, GOALS[AUTHORS]),
            *(
                _ratio(
                    f"ensemble ({name}) / {BACKBONES}",
                    preset,
                    each,
                    [served.backbones for served in each],
                    GOALS[BACKBONES],
                )
                for name, each in by_name.items()
            ),
        ],
        details={"runtimes": {name: each[0].runtime for name, each in by_name.items()}},
    )
    _print(result, console)
    if output:
        write(output, result)


def _measure(
    repository: Path, configurations: Sequence[str], images: list[Item], console: Console, number: int
) -> Round:
    console.print(f"round {number}", highlight=False)
    served = {name: _serve(repository, name, images, console) for name in configurations}
    console.print("PyTorch eager", highlight=False)
    with Baseline(AUTHORS, Authors, weights_of(repository)) as baseline:
        baseline.score(images[:1])
        expected, seconds = baseline.timed(images)
    return Round(served, len(images) / seconds, expected)


def _serve(repository: Path, name: str, images: list[Item], console: Console) -> Served:
    console.print(f"configuration {name}", highlight=False)
    start = time.monotonic()
    with serve(repository, CONFIGURATIONS[name]) as server:
        ready = time.monotonic() - start
        runtime = served_runtime(server.url)
        with DetectorClient(server.url, batch_size=BATCH_SIZE, max_in_flight=2, timeout=3600) as client:
            # A first one, as with the baselines; it also outlasts start-up's own requests.
            client.score(images[0].data, images[0].box)
            start = time.monotonic()
            verdicts = list(client.score_many((each.data, each.box) for each in images))
            seconds = time.monotonic() - start
        # Once, and not under the clock: counting shared pages of 20 GiB holds up the process that has them. Runtimes
        # keep what an inference needed, so this is also the most.
        memory = server.resident() / 2**30
    if failed := [verdict for verdict in verdicts if not verdict.ok]:
        raise click.ClickException(f"{len(failed)} images were not scored: {failed[0].status}, {failed[0].error}")
    with Baseline(BACKBONES, Backbones, repository, runtime) as baseline:
        baseline.score(images[:1])
        bare = baseline.seconds(images)
    return Served(name, str(runtime), ready, len(images) / seconds, len(images) / bare, memory, verdicts)


def _figures(rounds: list[Served], first: Served, expected: list[float]) -> Iterator[Figure]:
    served = rounds[0]  # What it answers is the same in all of them.
    labels: dict[str, str | int | float] = {"way": "ensemble", "configuration": served.name}
    pairs = list(zip(served.verdicts, first.verdicts, strict=True))
    changed = {
        "votes changed": [a.streams[n].vote != b.streams[n].vote for a, b in pairs for n in STREAM_NAMES],
        "scores changed": [a.score != b.score for a, b in pairs],
    }
    theirs = np.array(expected, np.float32)
    ours = np.array([verdict.probability for verdict in served.verdicts], np.float32)
    yield Figure(labels, "throughput", "images/s", "higher", [each.images_per_second for each in rounds])
    yield Figure({**labels, "way": BACKBONES}, "throughput", "images/s", "higher", [each.backbones for each in rounds])
    yield Figure(labels, "start", "s", "lower", [each.ready for each in rounds])
    yield Figure(labels, "memory", "GiB", "lower", [each.memory for each in rounds])
    yield Figure(labels, "largest difference of a probability", "", "lower", [float(np.abs(ours - theirs).max())])
    for name, changes in changed.items():
        yield Figure(labels, f"{name} from those of {first.name}", "share", "lower", [float(np.mean(changes))])


def _ratio(name: str, preset: str, over: list[Served], under: list[float], goal: float) -> Ratio:
    found = ratio_of_medians([each.images_per_second for each in over], under, paired=True)
    return Ratio(name, preset, found.value, found.low, found.high, goal, found.value >= goal)


def _print(result: Result, console: Console) -> None:
    preset, count = result.settings["preset"], result.settings["images"]
    table = Table("way", "figure", "value", title=f"preset {preset}, {count} images, {result.circumstances.machine}")
    for each in result.figures:
        table.add_row(" · ".join(map(str, each.labels.values())), each.metric, f"{each.median:.4g} {each.unit}")
    console.print(table)
    for ratio in result.ratios:
        interval = f", {ratio.low:.2f} to {ratio.high:.2f}" if ratio.low < ratio.high else ""
        console.print(
            f"{ratio.name}: {ratio.value:.2f}{interval} (goal {ratio.goal}, {ratio.verdict})", highlight=False
        )
    for line in result.circumstances.warnings:
        console.print(f"[yellow]{line}", highlight=False)


if __name__ == "__main__":
    main()
