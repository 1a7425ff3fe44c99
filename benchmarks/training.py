"""`python -m benchmarks.training`: what a training step costs, beside its estimate, and how fast images are read."""

import time
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from transformers import Dinov2Model

from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.common.serving import PHOTOGRAPHS
from networks.random_weights import PRESETS
from training.bases import adapter_of, dino_config
from training.data.images import Batch, TrainingImages
from training.data.manifest import Item
from training.networks import Network, checkpoint_activations, choose_what_learns
from training.recipe import Recipe, read_recipe
from training.run.budget import estimate, peak_bytes
from training.run.window import Micro, accumulate_window, adam, step

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second, by a part of the card's name (NVIDIA's data sheets)."""

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
    recipe = _recipe(preset, batch, precision, not no_checkpointing)
    console = Console()
    begun = circumstances("benchmarks.training")
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bfloat16" else "no")
    gpu = accelerator.device.type == "cuda"
    network = _seeded_network(recipe, preset)
    budget = estimate(recipe, network)
    console.print(budget.describe(), soft_wrap=True, highlight=False)
    optimiser = adam(network, recipe.optimiser)
    wrapped, optimiser = accelerator.prepare(network, optimiser)
    side = recipe.specification.pixels
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randn(batch, 3, side, side, generator=rng)
    micro = Micro(Batch(pixels, torch.arange(batch) % 2, list(range(batch)), []), seed=0)

    def update() -> None:
        accumulate_window(accelerator, wrapped, [micro], 1, recipe.loss.gamma)
        step(optimiser, 1e-6)
        if gpu:
            torch.cuda.synchronize()

    if gpu:
        update()
    seconds = [_timed(update) for _ in range(updates)]
    peak = peak_bytes(accelerator.device)
    rate = batch / float(np.median(seconds))
    console.print(
        f"{rate:.2f} images/s; peak memory {peak / 1e9:.2f} GB, {peak / budget.total:.0%} of the estimate",
        highlight=False,
    )
    figures = [
        Figure(
            {"preset": preset, "batch": batch}, "throughput", "images/s", "higher", [batch / each for each in seconds]
        ),
        Figure({"preset": preset, "batch": batch}, "peak memory", "bytes", "lower", [float(peak)]),
        Figure({"preset": preset, "batch": batch}, "estimated memory", "bytes", "neither", [float(budget.total)]),
    ]
    if gpu:
        name = torch.cuda.get_device_name()
        operations = 4 * _forward_operations(recipe, network)  # forward twice with checkpointing, backward to inputs
        operations = operations if recipe.run.activation_checkpointing else operations * 3 // 4
        share = next((rate * operations / peak_rate for key, peak_rate in PEAKS.items() if key in name), None)
        if share is not None:
            console.print(f"{share:.1%} of the peak of {name}", highlight=False)
            figures.append(Figure({"preset": preset, "batch": batch}, "share of peak", "", "higher", [share]))
    result = Result(
        benchmark="training step",
        measures="optimiser steps on seeded numbers: images a second, and memory beside its estimate",
        circumstances=begun,
        settings={"preset": preset, "batch": batch, "precision": precision, "checkpointing": not no_checkpointing},
        figures=figures,
    )
    if output:
        write(output, result)
    if peak > budget.total:
        raise click.ClickException(f"the peak is {peak / 1e9:.2f} GB, the estimate {budget.total / 1e9:.2f} GB")


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


def _recipe(preset: str, batch: int, precision: str, checkpointing: bool) -> Recipe:
    sizes = PRESETS[preset][0]
    overrides = [
        f"network.hidden={sizes.hidden}",
        f"network.blocks={sizes.blocks}",
        f"network.rank={sizes.rank}",
        f"network.alpha={2 * sizes.rank}",
        f"optimiser.batch={batch}",
        f"run.precision={precision}",
        f"run.activation_checkpointing={str(checkpointing).lower()}",
    ]
    return read_recipe("global_texture", overrides)


def _seeded_network(recipe: Recipe, preset: str) -> Network:
    """Weights are filled in place: a giant's are 4.5 GB, and there shall be one copy."""
    with torch.device("meta"):
        dino = Dinov2Model(dino_config(PRESETS[preset][0]))
    dino.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in dino.parameters():
            parameter.normal_(0, 0.02, generator=generator)
    network = Network(dino, adapter_of(recipe))
    choose_what_learns(network, recipe.stage)
    if recipe.run.activation_checkpointing:
        checkpoint_activations(network)
    return network.train()


def _forward_operations(recipe: Recipe, network: Network) -> int:
    """Multiplications and additions of one image's forward pass: the weights' and the attention's."""
    config = network.dino[0].config
    tokens = (recipe.specification.pixels // int(config.patch_size)) ** 2 + 1
    weights = sum(each.numel() for name, each in network.named_parameters() if each.ndim == 2)
    attention = 2 * tokens * tokens * int(config.hidden_size) * int(config.num_hidden_layers)
    return 2 * (tokens * weights + attention)


def _timed(work: Callable[[], None]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


if __name__ == "__main__":
    main()
