"""How much arithmetic an image costs, and how much a GPU can do."""

import re
from collections.abc import Sequence

from ensemble.streams import STREAMS, Stream
from networks.work import stream_tflop

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
    return sum(stream_tflop(stream, preset) for stream in streams)


def peak_of(gpu: str) -> float | None:
    """TFLOP/s in FP16 of a GPU by its name; None where the table does not have it."""
    return next((peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", gpu)), None)
