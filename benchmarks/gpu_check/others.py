"""A training step, and the served ensemble: measured by the benchmarks that exist for them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.common.result import Figure
from benchmarks.gpu_check.runner import Context, Detail, NotHereError


def training(context: Context) -> Iterator[Figure | Detail]:
    """Optimiser steps of the global stream in bfloat16, with activations computed again."""
    from benchmarks.training.step import measure_step

    for batch in (1,) if context.dry else (8, 32):
        measured = measure_step(context.preset, batch, "bfloat16", checkpointing=True, updates=1 if context.dry else 3)
        yield Detail(f"training budget, batch {batch}", measured.budget.describe())
        for figure in measured.figures:
            yield replace(figure, labels={"what": "training step", **figure.labels})


def served(context: Context) -> Iterator[Detail]:
    """The ensemble over gRPC, by `benchmarks.gpu`: in the container where its image is, else without."""
    if context.dry:
        raise NotHereError("python -m benchmarks.gpu --device cpu has a dry run of its own")
    places = context.known.get("triton", {})
    if "image" in places:
        server = "container"
    elif "checkout" in places and "CUDAExecutionProvider" in context.known.get("onnxruntime", []):
        server = "stand-in"
    else:
        raise NotHereError("no image deepfake-detector (make image), and no .triton with onnxruntime-gpu")
    output = context.folder / "served.json"
    options = ["--preset", context.preset, "--server", server, "--seconds", "5", "--parity-images", "8"]
    levels = [word for count in (32, 128) for word in ("--in-flight", str(count))]
    command = [sys.executable, "-m", "benchmarks.gpu", *options, *levels, "--output", str(output)]
    done = subprocess.run(command, check=False)  # what it has measured is in its file, whatever came then
    if output.exists():
        yield Detail("served", json.loads(output.read_text(encoding="utf-8")))
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}; its output is in served.log")
