"""What a run will need, told before it begins: memory by a count of what the backward pass keeps, and steps."""

import copy
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor
from transformers import Dinov2Model

from training.bases import adapter_of
from training.errors import RunError
from training.networks import Network, choose_what_learns, learning
from training.recipe import Recipe

PROCESS_BYTES = 1_300_000_000
"""Python, torch, the libraries and their work space. Steps of the giant on a CPU took 0.9 and 1.1 GB of it."""


@dataclass(frozen=True)
class Budget:
    """Bytes that a run needs in one process.

    Attributes:
        weights: All weights, and in bfloat16 the copies that autocast makes.
        learning: Gradients and Adam's two moments of what learns.
        activations: Kept for the backward pass of one micro-batch, with the block that is computed again.
        process: Everything else.
    """

    weights: int
    learning: int
    activations: int
    process: int = PROCESS_BYTES

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.learning + self.activations + self.process

    def describe(self) -> str:
        """One line for people."""
        parts = {"weights": self.weights, "gradients and Adam": self.learning, "activations": self.activations}
        shown = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
        return f"memory: about {self.total / 1e9:.1f} GB ({shown})"


def estimate(recipe: Recipe, network: Network) -> Budget:
    """Counts what a run needs; the activations are counted on one block of the network, without computing anything."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    half = recipe.run.precision == "bfloat16"
    learnt = sum(parameter.numel() for _, parameter in learning(network))
    largest = max(parameter.numel() for parameter in network.parameters())
    return Budget(
        weights=weights + (2 * (learnt + largest) if half else 0),
        learning=3 * 4 * learnt,
        activations=recipe.optimiser.batch * _bytes_per_image(recipe, network),
    )


def require_disk(folder: Path, network: Network) -> None:
    """Refuses to begin where the checkpoint would not fit.

    Raises:
        RunError: The disk is too small, by how much.
    """
    whole = sum(parameter.numel() * 4 for parameter in network.parameters())
    learnt = sum(parameter.numel() * 4 for _, parameter in learning(network))
    needed, free = 2 * whole + 8 * learnt, shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"{folder}: the checkpoints of this run take {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; make "
            "room, or give an --output elsewhere"
        )


def shortage(budget: Budget, device: torch.device) -> str:
    """A warning where the memory is smaller than the estimate; empty otherwise."""
    if device.type == "cuda":
        free, where = torch.cuda.mem_get_info(device)[0], "on the GPU"
    else:
        free, where = psutil.virtual_memory().available, "in this machine"
    if budget.total <= free:
        return ""
    return (
        f"{free / 1e9:.1f} GB are free {where}: lower optimiser.batch (and raise optimiser.accumulation), or set "
        "run.activation_checkpointing=true"
    )


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has had."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _bytes_per_image(recipe: Recipe, network: Network) -> int:
    """What one image's backward pass keeps of all blocks."""
    (dino,) = network.dino
    blocks = int(dino.config.num_hidden_layers)
    if recipe.stage == "head":
        return 0
    one, two = (_saved_bytes(recipe, dino, count) for count in (1, 2))
    block = two - one
    if recipe.run.activation_checkpointing:
        pixels = recipe.specification.pixels
        tokens = (pixels // int(dino.config.patch_size)) ** 2 + 1
        return blocks * tokens * int(dino.config.hidden_size) * 4 + block
    return blocks * block


def _saved_bytes(recipe: Recipe, dino: Dinov2Model, blocks: int) -> int:
    """Bytes that autograd keeps of one image in a network of so many blocks, on torch's device without memory."""
    config = copy.deepcopy(dino.config)
    config.num_hidden_layers = blocks
    with torch.device("meta"):
        small = Network(Dinov2Model(config), adapter_of(recipe)).train()
    choose_what_learns(small, recipe.stage)
    weights = {_storage(parameter) for parameter in small.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(_storage(tensor), tensor)
        return tensor

    pixels = torch.empty(1, 3, recipe.specification.pixels, recipe.specification.pixels, device="meta")
    half = recipe.run.precision == "bfloat16"
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", enabled=half):
        small(pixels)
    return sum(each.untyped_storage().nbytes() for key, each in kept.items() if key not in weights)


def _storage(tensor: Tensor) -> int:
    """What tensors that share their memory have in common, also on a device without any."""
    return int(tensor.untyped_storage()._cdata)
