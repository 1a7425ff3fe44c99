"""Whether a model computes what it was made from computes: two sets of outputs for the same pixels, and tolerances."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ensemble.voting import fake_probability
from export.difference import Difference
from export.errors import ParityError
from export.samples import Pixels

Outputs = tuple[NDArray[Any], ...]
"""Of one batch, in the order of the model's outputs."""

LOGITS = "LOGITS"

PROBABILITY = "PROBABILITY"
"""Of fake, which follows from LOGITS: what is voted on, so that its tolerance is not widened by large logits."""

TOLERANCES: Mapping[str, Mapping[str, float]] = {
    "fp32": {
        "LOGITS": 1e-3,
        "FEATURES": 1e-3,
        "ATTENTION": 1e-4,
        PROBABILITY: 1e-3,
        "SCORES": 1e-4,
        "BOXES": 1e-3,
        "LANDMARKS": 1e-3,
        "RESTORED": 1,
        "CLASSES": 1e-3,
    },
    "fp16": {
        "LOGITS": 5e-2,
        "FEATURES": 3e-2,
        "ATTENTION": 2e-2,
        PROBABILITY: 2e-2,
        "SCORES": 2e-2,
        "BOXES": 1e-2,
        "LANDMARKS": 1e-2,
    },
    "bf16": {
        "LOGITS": 4e-1,
        "FEATURES": 2e-1,
        "ATTENTION": 1.6e-1,
        PROBABILITY: 8e-2,
        "SCORES": 1.6e-1,
        "BOXES": 8e-2,
        "LANDMARKS": 8e-2,
    },
}
"""Largest difference allowed by precision and output; of `SCORES_32` and the like, by what comes before `_`.

Of floating-point outputs: times the largest absolute value of the output where that is above 1. Computing in float32 in
another order changes logits by 1e-5 to 1e-4; an export gone wrong changes them by tenths. Rounding errors of float16
(2**-11 of each value) change logits of seeded networks by up to 0.015 (preset small) and 0.05 (tiny, whose attention is
extreme), probabilities by less than 0.01. bfloat16 rounds eight times as coarsely: it changes logits of preset tiny by
up to 0.28, probabilities by 0.056. ATTENTION sums to 1 over some 300 patches. BOXES and LANDMARKS are in widths of an
anchor: 1e-3 moves a box by half a pixel of 1024 at most. RESTORED: levels of 256, as a value between two of them may be
rounded to either. CLASSES: the share of pixels whose class is another.
"""


def torch_outputs(network: nn.Module, batches: Mapping[str, Pixels]) -> dict[str, Outputs]:
    """Run a network on each batch."""
    with torch.inference_mode():
        return {
            name: tuple(output.numpy() for output in network(torch.from_numpy(pixels.copy())))
            for name, pixels in batches.items()
        }


def compare(
    names: Sequence[str], expected: Mapping[str, Outputs], actual: Mapping[str, Outputs], precision: str = "fp32"
) -> list[Difference]:
    """Measure how far apart two sets of outputs are and, where they have logits, their probabilities.

    Args:
        names: Of the outputs, in order.
        expected: By batch, the outputs that are right.
        actual: By batch, those to judge.
        precision: Whose tolerances hold, a key of `TOLERANCES`.

    Raises:
        ParityError: An output has another shape or type.
    """
    tolerances = TOLERANCES[precision]
    differences: list[Difference] = []
    for pixels, references in expected.items():
        for name, reference, value in zip(names, references, actual[pixels], strict=True):
            if (reference.shape, reference.dtype) != (value.shape, value.dtype):
                raise ParityError(
                    f"{name} is {value.dtype} of shape {value.shape}, not {reference.dtype} of {reference.shape}",
                    differences,
                )
            largest, scale = _largest_difference(name, reference, value)
            tolerance = tolerances[name.partition("_")[0]] * scale
            differences.append(Difference(pixels, len(reference), name, largest, tolerance))
            if name == LOGITS:
                apart = float(np.abs(fake_probability(reference) - fake_probability(value)).max())
                differences.append(Difference(pixels, len(reference), PROBABILITY, apart, tolerances[PROBABILITY]))
    return differences


def _largest_difference(name: str, reference: NDArray[Any], value: NDArray[Any]) -> tuple[float, float]:
    """How far apart one output is, and what its tolerance is multiplied by."""
    if name == "CLASSES":
        return float((reference != value).mean()), 1.0
    difference = float(np.abs(reference.astype(np.float32) - value).max())
    return difference, max(1.0, float(np.abs(reference).max())) if reference.dtype == np.float32 else 1.0


def require_parity(name: str, differences: Sequence[Difference], precision: str = "fp32") -> None:
    """Refuse a model whose outputs differ by more than the tolerance.

    Args:
        name: Of the model.
        differences: As `compare` gave them.
        precision: Of the model.

    Raises:
        ParityError: With the outputs that do, by how much, and in 16 bits what to do.
    """
    beyond = [difference for difference in differences if not difference.within]
    if beyond:
        listed = "; ".join(
            f"{each.output} on {each.pixels} by {each.largest:.2g}, {each.tolerance:.2g} is allowed" for each in beyond
        )
        finer = {"bf16": "; export with --precision fp16, which rounds an eighth as coarsely, or fp32"}
        finer["fp16"] = "; export with --precision fp32"
        raise ParityError(
            f"{name}: the exported model does not agree with the network: {listed}{finer.get(precision, '')}",
            differences,
        )
