"""Two processes are one with a batch of twice the size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden import ROOT
from tests.unit.training.fits import SMALL


def fit(data: Path, tiny: Path, folder: Path, batch: int, *launch: str) -> list[dict[str, float]]:
    values = [*SMALL, f"optimiser.batch={batch}", "network.lora_dropout=0.0", "run.validations_per_epoch=0"]
    command = [sys.executable, *launch, "-m", "training", "fit", "--recipe", "global_texture", "--cpu"]
    command += ["--data", str(data), "--base", str(tiny / "dinov2_252.pth"), "--workers", "0"]
    command += ["--output", str(folder / "run"), *(part for value in values for part in ("--set", value))]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == "update"]


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(data: Path, tiny: Path, tmp_path: Path) -> None:
    one = fit(data, tiny, tmp_path / "one", 4)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    two = fit(data, tiny, tmp_path / "two", 2, *launch)
    assert len(one) == len(two) == 4
    for alone, together in zip(one, two, strict=True):
        assert together["learning_rate"] == alone["learning_rate"]
        assert together["loss"] == pytest.approx(alone["loss"], abs=2e-5)
        assert together["gradient_norm"] == pytest.approx(alone["gradient_norm"], rel=2e-3)
