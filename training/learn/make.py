"""From sample photographs to stand-in checkpoints: the labelled set, the base, and the three streams."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from networks.stand_in import write_marker
from training.errors import RunError
from training.learn.base import save_bases, train_base
from training.learn.photographs import PHOTOGRAPHS, split_of
from training.learn.plan import PHASES, SEED, Effort, fit_arguments
from training.learn.samples import draw_samples, write_samples

Say = Callable[[str], None]

_REPORTED = 20
"""Updates of the base between two lines."""


def make_stand_ins(folder: Path, effort: Effort, say: Say) -> dict[str, float]:
    """Makes the labelled set, trains the base and the streams, and marks the weights for what they are.

    Args:
        folder: What an earlier call left there is replaced; the checkpoints are in its `weights`, the images of the
            test in `data/test`.
        effort: How much.
        say: Gets a line for people now and then.

    Returns:
        Seconds of each step.

    Raises:
        RunError: A phase failed; its own message has been shown.
    """
    for name in ("data", "bases", "runs", "weights"):
        shutil.rmtree(folder / name, ignore_errors=True)
    seconds: dict[str, float] = {}

    began = time.monotonic()
    manifest = write_samples(folder / "data", effort.pairs, SEED)
    seconds["samples"] = time.monotonic() - began
    say(f"{2 * sum(effort.pairs.values())} images of {len(PHOTOGRAPHS)} photographs, split by photograph")

    began = time.monotonic()
    samples = list(draw_samples("train", effort.pairs["train"], SEED))
    losses: list[float] = []

    def report(update: int, loss: float) -> None:
        losses.append(loss)
        if update % _REPORTED == 0:
            say(f"base, update {update} of {effort.base.updates}: loss {np.mean(losses[-_REPORTED:]):.3f}")

    dino, clip = save_bases(train_base(samples, SEED, effort.base, report), folder / "bases", SEED)
    del samples
    seconds["base"] = time.monotonic() - began

    for phase in PHASES:
        began = time.monotonic()
        say(f"{phase.recipe}:")
        arguments = fit_arguments(phase, effort, folder, dino, clip, manifest)
        done = subprocess.run([sys.executable, "-m", "training", "fit", *arguments], check=False)
        if done.returncode:
            raise RunError(f"{phase.recipe} ended with {done.returncode}; see above")
        seconds[phase.recipe] = time.monotonic() - began
    photographs = sum(split_of(name) == "train" for name in PHOTOGRAPHS)
    write_marker(folder / "weights", effort.pairs["train"], photographs)
    return seconds
