"""`python -m benchmarks.gpu_check`: all that a machine with an NVIDIA GPU can tell in a quarter of an hour, offline.

It stands on torch, NumPy and safetensors alone, its command line too: such a machine may have nothing else. What
another package would allow is told as `not here`.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.gpu_check.found import nvidia_smi
from benchmarks.gpu_check.runner import Context, Outcome, run_step
from benchmarks.gpu_check.steps import STEPS
from benchmarks.gpu_check.torch_steps import ALL

RECORD = Path("benchmarks/results/gpu_check.json")

DRY_RECORD = Path("build/gpu_check.json")
"""Of a dry run, which is not to take the place of what a GPU told."""

GOALS = {"H200": 190.0, "H100": 160.0}
"""Images/s of the three networks together in 16 bits, by a part of the GPU's name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps; give the exit status."""
    options = _parse(arguments)
    device = "cpu" if options.dry else "cuda"
    gpu = nvidia_smi()
    if not options.dry and gpu is None:
        print("no NVIDIA GPU (nvidia-smi does not answer): try it dry by make gpu-check DRY=1", file=sys.stderr)
        return 2
    preset = options.preset or ("tiny" if options.dry else "giant")
    begun = circumstances("benchmarks.gpu_check")
    end = time.monotonic() + 60 * options.minutes
    outcomes: dict[str, Outcome] = {}

    def save() -> None:
        figures = [figure for outcome in outcomes.values() for figure in outcome.figures]
        steps = {name: {"status": each.status, "seconds": each.seconds} for name, each in outcomes.items()}
        _replace(
            options.output,
            Result(
                benchmark="gpu_check",
                measures="parity, images/s, memory and where time goes on one GPU, by all runtimes that are there",
                circumstances=begun,
                settings={"preset": preset, "device": device, "minutes": options.minutes, "gpu": gpu},
                figures=figures,
                details={"steps": steps, "goal": _goal(gpu, figures), **_known(outcomes)},
            ),
        )

    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=options.scratch) as folder:
        for step in STEPS:
            if options.only and step.name not in options.only:
                continue
            left = end - time.monotonic()
            outcome = outcomes[step.name] = Outcome(status="not begun: the time was over")
            if left > 0:
                limit = left if options.dry else min(step.seconds, left)  # a step's limit is for a GPU
                context = Context(device, preset, Path(folder), time.monotonic() + limit, _known(outcomes))

                def found(so_far: Outcome, name: str = step.name) -> None:
                    outcomes[name] = so_far
                    save()

                outcome = outcomes[step.name] = run_step(step, context, found)
            save()
            print(f"{step.name}: {outcome.status} ({outcome.seconds:.0f} s) · {step.tells}", flush=True)
            for line in _told(outcome):
                print(f"  {line}", flush=True)
    print(f"record: {options.output}")
    return int(any(outcome.status.startswith("failed") for outcome in outcomes.values()))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=main.__doc__)
    parser.add_argument("--dry", action="store_true", help="a dry run on the CPU, of preset tiny")
    parser.add_argument("--preset", choices=["tiny", "small", "giant"], help="size of the networks; giant by default")
    parser.add_argument("--minutes", type=float, default=13.0, help="for all steps together (%(default)s)")
    parser.add_argument("--only", action="append", choices=[step.name for step in STEPS], help="may be repeated")
    parser.add_argument("--scratch", type=Path, help="folder for exported models: 15 GB at the giant size")
    parser.add_argument("--output", type=Path, help=f"{RECORD} by default, {DRY_RECORD} of a dry run")
    options = parser.parse_args(arguments)
    options.output = options.output or (DRY_RECORD if options.dry else RECORD)
    return options


def _known(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    return {name: value for outcome in outcomes.values() for name, value in outcome.details.items()}


def _goal(gpu: dict[str, str] | None, figures: Sequence[Figure]) -> dict[str, Any] | None:
    """The most images/s of the three together, beside what this card was to reach."""
    rates = [each for each in figures if each.metric == "throughput" and each.labels.get("what") == ALL]
    if not rates:
        return None
    best = max(rates, key=lambda each: each.median)
    goal = next((value for part, value in GOALS.items() if gpu and part in gpu.get("name", "")), None)
    met = None if goal is None else best.median >= goal
    return {"images_per_second": best.median, "by": best.labels, "goal": goal, "met": met}


def _told(outcome: Outcome) -> list[str]:
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)[:400]}" for name, value in outcome.details.items()]
    return lines + [f"{figure.name}: {figure.median:.4g} {figure.unit}" for figure in outcome.figures]


def _replace(path: Path, result: Result) -> None:
    """Write a whole file in the place of the one there: whenever this ends, a valid one is there."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial, result)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
