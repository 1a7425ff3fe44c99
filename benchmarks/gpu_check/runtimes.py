"""ONNX Runtime and TensorRT on the GPU: each stream exported here, from the same seeded weights as torch's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common.result import Figure
from benchmarks.gpu_check.runner import Context, Detail, NotHereError
from benchmarks.gpu_check.timing import timed
from benchmarks.gpu_check.torch_steps import Labels, parity_figures, random_pixels, rate_figures
from ensemble.streams import STREAMS, Stream
from export.half.conversion import HALF_TYPES, to_half
from export.onnx.fused_attention import fuse_attention
from export.onnx.graph import save_model, to_onnx
from export.onnx.interface import INPUT, stream_interface
from networks.seeded import seeded_stream

Found = Iterator[Figure | Detail]
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

BATCHES = (32, 8, 1)
_LOGITS = "LOGITS"


@dataclass(frozen=True)
class Exported:
    """A stream as files, and what it has to give.

    Attributes:
        stream: The stream.
        precision: Of the model.
        model: model.onnx.
        pixels: A few images, uint8.
        logits: Of those, in float32 on the CPU.
    """

    stream: Stream
    precision: str
    model: Path
    pixels: Tensor
    logits: Tensor


def onnxruntime(context: Context) -> Found:
    """ONNX Runtime with its fused attention, as the configuration `fused` serves it, in FP16."""
    import onnxruntime as ort

    provider = "CPUExecutionProvider" if context.dry else "CUDAExecutionProvider"
    if provider not in ort.get_available_providers():
        raise NotHereError(f"this onnxruntime has no {provider} (pip install onnxruntime-gpu)")
    for exported in _exports(context, ("fp16",)):
        model = fuse_attention(exported.model)
        session = ort.InferenceSession(model, providers=[provider])

        def run(pixels: NDArray[np.uint8], session: ort.InferenceSession = session) -> NDArray[np.float32]:
            return np.asarray(session.run([_LOGITS], {INPUT: pixels})[0])

        yield from _measure(context, "onnxruntime", exported, run)
        del session, run


def tensorrt(context: Context) -> Found:
    """TensorRT in FP16 and BF16: each engine is built here, for the profile that it is served in."""
    if context.dry:
        raise NotHereError("an engine runs on a GPU alone; make check-engines builds them without one")
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    from export.tensorrt.engine import build_plan, read_profile

    for exported in _exports(context, ("fp16", "bf16")):
        profile = read_profile(Path("model_repository") / exported.stream.name / "configs" / "tensorrt.pbtxt")
        plan, seconds = build_plan(exported.model, profile, context.folder / "timing.cache")
        labels: Labels = {"stream": exported.stream.name, "precision": exported.precision}
        yield Figure(labels, "build", "s", "lower", [seconds])
        yield Figure(labels, "engine", "bytes", "lower", [float(len(plan))])
        with TrtRunner(EngineFromBytes(plan)) as runner:

            def run(pixels: NDArray[np.uint8], runner: TrtRunner = runner) -> NDArray[np.float32]:
                return np.asarray(runner.infer({INPUT: pixels}, check_inputs=False)[_LOGITS])

            yield from _measure(context, "tensorrt", exported, run)


def _exports(context: Context, precisions: tuple[str, ...]) -> Iterator[Exported]:
    """Each stream in each precision; its files are gone when the next is asked for."""
    for stream in context.some(STREAMS):
        pixels = random_pixels(stream.pixels, 2, "cpu")
        for precision in precisions:
            network = seeded_stream(stream, context.preset, context.device).to("cpu")
            with torch.inference_mode():
                logits = network(pixels)[0]
            model = to_onnx(network, stream_interface(stream))
            to_half(model, HALF_TYPES[precision])
            folder = context.folder / f"{stream.name}-{precision}"
            folder.mkdir(exist_ok=True)
            files = save_model(model, folder, {})
            del model, network
            try:
                yield Exported(stream, precision, files[0], pixels, logits)
            finally:
                for path in folder.iterdir():
                    path.unlink()


def _measure(context: Context, runtime: str, exported: Exported, run: Run) -> Found:
    """Parity, then images/s; the pixels come from the host each time, as a server's do."""
    actual = torch.from_numpy(run(exported.pixels.numpy()).copy())
    yield from parity_figures(runtime, exported.stream.name, exported.precision, exported.logits, actual)
    labels: Labels = {
        "way": runtime, "precision": exported.precision, "what": exported.stream.name
    }  # fmt: skip
    for batch in context.batches(BATCHES):
        pixels = random_pixels(exported.stream.pixels, batch, "cpu").numpy()
        took = timed(lambda pixels=pixels: run(pixels), context.device, 0.1 if context.dry else 1.0)  # type: ignore[misc]
        yield from rate_figures(context, labels, batch, took)
