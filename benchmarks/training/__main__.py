"""`python -m benchmarks.training`: what a training step costs, beside its estimate, and how fast images are read."""

import time
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from rich.console import Console

from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.common.serving import PHOTOGRAPHS
from benchmarks.training.step import measure_step
from networks.weights.random_weights import PRESETS
from training.data.images import TrainingImages
from training.data.manifest import Item
from training.recipe import read_recipe

H100_IMAGES = 100
"""Images a second that one H100 is expected to train on; the loader must keep up."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Measure training."""


@main.command("step")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="giant", help="Size of the networks.")
@click.option("--batch", default=1, type=click.IntRange(min=1), help="Images of the one micro-batch of an update.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32")
@click.option("--no-checkpointing", is_flag=True, help="Keep all activations instead of computing them again.")
@click.option("--updates", default=1, type=click.IntRange(min=1), help="Measured after one that is not, on a GPU.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def step_command(
    preset: str, batch: int, precision: str, no_checkpointing: bool, updates: int, output: Path | None
) -> None:
    """Make optimiser steps of the global stream on seeded numbers, on the GPU where there is one.

    Exit status 1 where the peak of memory is over the estimate.
    """
    console = Console()
    begun = circumstances("benchmarks.training")
    measured = measure_step(preset, batch, precision, not no_checkpointing, updates)
    console.print(measured.budget.describe(), soft_wrap=True, highlight=False)
    console.print(
        f"{batch / float(np.median(measured.seconds)):.2f} images/s; peak memory {measured.peak / 1e9:.2f} GB, "
        f"{measured.peak / measured.budget.total:.0%} of the estimate",
        highlight=False,
    )
    result = Result(
        benchmark="training step",
        measures="optimiser steps on seeded numbers: images a second, and memory beside its estimate",
        circumstances=begun,
        settings={"preset": preset, "batch": batch, "precision": precision, "checkpointing": not no_checkpointing},
        figures=measured.figures,
    )
    if output:
        write(output, result)
    peak, estimated = measured.peak, measured.budget.total
    if peak > estimated:
        raise click.ClickException(f"the peak is {peak / 1e9:.2f} GB, the estimate {estimated / 1e9:.2f} GB")


@main.command("loader")
@click.option("--images", default=200, type=click.IntRange(min=1))
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def loader_command(images: int, output: Path | None) -> None:
    """Read and augment images at the published settings, on one core, by processor time."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    recipe = read_recipe("global_texture")
    items = [Item(path, path.name, 0) for path in PHOTOGRAPHS]
    loader = TrainingImages(items, recipe.specification, recipe.augmentation, 0)
    begun = circumstances("benchmarks.training")
    start = time.process_time()
    for number in range(images):
        if loader[number // len(items), number % len(items)].pixels is None:
            raise click.ClickException(f"{items[number % len(items)].name} cannot be read")
    rate = images / (time.process_time() - start)
    workers = -(-H100_IMAGES // rate)
    Console().print(
        f"{rate:.1f} images/s of one core: {workers:.0f} workers feed {H100_IMAGES} images/s, one H100", highlight=False
    )
    result = Result(
        benchmark="training loader",
        measures="images a second of processor time: 256×256 PNG, read, augmented and degraded as published",
        circumstances=begun,
        settings={"images": images},
        figures=[
            Figure({"work": "loader"}, "throughput", "images/s", "higher", [rate]),
            Figure({"work": "loader"}, "workers for one H100", "", "lower", [float(workers)]),
        ],
    )
    if output:
        write(output, result)


if __name__ == "__main__":
    main()
