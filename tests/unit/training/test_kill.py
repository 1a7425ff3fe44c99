"""A process that is killed, and the same command again: the result is that of a run which nothing disturbed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.golden import ROOT
from tests.unit.training.fits import SMALL
from training.run.state import STATE_FILE, read_state

pytestmark = pytest.mark.slow

VALUES = (*SMALL, "optimiser.epochs=5", "run.checkpoint_updates=1", "run.validations_per_epoch=0")
"""Fifteen updates."""

HELD = """
import time
from training.__main__ import main
from training.run import loop

save = loop.save_state

def hold(folder, state):
    save(folder, state)
    if state.progress.updates == 12:
        time.sleep(600)

loop.save_state = hold
main()
"""
"""Waits before the end for whoever is to kill it."""


def command(data: Path, tiny: Path, folder: Path, *program: str) -> list[str]:
    fit = [sys.executable, *(program or ("-m", "training")), "fit", "--recipe", "global_texture", "--cpu"]
    fit += ["--workers", "1"]
    fit += ["--data", str(data), "--base", str(tiny / "dinov2_252.pth"), "--output", str(folder / "run")]
    return [*fit, *(part for value in VALUES for part in ("--set", value))]


def finish(data: Path, tiny: Path, folder: Path) -> str:
    done = subprocess.run(command(data, tiny, folder), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def updates(folder: Path) -> list[dict[str, Any]]:
    """Loss, rate, norm and place of each update."""
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]


def test_the_same_command_goes_on_bit_for_bit(data: Path, tiny: Path, tmp_path: Path) -> None:
    """A checkpoint is written after every update, so that the kill may well fall into the writing of one."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(data, tiny, straight)
    state = killed / "run" / STATE_FILE
    with subprocess.Popen(command(data, tiny, killed, "-c", HELD), cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not ((reached := read_state(killed / "run")) and reached.progress.updates):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    reached = read_state(killed / "run")
    assert reached is not None
    assert 1 <= reached.progress.updates < 15
    # As where the machine was lost while the next checkpoint was being written.
    state.with_name(f".{STATE_FILE}.partial").write_bytes(state.read_bytes()[:1000])
    told = finish(data, tiny, killed)
    assert f"going on after update {reached.progress.updates}" in told
    assert reached.progress.updates > 10 or "left, validations apart" in told
    assert updates(killed) == updates(straight)
    assert len(updates(straight)) == 15
    for name in ("run/dinov2_252.pth", "weights/dinov2_252.pth"):
        expected, found = (torch.load(folder / name, weights_only=True) for folder in (straight, killed))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert not list((killed / "run").glob(".*partial"))
