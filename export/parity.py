"""Whether an exported model computes what the network computes: ONNX Runtime against torch, on the same pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from ensemble.voting import fake_probability
from export.errors import ParityError
from export.graph import INPUT, OUTPUTS
from networks import StreamNetwork

Pixels = NDArray[np.uint8]
Outputs = tuple[NDArray[np.float32], ...]

PROBABILITY = "PROBABILITY"
"""Of fake, which follows from LOGITS: what is voted on, so that its tolerance is not widened by large logits."""

TOLERANCES: Mapping[str, float] = {"LOGITS": 1e-3, "FEATURES": 1e-3, "ATTENTION": 1e-4, PROBABILITY: 1e-3}
"""Largest difference allowed, times the largest absolute value of the output where that is above 1.

Computing in float32 in another order changes logits by 1e-5 to 1e-4; an export gone wrong changes them by tenths.
Attention sums to 1 over some 300 patches.
"""

HALF_TOLERANCES: Mapping[str, float] = {"LOGITS": 5e-2, "FEATURES": 3e-2, "ATTENTION": 2e-2, PROBABILITY: 2e-2}
"""The same for float16.

Its rounding errors (2**-11 of each value) change logits of seeded networks by up to 0.015 (preset small) and 0.05
(tiny, whose attention is extreme), probabilities by less than 0.01.
"""


@dataclass(frozen=True)
class Difference:
    """One output on one batch of images.

    Attributes:
        pixels: What the images are.
        batch: How many.
        output: Name of the output.
        largest: Largest absolute difference; NaN where either side is not finite.
        tolerance: What is allowed.
    """

    pixels: str
    batch: int
    output: str
    largest: float
    tolerance: float

    @property
    def within(self) -> bool:
        """Whether the difference is allowed; NaN is not."""
        return self.largest <= self.tolerance


def sample_batches(pixels: int) -> dict[str, Pixels]:
    """Give images to compare on, by what they are: uint8 [batch, pixels, pixels, 3], batch 1 and 3.

    Random pixels, and scenes with the statistics of photographs: smooth shading, edges, grain, JPEG blocks.
    """
    random = np.random.default_rng(20260425)
    noise = random.integers(0, 256, (pixels, pixels, 3), dtype=np.uint8)
    white = np.full((pixels, pixels, 3), 255, np.uint8)
    return {
        "random": noise[None],
        "scene": _scene(pixels, random)[None],
        "mixed": np.stack([noise[::-1], _scene(pixels, random), white]),
    }


def _scene(pixels: int, random: np.random.Generator) -> Pixels:
    shading = random.uniform(40, 200, (4, 4, 3)).astype(np.float32)
    canvas = cv2.resize(shading, (pixels, pixels), interpolation=cv2.INTER_CUBIC)
    for _ in range(8):
        centre, axes = random.integers(0, pixels, 2).tolist(), random.integers(pixels // 16, pixels // 3, 2).tolist()
        colour = random.uniform(0, 255, 3).tolist()
        cv2.ellipse(canvas, centre, axes, float(random.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    grain = random.normal(0, 4, canvas.shape)
    encoded = cv2.imencode(".jpg", np.clip(canvas + grain, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


def torch_outputs(network: StreamNetwork, batches: Mapping[str, Pixels]) -> dict[str, Outputs]:
    """Run the network on each batch."""
    with torch.inference_mode():
        return {
            name: tuple(output.numpy() for output in network(torch.from_numpy(pixels.copy())))
            for name, pixels in batches.items()
        }


def open_session(model: Path, *, optimised: bool = True) -> onnxruntime.InferenceSession:
    """Open a model file with ONNX Runtime on the CPU, for a few images: weights stay mapped from the file.

    Args:
        model: The file.
        optimised: Whether ONNX Runtime may rewrite the graph; of a float16 one it widens all weights then.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # In the order of the file: each weight is widened where it is used, and freed there.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    # Copying weights into another order does not pay.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_outputs(model: Path, batches: Mapping[str, Pixels], *, optimised: bool = True) -> dict[str, Outputs]:
    """Run a model file on each batch (`open_session`)."""
    session = open_session(model, optimised=optimised)
    return {name: tuple(session.run(list(OUTPUTS), {INPUT: pixels})) for name, pixels in batches.items()}


def compare(
    expected: Mapping[str, Outputs], actual: Mapping[str, Outputs], tolerances: Mapping[str, float] | None = None
) -> list[Difference]:
    """Measure how far apart two sets of outputs are, and their probabilities; `TOLERANCES` unless told otherwise."""
    tolerances = TOLERANCES if tolerances is None else tolerances
    differences: list[Difference] = []
    for pixels, references in expected.items():
        for output, reference, value in zip(OUTPUTS, references, actual[pixels], strict=True):
            if reference.shape != value.shape:
                raise ParityError(f"{output} has shape {value.shape}, not {reference.shape}", differences)
            largest = float(np.abs(reference - value).max())
            tolerance = tolerances[output] * max(1.0, float(np.abs(reference).max()))
            differences.append(Difference(pixels, len(reference), output, largest, tolerance))
        logits = OUTPUTS.index("LOGITS")
        differences.append(
            compare_probabilities(pixels, references[logits], actual[pixels][logits], tolerances[PROBABILITY])
        )
    return differences


def compare_probabilities(
    pixels: str, expected: NDArray[np.float32], actual: NDArray[np.float32], tolerance: float
) -> Difference:
    """Measure how far apart the probabilities of two sets of logits are, [batch, 2]."""
    largest = float(np.abs(fake_probability(expected) - fake_probability(actual)).max())
    return Difference(pixels, len(expected), PROBABILITY, largest, tolerance)


def require_parity(name: str, differences: Sequence[Difference]) -> None:
    """Refuse a model whose outputs differ by more than the tolerance.

    Raises:
        ParityError: With the outputs that do, and by how much.
    """
    beyond = [difference for difference in differences if not difference.within]
    if beyond:
        listed = "; ".join(
            f"{each.output} on {each.pixels} by {each.largest:.2g}, {each.tolerance:.2g} is allowed" for each in beyond
        )
        raise ParityError(f"{name}: the exported model does not agree with the network: {listed}", differences)
