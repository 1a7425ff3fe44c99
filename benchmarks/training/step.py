"""What an optimiser step of the global stream costs, on seeded numbers."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from transformers import Dinov2Model

from benchmarks.common.result import Figure
from networks.weights.random_weights import PRESETS
from training.bases import adapter_of, dino_config
from training.data.images import Batch
from training.networks import Network, checkpoint_activations, choose_what_learns
from training.recipe import Recipe, read_recipe
from training.run.budget import Budget, estimate, peak_bytes
from training.run.window import Micro, accumulate_window, adam, step

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second, by a part of the card's name (NVIDIA's data sheets)."""


@dataclass(frozen=True)
class MeasuredStep:
    """What optimiser steps took.

    Attributes:
        seconds: Each of them.
        peak: The most memory, bytes.
        budget: What was estimated.
        figures: The same, to be kept.
    """

    seconds: list[float]
    peak: int
    budget: Budget
    figures: list[Figure]


def measure_step(preset: str, batch: int, precision: str, checkpointing: bool, updates: int) -> MeasuredStep:
    """Make optimiser steps, on the GPU where there is one, after one that is not counted there.

    Args:
        preset: Size of the networks.
        batch: Images of the one micro-batch of an update.
        precision: `float32` or `bfloat16`.
        checkpointing: Whether activations are computed again in the backward pass.
        updates: How many are measured.
    """
    recipe = _recipe(preset, batch, precision, checkpointing)
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bfloat16" else "no")
    gpu = accelerator.device.type == "cuda"
    network = _seeded_network(recipe, preset, accelerator.device)
    budget = estimate(recipe, network)
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
    labels: dict[str, str | int | float] = {"preset": preset, "batch": batch}
    figures = [
        Figure(labels, "throughput", "images/s", "higher", [batch / each for each in seconds]),
        Figure(labels, "peak memory", "bytes", "lower", [float(peak)]),
        Figure(labels, "estimated memory", "bytes", "neither", [float(budget.total)]),
    ]
    if gpu and (peak_rate := next((rate for key, rate in PEAKS.items() if key in torch.cuda.get_device_name()), None)):
        operations = 4 * _forward_operations(recipe, network)  # forward twice with checkpointing, backward to inputs
        operations = operations if checkpointing else operations * 3 // 4
        share = batch / float(np.median(seconds)) * operations / peak_rate
        figures.append(Figure(labels, "share of peak", "", "higher", [share]))
    return MeasuredStep(seconds, peak, budget, figures)


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


def _seeded_network(recipe: Recipe, preset: str, device: torch.device) -> Network:
    """Weights are filled in place, where they are used: a giant's are 4.5 GB, and there shall be one copy."""
    with torch.device("meta"):
        dino = Dinov2Model(dino_config(PRESETS[preset][0]))
    dino.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
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
