"""One update of the method: some micro-batches forward and backward, then one step of the optimiser."""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.data.images import Batch
from training.loss import focal_loss
from training.networks import learning
from training.recipe import Optimiser


@dataclass(frozen=True)
class Micro:
    """A micro-batch and where in the run it lies.

    Attributes:
        batch: Its images.
        seed: Of the dropout of this micro-batch: no other state of a generator is needed to go on.
    """

    batch: Batch
    seed: int


def adam(network: nn.Module, recipe: Optimiser) -> torch.optim.Adam:
    """Adam on all that learns, in one group, with L2 added to the gradient (not AdamW)."""
    return torch.optim.Adam(
        [parameter for _, parameter in learning(network)], lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )


def accumulate_window(
    accelerator: Accelerator, network: nn.Module, window: Sequence[Micro], accumulation: int, gamma: float
) -> Tensor:
    """Adds up the gradients of a window's micro-batches, each divided by `accumulation`.

    The last window of an epoch may be shorter, and is divided by the same. Several processes average theirs.

    Args:
        accelerator: Of the run.
        network: As the accelerator prepared it, in training mode, its gradients zero.
        window: At most `accumulation` micro-batches.
        accumulation: What each loss is divided by.
        gamma: Of the focal loss.

    Returns:
        The mean loss of each micro-batch in this process, before the division, float32 [len(window)], detached.
    """
    losses = []
    for number, micro in enumerate(window, start=1):
        last = number == len(window)
        torch.manual_seed(micro.seed)
        with contextlib.nullcontext() if last else accelerator.no_sync(network):
            pixels, labels, share = micro.batch.pixels, micro.batch.labels, 1.0
            if not len(labels):  # none could be read: a gradient of zeros, as other processes wait for one
                pixels, labels, share = pixels.new_zeros(1, *pixels.shape[1:]), labels.new_zeros(1), 0.0
            logits = network(pixels.to(accelerator.device, non_blocking=True)).float()
            loss = share * focal_loss(logits, labels.to(accelerator.device, non_blocking=True), gamma).mean()
            accelerator.backward(loss / accumulation)
        losses.append(loss.detach())
    return torch.stack(losses)


def dropout_seed(seed: int, process: int, epoch: int, micro_batch: int) -> int:
    """Of the dropout of one micro-batch: another for every one, and in every process."""
    digest = hashlib.sha256(f"{seed} {process} {epoch} {micro_batch}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def step(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """One step at a learning rate, and the gradients zero again."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad()


def gradient_norm(network: nn.Module) -> Tensor:
    """The norm of the gradient over all that learns."""
    gradients = [parameter.grad for _, parameter in learning(network) if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)
