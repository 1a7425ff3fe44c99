"""From sample photographs to stand-in checkpoints: the labelled set, the base, and the three streams."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from networks.weights.stand_in import write_marker
from training.learn.base import save_bases, train_base
from training.learn.photographs import PHOTOGRAPHS, split_of
from training.learn.plan import PHASES, SEED, Effort, fit_options
from training.learn.samples import draw_samples, lightly_degraded, write_samples
from training.run.fit import fit

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
        TrainingError: A phase failed.
    """
    for name in ("data", "bases", "runs", "weights"):
        shutil.rmtree(folder / name, ignore_errors=True)
    seconds: dict[str, float] = {}

    began = time.monotonic()
    drawn = {split: list(draw_samples(split, pairs, SEED)) for split, pairs in effort.pairs.items()}
    learnt = drawn["train"]
    rng = np.random.default_rng((SEED, 2))
    shown = [replace(each, image=lightly_degraded(each.image, rng)) for each in learnt[: 2 * effort.shown]]
    manifest = write_samples(folder / "data", drawn | {"train": shown})
    del drawn, shown
    seconds["samples"] = time.monotonic() - began
    say(f"{2 * sum(effort.pairs.values())} images of {len(PHOTOGRAPHS)} photographs, split by photograph")

    began = time.monotonic()
    losses: list[float] = []

    def report(update: int, loss: float) -> None:
        losses.append(loss)
        if update % _REPORTED == 0:
            say(f"base, update {update} of {effort.base.updates}: loss {np.mean(losses[-_REPORTED:]):.3f}")

    dino, clip = save_bases(train_base(learnt, SEED, effort.base, report), folder / "bases", SEED)
    del learnt
    seconds["base"] = time.monotonic() - began

    for phase in PHASES:
        began = time.monotonic()
        say(f"{phase.recipe}:")
        fit(fit_options(phase, folder, dino, clip, manifest), Console(stderr=True))
        seconds[phase.recipe] = time.monotonic() - began
    photographs = sum(split_of(name) == "train" for name in PHOTOGRAPHS)
    write_marker(folder / "weights", effort.pairs["train"], photographs)
    return seconds
