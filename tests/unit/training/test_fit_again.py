"""A run that was cut off: killed, told to end, or out of disk; and how the same command goes on."""

import io
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.training.fits import events, learnt, options, run
from training.errors import RunError
from training.run import board, record
from training.run import state as state_module
from training.run.journal import Journal
from training.run.loop import Training

pytestmark = pytest.mark.usefixtures("few_resamples")


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


def test_another_recipe_does_not_go_on(straight: Path, data: Path, tiny: Path) -> None:
    with pytest.raises(RunError, match="learning_rate"):
        run(options(data, tiny, straight, "optimiser.learning_rate=1e-4"))
