"""How much arithmetic an image costs, and how much a GPU can do."""

import re
from collections.abc import Sequence

from ensemble.streams import STREAMS, Stream
from networks.random_weights import PRESETS

PEAKS = {
    "H200": 790.0,
    "H100 PCIe": 756.0,
    "H100": 790.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
}
"""TFLOP/s of dense products in FP16, by a part of the GPU's name, the first that fits.

By NVIDIA's data sheets, save the SXM modules of H100 and H200: for these, the goal of this project is stated against
790 (the data sheet has 989).
"""


def tflop_per_image(preset: str, streams: Sequence[Stream] = STREAMS) -> float:
    """Multiplications and additions of streams for one image, in 10¹²; matrix products alone.

    Args:
        preset: A size of `networks.PRESETS`; giant is that of the published weights.
        streams: Those that are run.
    """
    dino, clip = PRESETS[preset]
    total = 0
    for stream in streams:
        tokens = (stream.pixels // dino.patch) ** 2 + 1
        total += dino.blocks * _block(tokens, dino.hidden, 3 * dino.inner)
        if stream.has_clip:
            tokens = (stream.pixels // clip.patch) ** 2 + 1
            total += clip.blocks * _block(tokens, clip.hidden, 2 * clip.inner)
    return total / 1e12


def _block(tokens: int, hidden: int, feed_forward: int) -> int:
    """One transformer block: four projections, attention, and a feed-forward network of so many columns in all."""
    return 2 * tokens * hidden * (4 * hidden + feed_forward) + 4 * tokens**2 * hidden


def peak_of(gpu: str) -> float | None:
    """TFLOP/s in FP16 of a GPU by its name; None where the table does not have it."""
    return next((peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", gpu)), None)
