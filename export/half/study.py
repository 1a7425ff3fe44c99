"""What an export costs in probabilities and votes: torch, ONNX and float16 beside each other, image by image."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from ensemble.images import ImageError, Limits, frame, read_image, square
from ensemble.streams import Stream
from ensemble.voting import fake_probability, quantise
from export.half.arithmetic import HalfArithmetic, Range, widest
from export.half.conversion import HALF_TYPES, PRECISIONS, to_half
from export.half.fp8 import calibrate, to_fp8
from export.onnx.graph import free_weights, save_model, to_onnx
from export.onnx.interface import INPUT, stream_interface
from export.onnx.session import open_session
from export.parity import PROBABILITY, TOLERANCES
from export.samples import Pixels
from networks import StreamNetwork, load_stream

Logits = NDArray[np.float32]

HALF_SUMS = "fp16 sums"
"""Way of computing: float16, with attention that accumulates in float16, too (`export.half.arithmetic`)."""

FP8 = "fp8"
"""Way of computing: float16 with linear layers in FP8, an experiment (`export.half.fp8`). No tolerance judges it."""

LARGEST_ALLOWED: Mapping[str, float] = {
    "fp32": TOLERANCES["fp32"][PROBABILITY],
    "fp16": TOLERANCES["fp16"][PROBABILITY],
    HALF_SUMS: TOLERANCES["fp16"][PROBABILITY],
    "bf16": TOLERANCES["bf16"][PROBABILITY],
}
"""Largest change of a probability; votes are steps of 0.1."""

P999_ALLOWED: Mapping[str, float] = {"fp32": 1e-3, "fp16": 1e-2, HALF_SUMS: 1e-2, "bf16": 8e-2}
"""The same for all but one in a thousand images. What weights that had learnt something reached, and why bfloat16 has
this bound, is in docs/explanation/learnt.md."""

HIGHEST_GAIN = 2**12


@dataclass(frozen=True)
class Change:
    """How far a model's probabilities are from torch's.

    Attributes:
        images: How many were compared.
        largest: Largest absolute difference of the probability; NaN where a model's is.
        p999: 99.9th percentile of the differences.
        votes_changed: Share of images whose one-decimal vote is another.
    """

    images: int
    largest: float
    p999: float
    votes_changed: float

    def within(self, precision: str) -> bool:
        """Whether that is allowed; NaN is not. Of an experiment, anything is."""
        if precision == FP8:
            return True
        return self.largest <= LARGEST_ALLOWED[precision] and self.p999 <= P999_ALLOWED[precision]


@dataclass(frozen=True)
class Gain:
    """What comes of activations scaled up (`half_arithmetic.GAIN`).

    Attributes:
        gain: What every normalised activation is multiplied by.
        ranges: The largest tensor of each kind, the nearest to the end of float16 first.
        overflow: The first tensor that does not fit; None where all do.
    """

    gain: float
    ranges: tuple[Range, ...]
    overflow: Range | None


@dataclass(frozen=True)
class StreamStudy:
    """One stream: its logits of every image in each way of computing them, and how near float16 is to its end.

    Attributes:
        logits: By `torch`, `fp32` (ONNX Runtime), `fp16` (float16 arithmetic, sums in single), `HALF_SUMS`, `bf16`
            (bfloat16 arithmetic) and, where a calibration set was given, `FP8`; float32 [images, 2].
        ranges: Of float16, the largest tensor of each kind over all images.
        gains: What happens when activations are scaled up, until one does not fit.
    """

    logits: Mapping[str, Logits]
    ranges: tuple[Range, ...]
    gains: tuple[Gain, ...]


def whole_image_pixels(stream: Stream, images: Sequence[bytes]) -> tuple[Pixels, list[int]]:
    """Cut images as a stream sees them; one that sees the face sees the whole image, as where no face is found.

    Returns:
        uint8 [readable images, pixels, pixels, 3], and the indices of those that cannot be scored.
    """
    framings, unreadable = [], []
    for index, image in enumerate(images):
        try:
            framings.append(frame(square(read_image(image, Limits())), stream))
        except ImageError:
            unreadable.append(index)
    shape = (0, stream.pixels, stream.pixels, 3)
    return np.stack(framings) if framings else np.empty(shape, np.uint8), unreadable


def random_pixels(stream: Stream, count: int) -> Pixels:
    """Seeded noise, uint8 [count, pixels, pixels, 3]."""
    random = np.random.default_rng(20260425)
    return random.integers(0, 256, (count, stream.pixels, stream.pixels, 3), dtype=np.uint8)


def study_stream(
    stream: Stream,
    checkpoint: Path,
    pixels: Pixels,
    folder: Path,
    batch: int,
    advance: Callable[[str, int], None],
    calibration: Pixels | None = None,
) -> StreamStudy:
    """Compute all images with torch, with the float32 model in ONNX Runtime, and with the models of 16 bits.

    Args:
        stream: The stream.
        checkpoint: Its checkpoint.
        pixels: Images, uint8 [images, pixels, pixels, 3].
        folder: Where the models are written.
        batch: Images at once.
        advance: Called with what was done and the number of images since the last call.
        calibration: Other images, which give FP8 its scales; None leaves FP8 out.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ExportError: It cannot be exported; with a weight beyond float16, HalfRangeError.
    """
    network = load_stream(stream, checkpoint)
    logits = {"torch": _torch_logits(network, pixels, batch, advance)}
    folders = {precision: folder / precision for precision in PRECISIONS}
    for each in folders.values():
        each.mkdir(parents=True)
    model = to_onnx(network, stream_interface(stream))
    single = save_model(model, folders["fp32"], {})[0]
    to_half(model)
    half = save_model(model, folders["fp16"], {})[0]
    free_weights(network, model)
    gc.collect()
    logits["fp32"] = _collect(pixels, batch, _in_single(single), advance, "fp32")
    arithmetic = HalfArithmetic(half)
    ranges: list[Range] = []

    def in_half(some: Pixels) -> Logits:
        outputs, found = arithmetic.run(some)
        ranges[:] = widest([*ranges, *found])
        return outputs[arithmetic.outputs.index("LOGITS")]

    logits["fp16"] = _collect(pixels, batch, in_half, advance, "fp16")
    sums = HalfArithmetic(half, half_sums=True)
    logits[HALF_SUMS] = _collect(pixels, batch, _logits_of(sums), advance, HALF_SUMS)
    model = ir.load(single)
    to_half(model, HALF_TYPES["bf16"])
    brain = HalfArithmetic(save_model(model, folders["bf16"], {})[0])
    logits["bf16"] = _collect(pixels, batch, _logits_of(brain), advance, "bf16")
    if calibration is not None:
        largest = calibrate(single, (calibration[start : start + batch] for start in range(0, len(calibration), batch)))
        model = ir.load(half)
        to_fp8(model, largest)
        (folder / FP8).mkdir()
        eight = HalfArithmetic(save_model(model, folder / FP8, {})[0])
        logits[FP8] = _collect(pixels, batch, _logits_of(eight), advance, FP8)
    return StreamStudy(logits, tuple(ranges), tuple(search_overflow(arithmetic, pixels[:1])))


def _logits_of(arithmetic: HalfArithmetic) -> Callable[[Pixels], Logits]:
    position = arithmetic.outputs.index("LOGITS")
    return lambda pixels: np.asarray(arithmetic.run(pixels)[0][position])


def search_overflow(arithmetic: HalfArithmetic, pixels: Pixels) -> Iterator[Gain]:
    """Double the gain until a value does not fit float16; what each gain does, the last one with the overflow."""
    gain = 1
    while gain <= HIGHEST_GAIN:
        ranges = arithmetic.run(pixels, gain)[1]
        overflow = next((each for each in ranges if each.overflows), None)
        yield Gain(gain, tuple(widest(ranges)), overflow)
        if overflow:
            return
        gain *= 2


def measure_change(expected: Logits, actual: Logits) -> Change:
    """Compare the probabilities and votes of two sets of logits, float32 [images, 2]."""
    before, after = fake_probability(expected), fake_probability(actual)
    differences = np.abs(before.astype(np.float64) - after)
    return Change(
        len(differences),
        float(differences.max()),
        float(np.percentile(differences, 99.9)),
        float((quantise(before) != quantise(after)).mean()),
    )


def _torch_logits(network: StreamNetwork, pixels: Pixels, batch: int, advance: Callable[[str, int], None]) -> Logits:
    def run(some: Pixels) -> Logits:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(some))[0].numpy())

    return _collect(pixels, batch, run, advance, "torch")


def _in_single(model: Path) -> Callable[[Pixels], Logits]:
    session = open_session(model)
    return lambda pixels: np.asarray(session.run(["LOGITS"], {INPUT: pixels})[0])


def _collect(
    pixels: Pixels, batch: int, run: Callable[[Pixels], Logits], advance: Callable[[str, int], None], way: str
) -> Logits:
    parts = []
    for start in range(0, len(pixels), batch):
        part = np.ascontiguousarray(pixels[start : start + batch])
        parts.append(run(part))
        advance(way, len(part))
    return np.concatenate(parts)
