"""`python -m benchmarks.degradation.against DIR`: the degradation engine and each operation, in turn with another's.

DIR is a checkout of another commit. Each engine runs in a process of its own, on the same images with the same seeds;
times are of the processor.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track

from benchmarks.common.machine import ROOT, circumstances
from benchmarks.common.noise import ratio_of_medians
from benchmarks.common.result import Figure, Ratio, Result, write
from benchmarks.common.serving import PHOTOGRAPHS

ENGINE = "engine"
HERE, THERE = "here", "there"
_MODULES = ("degradation", "forensics/degradation")
"""Where the engine lies in a checkout; the second was its place before."""

_WORKER = """
import importlib, json, sys, time
import cv2, numpy as np
engine = importlib.import_module(sys.argv[1])
cv2.setNumThreads(1)
images = [engine.from_bytes(np.asarray(cv2.imread(path), np.uint8)[..., ::-1]) for path in sys.argv[2:]]
print(json.dumps(list(engine.OPERATIONS)), flush=True)
for line in sys.stdin:
    name, seeds = json.loads(line)
    start = time.process_time()
    for seed in range(*seeds):
        image = images[seed % len(images)]
        if name in engine.OPERATIONS:
            engine.degrade_once(name, image, (0.2, 0.6, 1.0)[seed % 3], engine.generator(seed))
        else:
            engine.degrade(image, engine.generator(seed), engine.Settings())
    print(json.dumps(time.process_time() - start), flush=True)
"""


class _Engine:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.operations: list[str] = json.loads(self._read())

    def rate(self, name: str, first: int, count: int) -> float:
        """Images a second of processor time."""
        assert self._process.stdin is not None
        print(json.dumps([name, [first, first + count]]), file=self._process.stdin, flush=True)
        return count / float(json.loads(self._read()))

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException("the engine's process ended; its error stands above")
        return line


@contextmanager
def _started(checkout: Path) -> Iterator[_Engine]:
    folder = next((folder for folder in _MODULES if (checkout / folder / "engine.py").is_file()), None)
    if folder is None:
        raise click.BadParameter(f"{checkout} has no degradation engine in {' or '.join(_MODULES)}")
    command = [sys.executable, "-c", _WORKER, folder.replace("/", "."), *map(str, PHOTOGRAPHS)]
    with subprocess.Popen(command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield _Engine(process)
        assert process.stdin is not None
        process.stdin.close()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("checkout", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--images", default=24, type=click.IntRange(min=1), help="256×256 images in each round.")
@click.option("--rounds", default=7, type=click.IntRange(min=1), help="Rounds; in each, both do the same work.")
@click.option("--seed", default=1024, help="Of the parameters drawn.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(checkout: Path, images: int, rounds: int, seed: int, output: Path | None) -> None:
    """Measure the degradation engine of this checkout in turn with that of CHECKOUT, on one core each."""
    begun = circumstances("benchmarks.degradation.against")
    rates: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        engines = {
            HERE: stack.enter_context(_started(ROOT)),
            THERE: stack.enter_context(_started(checkout.resolve())),
        }
        names = [ENGINE, *(each for each in engines[HERE].operations if each in engines[THERE].operations)]
        for number in track(range(-1, rounds), "rounds", console=Console(stderr=True)):
            for name in names:
                for way in (HERE, THERE) if number % 2 else (THERE, HERE):
                    rate = engines[way].rate(name, seed, images)  # the same work in every round
                    if number >= 0:  # the first is the warm-up
                        rates.setdefault(name, {HERE: [], THERE: []})[way].append(rate)
    ratios = []
    for name, ways in rates.items():
        interval = ratio_of_medians(ways[HERE], ways[THERE], paired=True)
        goal = 1.0 if name == ENGINE else None
        ratios.append(
            Ratio(
                name,
                "",
                interval.value,
                interval.low,
                interval.high,
                goal,
                None if goal is None else interval.value >= goal,
            )
        )
        click.echo(f"{name:24} {interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
    result = Result(
        benchmark="degradation against another commit",
        measures="images per second of processor time, in turn with the engine of another commit",
        circumstances=begun,
        settings={"against": checkout.name, "images": images, "rounds": rounds, "seed": seed},
        figures=[
            Figure({"work": name, "engine": way}, "throughput", "images/s", "higher", values)
            for name, ways in rates.items()
            for way, values in ways.items()
        ],
        ratios=ratios,
    )
    if output:
        write(output, result)


if __name__ == "__main__":
    main()
