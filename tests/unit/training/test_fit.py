"""A whole run at the smallest size: what it leaves, how it goes on, and what stops it."""

import io
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from rich.console import Console

from ensemble.streams import GLOBAL_TEXTURE, SEMANTIC_FUSION
from networks import load_stream
from tests.unit.training.conftest import SMALL
from training import metrics
from training.bases import start
from training.errors import DataError, NotFiniteError, RunError
from training.recipe import read_recipe
from training.run import board, loop, record
from training.run import state as state_module
from training.run.begin import alone_in
from training.run.fit import Options, fit
from training.run.journal import Journal
from training.run.loop import Training


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


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    """The card's intervals would take most of the time of a run this small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def straight(data: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed: two epochs of six micro-batches, three updates each."""
    folder = tmp_path_factory.mktemp("straight")
    assert run(options(data, tiny, folder)) == "finished"
    return folder


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


@pytest.mark.parametrize("after", [1, 3, 4])
def test_goes_on_bit_for_bit_after_a_kill(
    straight: Path, data: Path, tiny: Path, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is gone in the middle of an update; the last checkpoint is of two updates before."""
    chosen = options(data, tiny, tmp_path, "run.checkpoint_updates=1")
    undisturbed = Training._update
    made = 0

    def dies(self: Training, *arguments: Any) -> None:
        nonlocal made
        if made == after:
            raise MemoryError("as if killed")
        undisturbed(self, *arguments)
        made += 1

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_update", dies)
        with pytest.raises(MemoryError):
            run(chosen)
    assert run(chosen) == "finished"
    expected, found = learnt(straight), learnt(tmp_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert events(tmp_path) == events(straight)


@pytest.mark.parametrize("update", [2, 3, 6])
def test_sigterm_saves_first(
    straight: Path, data: Path, tiny: Path, tmp_path: Path, update: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 3 and 6 updates a validation is due: it is not waited for, and made when the run goes on."""
    undisturbed = Training._update

    def terminated(self: Training, *arguments: Any) -> None:
        undisturbed(self, *arguments)
        if self.progress.updates == update:
            os.kill(os.getpid(), signal.SIGTERM)

    chosen = options(data, tiny, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_update", terminated)
        assert run(chosen) == "SIGTERM"
    assert not (tmp_path / "weights").exists()
    assert len([row for row in events(tmp_path) if row["event"] == "update"]) == update
    assert run(chosen) == "finished"
    assert all(torch.equal(value, learnt(tmp_path)[name]) for name, value in learnt(straight).items())
    assert events(tmp_path) == events(straight)


def stops_at_once(self: Training, journal: Journal | None) -> str:
    return "SIGTERM"


def test_killed_before_the_first_update_it_goes_on_all_the_same(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a state of no update, and where the kill came before that was written."""

    def dies(*arguments: Any) -> None:
        raise MemoryError("as if killed")

    for name in ("save", "_epoch"):
        with monkeypatch.context() as patch:
            patch.setattr(Training, name, dies)
            with pytest.raises(MemoryError):
                run(options(data, tiny, tmp_path))
        assert (tmp_path / "run" / "run.json").exists()
        assert (tmp_path / "run" / "state.pt").exists() == (name == "_epoch")
        with pytest.raises(RunError, match=r"another recipe .*epochs = 1"):
            run(options(data, tiny, tmp_path, "optimiser.epochs=1"))
    monkeypatch.setattr(Training, "_epoch", stops_at_once)
    assert run(options(data, tiny, tmp_path)) == "SIGTERM"


def test_another_start_or_other_contents_do_not_go_on(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the same names, sizes and lengths; the card would say what the run was not made of."""
    monkeypatch.setattr(Training, "_epoch", stops_at_once)
    folder = tmp_path / "data"
    shutil.copytree(data.parent, folder)
    chosen = options(folder / data.name, tiny, tmp_path)
    assert run(chosen) == "SIGTERM"
    other = torch.load(tiny / "dinov2_252.pth", weights_only=True)
    name = next(name for name in other if "lora_" not in name and "layer.0" in name and name.endswith("weight"))
    other[name] = other[name] + 1
    torch.save(other, tmp_path / "other.pth")
    for changed in ({"base": str(tmp_path / "other.pth")}, {"base": None, "checkpoint": tiny / "dinov2_252.pth"}):
        with pytest.raises(
            RunError, match=r"a run with another start \(what --base, --clip or --from hold\): it cannot"
        ):
            run(options(folder / data.name, tiny, tmp_path, **changed))
    picture = bytearray((folder / "0.png").read_bytes())
    picture[-20] ^= 1
    (folder / "0.png").write_bytes(picture)
    with pytest.raises(RunError, match=r"a run with another data set \(its rows, or what its images hold\)"):
        run(chosen)


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


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(28, "No space left on device")


def fills(journal: Journal) -> None:
    journal._metrics.close()
    journal._metrics = io.FileIO("/dev/full", "wb")


def refuses(journal: Journal) -> None:
    """No file can grow beyond what a line takes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize(("happens", "kept"), [(fills, 2), (refuses, 0)])
def test_a_full_disk_costs_no_state(
    straight: Path,
    data: Path,
    tiny: Path,
    tmp_path: Path,
    happens: Callable[[Journal], None],
    kept: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where only the metrics find no room, what was learnt is saved first; the same command goes on to the same end."""
    undisturbed = Training._update

    def update(self: Training, micros: Any, journal: Any, began: float) -> None:
        if self.progress.updates == 1:
            happens(journal)
        undisturbed(self, micros, journal, began)

    chosen = options(data, tiny, tmp_path, "run.checkpoint_updates=2")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_update", update)
        try:
            with pytest.raises(RunError, match=r"cannot be written: .*make room") as told:
                run(chosen)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "run" in str(told.value)
    state = state_module.read_state(tmp_path / "run")
    assert state is not None
    assert state.progress.updates == kept
    if kept:
        assert run(chosen) == "finished"
        assert all(torch.equal(value, learnt(tmp_path)[name]) for name, value in learnt(straight).items())
        assert events(tmp_path) == events(straight)


def test_a_disk_that_is_full_at_the_end(
    straight: Path, data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard is done without; what cannot be published is told in one line."""
    shutil.copytree(straight / "run", tmp_path / "run")
    chosen = options(data, tiny, tmp_path)
    monkeypatch.setattr(board, "RecordWriter", full)
    monkeypatch.setattr(record.shutil, "copyfile", full)
    with pytest.raises(RunError, match="No space left on device; make room or mend it, and give the same command"):
        run(chosen)
    assert (tmp_path / "run" / "dinov2_252.pth").exists()


def test_another_recipe_does_not_go_on(straight: Path, data: Path, tiny: Path) -> None:
    with pytest.raises(RunError, match="learning_rate"):
        run(options(data, tiny, straight, "optimiser.learning_rate=1e-4"))


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


def test_full_disk_keeps_the_last_state(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    real_save = torch.save

    def save(content: Any, file: Any) -> None:
        nonlocal written
        if isinstance(content, dict) and "identity" in content:
            written += 1
            if written == 3:  # the first is of no update
                raise OSError(28, "No space left on device")
        real_save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(state_module.torch, "save", save)
        with pytest.raises(RunError, match="No space left"):
            run(options(data, tiny, tmp_path, "run.checkpoint_updates=1"))
    saved = state_module.read_state(tmp_path / "run")
    assert saved is not None
    assert saved.progress.updates == 1
    assert not list((tmp_path / "run").glob(".*partial"))
    assert run(options(data, tiny, tmp_path, "run.checkpoint_updates=1")) == "finished"


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
