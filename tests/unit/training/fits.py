"""Whole runs at the smallest size, for tests of them."""

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from training.run.fit import Options, fit

SMALL = (
    "network.hidden=128",
    "network.blocks=2",
    "network.rank=4",
    "network.alpha=8",
    "network.head=512",
    "optimiser.batch=2",
    "optimiser.accumulation=2",
    "optimiser.epochs=2",
    "optimiser.warmup_updates=1",
    "optimiser.learning_rate=1e-3",
    "run.validations_per_epoch=1",
)


def options(data: Path, tiny: Path, folder: Path, *overrides: str, **changes: Any) -> Options:
    given: dict[str, Any] = {
        "recipe": "global_texture",
        "overrides": (*SMALL, *overrides),
        "data": data,
        "base": str(tiny / "dinov2_252.pth"),
        "clip": None,
        "checkpoint": None,
        "output": folder / "run",
        "weights": folder / "weights",
        "workers": 0,
        "cpu": True,
    }
    return Options(**given | changes)


def run(chosen: Options) -> str:
    return fit(chosen, Console(quiet=True))


def learnt(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "run" / "state.pt", weights_only=True)["learnt"])


def events(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]
