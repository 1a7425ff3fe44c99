"""What torch alone can tell: the ceiling of products, parity, throughput, compilation, CUDA graphs, where time goes."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.result import Figure
from benchmarks.gpu.arithmetic import tflop_per_image
from benchmarks.gpu.differences import differences
from benchmarks.gpu_check.forms import HALVES, Served
from benchmarks.gpu_check.runner import Context, Detail, NotHereError
from benchmarks.gpu_check.timing import forget_memory, peak_memory, timed
from ensemble.streams import STREAMS
from ensemble.voting import fake_probability, quantise
from networks.seeded import seeded_stream
from networks.weights.random_weights import PRESETS

Found = Iterator[Figure | Detail]
Labels = dict[str, str | int | float]

BATCHES = (32, 64, 8, 1, 16, 4, 2)
"""The most telling first, should time run out."""

ALL = "all three"

_SECONDS = 1.0
"""Of one measurement of throughput."""


def products(context: Context) -> Found:
    """The most that products of matrices reach, by type: 8192³, and the largest of a block at batch 32."""
    dino = PRESETS[context.preset][0]
    tokens = 32 * ((STREAMS[0].pixels // dino.patch) ** 2 + 1)
    side = 256 if context.dry else 8192
    shapes = [(side, side, side), (tokens, dino.hidden, 2 * dino.inner), (tokens, dino.inner, dino.hidden)]
    ceilings: dict[str, float] = {}
    for name, dtype in HALVES.items():
        for rows, inner, columns in shapes:
            left, right = (
                torch.randn(shape, device=context.device, dtype=dtype) for shape in ((rows, inner), (inner, columns))
            )
            took = timed(lambda left=left, right=right: left @ right, context.device, 0.05 if context.dry else _SECONDS)  # type: ignore[misc]
            rates = [2e-12 * rows * inner * columns / each for each in took]
            ceilings[name] = max(ceilings.get(name, 0.0), float(np.median(rates)))
            yield Figure(
                {"precision": name, "shape": f"{rows}×{inner}×{columns}"}, "products", "TFLOP/s", "higher", rates
            )
    yield Detail("ceilings", ceilings)


def parity(context: Context) -> Found:
    """Probabilities and votes in FP32, FP16 and BF16 on the device against FP32 on the CPU, on the same seeded weights.

    FP32 on the GPU is the control: what another order of sums alone changes.
    """
    torch.backends.cudnn.allow_tf32 = False  # products of matrices are in single by default, convolutions are not
    images, at_once = (2, 2) if context.dry else (16, 4)
    streams = context.some(STREAMS)
    for number, stream in enumerate(streams):
        network = seeded_stream(stream, context.preset, context.device)
        pixels = random_pixels(stream.pixels, images, "cpu")
        reference = copy.deepcopy(network).to("cpu")
        expected: list[Tensor] = []
        share = context.seconds_left / (len(streams) - number)
        enough = context.seconds_left - 0.7 * share
        with torch.inference_mode():
            for part in torch.split(pixels, at_once):
                expected.append(reference(part)[0])
                if context.seconds_left < enough:
                    break
            logits = torch.cat(expected)
            del reference
            for precision in ("fp32", *HALVES):
                served = Served(copy.deepcopy(network), precision)
                actual = served(pixels[: len(logits)].to(context.device)).cpu()
                yield from parity_figures("torch", stream.name, precision, logits, actual)
                del served
        del network


def parity_figures(runtime: str, stream: str, precision: str, expected: Tensor, actual: Tensor) -> Iterator[Figure]:
    """Differences of two sets of logits, float32 [images, 2]."""
    before, after = (fake_probability(each.float().numpy()) for each in (expected, actual))
    changed = int((quantise(before) != quantise(after)).sum())
    labels: Labels = {
        "runtime": runtime, "stream": stream, "precision": precision, "images": len(before)
    }  # fmt: skip
    found = differences(before.tolist(), after.tolist(), changed)
    largest = float(np.nan_to_num(found["largest"], nan=1.0))  # after an overflow: as wrong as can be
    yield Figure(labels, "largest change of a probability", "", "lower", [largest])
    yield Figure(labels, "votes changed", "share", "lower", [found["votes_changed"]])


def throughput(context: Context) -> Found:
    """Images/s of torch without compilation, at each batch: of the three together first, then of each stream."""
    for precision in context.some(list(HALVES)):
        served = served_streams(context, precision)
        yield Detail(f"weights {precision}", {"bytes": _bytes_of(served)})
        yield from rates(
            context, {"way": "torch", "precision": precision, "what": ALL}, together(served), context.batches(BATCHES)
        )
        del served
    for precision in context.some(list(HALVES)):
        for stream, served_stream in zip(STREAMS, served_streams(context, precision), strict=True):
            labels: Labels = {"way": "torch", "precision": precision, "what": stream.name}
            batches = context.batches(BATCHES)
            yield from rates(context, labels, together([served_stream], stream.pixels), batches)


def compiled(context: Context) -> Found:
    """The same with blocks compiled by torch.compile, then as CUDA graphs on top of that."""
    backend = "eager" if context.dry else "inductor"
    for precision in context.some(list(HALVES)):
        served = served_streams(context, precision)
        for each in served:
            each.compile_blocks(backend)
        run = together(served)
        for batch in context.batches(BATCHES[:4]):
            torch.compiler.reset()  # it keeps eight versions of a block, and runs what comes after without compiling
            labels: Labels = {"way": "torch compiled", "precision": precision, "what": ALL}
            yield from rates(context, labels, run, [batch])
            yield from _graphed_rates(context, {**labels, "way": "torch compiled, CUDA graph"}, run, batch)
        del served, run


def graphs(context: Context) -> Found:
    """CUDA graphs of torch without compilation: what launching kernels one by one costs, at small batches."""
    if context.dry:
        raise NotHereError("CUDA graphs need a GPU")
    served = served_streams(context, "bf16")
    for batch in (1, 4, 8, 2, 32):
        labels: Labels = {"way": "torch, CUDA graph", "precision": "bf16", "what": ALL}
        yield from _graphed_rates(context, labels, together(served), batch)


def profile(context: Context) -> Found:
    """Where the time of a batch goes, by kind of kernel: of torch as it is, and compiled."""
    (batch,) = context.batches(BATCHES[:1])
    for way in context.some(("torch", "torch compiled")):
        served = served_streams(context, "bf16")
        if way == "torch compiled":
            for each in served:
                each.compile_blocks("inductor")
        run, pixels = together(served), _pixels(context, batch)
        with torch.inference_mode():
            run(pixels)
            activity = torch.profiler.ProfilerActivity.CPU if context.dry else torch.profiler.ProfilerActivity.CUDA
            with torch.profiler.profile(activities=[activity]) as profiler:
                run(pixels)
        spent: dict[str, float] = defaultdict(float)
        for event in profiler.key_averages():
            spent[event.key] += event.self_cpu_time_total if context.dry else event.self_device_time_total
        yield Detail(f"profile {way}", _profile_table(spent, batch))
        del served, run


def served_streams(context: Context, precision: str) -> list[Served]:
    """All streams, seeded; each is in single only until the next is made."""
    return [Served(seeded_stream(stream, context.preset, context.device), precision) for stream in STREAMS]


def together(served: Sequence[Served], side: int | None = None) -> Callable[[Tensor], list[Tensor]]:
    """One after the other on the same images, each on its part of the square."""
    sides = [side] if side else [stream.pixels for stream in STREAMS]

    def run(pixels: Tensor) -> list[Tensor]:
        return [each(pixels[:, :side, :side]) for each, side in zip(served, sides, strict=True)]

    return run


def random_pixels(side: int, count: int, device: str) -> Tensor:
    """Seeded noise, uint8 [count, side, side, 3]."""
    generator = torch.Generator(device).manual_seed(1)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, device=device, generator=generator)


def rates(
    context: Context,
    labels: Labels,
    run: Callable[[Tensor], object],
    batches: Sequence[int],
) -> Iterator[Figure]:
    """Images/s and memory at each batch, and the share of the ceiling; a batch that does not fit is left out."""
    for batch in batches:
        forget_memory(context.device)
        pixels = _pixels(context, batch)
        try:
            with torch.inference_mode():
                took = timed(lambda pixels=pixels: run(pixels), context.device, 0.1 if context.dry else _SECONDS)  # type: ignore[misc]
        except torch.cuda.OutOfMemoryError:
            yield Figure({**labels, "batch": batch}, "does not fit", "", "neither", [1.0])
            continue
        yield from rate_figures(context, labels, batch, took)


def rate_figures(context: Context, labels: Labels, batch: int, took: Sequence[float]) -> Iterator[Figure]:
    """Images/s, the share of the measured ceiling that their arithmetic is, and the memory they took."""
    labels = {**labels, "batch": batch}
    images = [batch / each for each in took]
    yield Figure(labels, "throughput", "images/s", "higher", images)
    ceiling = context.known.get("ceilings", {}).get(labels["precision"])
    if ceiling:
        tflop = tflop_per_image(context.preset, [each for each in STREAMS if labels["what"] in (ALL, each.name)])
        yield Figure(labels, "share of the ceiling", "share", "higher", [each * tflop / ceiling for each in images])
    if (peak := peak_memory(context.device)) is not None:
        yield Figure(labels, "peak memory", "bytes", "lower", [float(peak)])


def _graphed_rates(context: Context, labels: Labels, run: Callable[[Tensor], object], batch: int) -> Iterator[Figure]:
    if context.dry:
        return
    forget_memory(context.device)
    pixels = _pixels(context, batch)
    graph = torch.cuda.CUDAGraph()
    side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    try:
        with torch.inference_mode():
            side_stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side_stream):
                for _ in range(3):
                    run(pixels)
            torch.cuda.current_stream().wait_stream(side_stream)
            with torch.cuda.graph(graph):
                kept = run(pixels)
            took = timed(graph.replay, context.device, _SECONDS)
    except torch.cuda.OutOfMemoryError:
        yield Figure({**labels, "batch": batch}, "does not fit", "", "neither", [1.0])
        return
    yield from rate_figures(context, labels, batch, took)
    del kept, graph


def _pixels(context: Context, batch: int) -> Tensor:
    side = max(stream.pixels for stream in STREAMS)
    return random_pixels(side, batch, context.device)


def _bytes_of(served: Sequence[Served]) -> int:
    return sum(each.numel() * each.element_size() for network in served for each in network.parameters())


_KINDS = {
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "products": ("gemm", "nvjet", "cutlass", "matmul", "addmm", "::mm", "linear", "cublas", "conv", "xmma"),
    "normalisation": ("layer_norm", "layernorm", "native_layer"),
    "copies": ("memcpy", "memset", "copy", "cat"),
}


def _profile_table(spent: dict[str, float], batch: int) -> dict[str, object]:
    total = sum(spent.values()) or 1.0
    kinds: dict[str, float] = defaultdict(float)
    for name, microseconds in spent.items():
        low = name.lower()
        kind = next(
            (kind for kind, words in _KINDS.items() if any(word in low for word in words)), "elementwise and other"
        )
        kinds[kind] += microseconds / total
    largest = sorted(spent.items(), key=lambda each: -each[1])[:15]
    return {
        "batch": batch,
        "milliseconds": total / 1e3,
        "share by kind": {kind: round(share, 4) for kind, share in sorted(kinds.items(), key=lambda each: -each[1])},
        "largest": [{"kernel": name[:120], "share": round(value / total, 4)} for name, value in largest],
    }
