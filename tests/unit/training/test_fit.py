"""A whole run at the smallest size: what it leaves, and what stops it."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from ensemble.streams import GLOBAL_TEXTURE, SEMANTIC_FUSION
from networks import load_stream
from tests.unit.training.fits import events, learnt, options, run
from training.bases import start
from training.errors import DataError, NotFiniteError, RunError
from training.recipe import read_recipe
from training.run import loop
from training.run import state as state_module
from training.run.begin import alone_in
from training.run.loop import Training

pytestmark = pytest.mark.usefixtures("few_resamples")


def test_what_a_run_leaves(straight: Path, data: Path, tiny: Path) -> None:
    network = load_stream(GLOBAL_TEXTURE, straight / "weights" / "dinov2_252.pth")
    assert network is not None
    entry = json.loads((straight / "weights" / "manifest.json").read_text())["files"]["dinov2_252.pth"]
    assert entry["size"] == (straight / "run" / "dinov2_252.pth").stat().st_size
    rows = events(straight)
    updates = [row for row in rows if row["event"] == "update"]
    assert [row["update"] for row in updates] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "learning_rate", "gradient_norm"} <= set(updates[0])
    validations = [row for row in rows if row["event"] == "validation"]
    assert set(validations[-1]["clean"]) == {"all", "noise", "more"}
    assert "degraded" in validations[-1]
    card = (straight / "run" / "README.md").read_text()
    assert "6 updates" in card
    assert "train/noise/real" in card
    assert "rank = 4" in (straight / "weights" / "dinov2_252.toml").read_text()
    assert json.loads((straight / "run" / "run.json").read_text())["versions"]["torch"]
    assert list((straight / "run" / "tensorboard").iterdir())


def test_finished_run_is_not_made_again(straight: Path, data: Path, tiny: Path) -> None:
    before = (straight / "run" / "dinov2_252.pth").read_bytes()
    assert run(options(data, tiny, straight)) == "finished"
    assert (straight / "run" / "dinov2_252.pth").read_bytes() == before
    assert len([row for row in events(straight) if row["event"] == "update"]) == 6


def test_a_folder_has_one_run_at_a_time(data: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with alone_in(tmp_path / "run"), pytest.raises(RunError, match="another process trains there; wait for it"):
        run(options(data, tiny, tmp_path))
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_class_that_is_too_small_is_refused(data: Path, tiny: Path, tmp_path: Path) -> None:
    """Every file can be read, and none of the real ones can be used."""
    folder = tmp_path / "data"
    shutil.copytree(data.parent, folder)
    for number in range(0, 16, 2):
        image = cv2.imread(str(folder / f"{number}.png"))
        cv2.imwrite(str(folder / f"{number}.png"), image[:200, :200])
    with pytest.raises(DataError, match=r"split train, of .*global_texture can use: no real .*0\.png: 200×200 pixels"):
        run(options(folder / data.name, tiny, tmp_path))
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_copy_in_the_test_is_refused(data: Path, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data.parent, folder)
    shutil.copyfile(folder / "3.png", folder / "copy.png")
    with (folder / data.name).open("a") as file:
        file.write("copy.png,fake,noise,someone,test\n")
    with pytest.raises(DataError, match=r"3\.png \(train\) and copy\.png \(test\) are the same file"):
        run(options(folder / data.name, tiny, tmp_path))


def test_foreign_checkpoint_is_not_overwritten(data: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "dinov2_252.pth").write_bytes(b"another")
    with pytest.raises(RunError, match="not of this run"):
        run(options(data, tiny, tmp_path))
    assert (tmp_path / "weights" / "dinov2_252.pth").read_bytes() == b"another"


def test_loss_that_is_no_number(data: Path, tiny: Path, tmp_path: Path) -> None:
    overrides = ("optimiser.learning_rate=1e30", "optimiser.warmup_updates=0", "run.checkpoint_updates=1")
    chosen = options(data, tiny, tmp_path, *overrides)
    with pytest.raises(NotFiniteError, match=r"micro-batch \d+, images .*\.png") as told:
        run(chosen)
    assert (tmp_path / "run" / "state.pt").exists()
    good = tmp_path / "run" / "good_dinov2_252.pth"
    assert f"go on from them with --from {good}, and another --output" in str(told.value)
    update = state_module.read_state(tmp_path / "run").progress.updates  # type: ignore[union-attr]
    assert f"The weights after update {update} are good" in str(told.value)
    kept = torch.load(good, weights_only=True)
    assert all(torch.equal(kept[name], value) for name, value in learnt(tmp_path).items())
    assert start(read_recipe("global_texture", chosen.overrides), None, None, good)


def test_loss_that_is_no_number_before_any_state(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "gradient_norm", lambda network: torch.tensor(float("nan")))
    with pytest.raises(NotFiniteError, match="No weights had been saved before that: begin again, with another --outp"):
        run(options(data, tiny, tmp_path))
    assert not list((tmp_path / "run").glob("*.pth"))


def test_a_micro_batch_without_a_readable_image_is_no_end(data: Path, tiny: Path, tmp_path: Path) -> None:
    """Two files of twelve, in micro-batches of one; with a storage that is gone, the run does end."""
    folder = tmp_path / "data"
    shutil.copytree(data.parent, folder)
    for number in (0, 3):
        path = folder / f"{number}.png"
        path.write_bytes(path.read_bytes()[:2000])
    chosen = options(folder / data.name, tiny, tmp_path, "optimiser.batch=1", "optimiser.epochs=1")
    assert run(chosen) == "finished"
    skipped = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert sorted(line.partition(":")[0] for line in skipped) == ["0.png", "3.png"]
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made["left_out"] == 2
    assert sum(count for name, count in made["counts"].items() if name.startswith("train/")) == 10
    assert len([row for row in events(tmp_path) if row["event"] == "update"]) == 6


def test_a_storage_that_is_gone(data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data.parent, folder)
    undisturbed = Training._update

    def unplugged(self: Training, *arguments: Any) -> None:
        undisturbed(self, *arguments)
        shutil.rmtree(folder, ignore_errors=True)

    monkeypatch.setattr(Training, "_update", unplugged)
    monkeypatch.setattr(loop, "MOST_LOST", 6)
    with pytest.raises(DataError, match=r"none of 6 images in turn.*is the storage still there"):
        run(options(folder / data.name, tiny, tmp_path, "run.validations_per_epoch=0"))


def test_early_stop(data: Path, tiny: Path, tmp_path: Path) -> None:
    chosen = options(
        data, tiny, tmp_path, "run.early_stop=1", "optimiser.learning_rate=1e-12", "optimiser.learning_rate_floor=0.0"
    )
    assert run(chosen) == "early stop"
    assert (tmp_path / "weights" / "dinov2_252.pth").exists()


def test_fusion_in_two_phases(data: Path, tiny: Path, tmp_path: Path) -> None:
    phase1 = options(
        data,
        tiny,
        tmp_path,
        recipe="semantic_fusion_phase1",
        base=None,
        checkpoint=tiny / "dinov2_252.pth",
        clip=str(tiny / "dinov2_clip.pth"),
        output=tmp_path / "phase1",
    )
    assert run(phase1) == "finished"
    assert not (tmp_path / "weights").exists()
    state = torch.load(tmp_path / "phase1" / "state.pt", weights_only=True)
    assert {name.split(".")[1] for name in state["learnt"]} == {"fusion_head"}
    phase2 = options(
        data,
        tiny,
        tmp_path,
        recipe="semantic_fusion_phase2",
        base=None,
        checkpoint=tmp_path / "phase1" / "dinov2_clip.pth",
        output=tmp_path / "phase2",
    )
    assert run(phase2) == "finished"
    load_stream(SEMANTIC_FUSION, tmp_path / "weights" / "dinov2_clip.pth")
