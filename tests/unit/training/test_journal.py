"""What a run says while it goes: lines of metrics, of images left out, for TensorBoard and for people."""

import io
import json
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
from rich.console import Console

from training.errors import RunError
from training.run import journal as journal_module
from training.run.journal import ESTIMATE_AFTER, Journal
from training.run.state import Progress

UPDATE = {"loss": 0.5, "learning_rate": 1e-3, "images_per_second": 8.0}


class Board:
    """Stands for TensorBoard's file."""

    made: ClassVar["list[Board]"] = []

    def __init__(self, folder: Path, done: int) -> None:
        self.folder, self.done, self.open = folder, done, True
        self.drawn: list[tuple[int, dict[str, float]]] = []
        self.full = False
        Board.made.append(self)

    def add(self, step: int, values: dict[str, float]) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.drawn.append((step, values))

    def close(self) -> None:
        self.open = False


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> list[Board]:
    monkeypatch.setattr(journal_module, "Board", Board)
    Board.made.clear()
    return Board.made


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=40)


def said(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_update_has_a_line_and_its_point_on_the_board(tmp_path: Path, boards: list[Board], console: Console) -> None:
    with Journal(tmp_path, 10, Progress(updates=3), console) as journal:
        journal.update(4, **UPDATE)
        assert rows(tmp_path) == [{"event": "update", "update": 4, **UPDATE}]  # at once
        assert journal.flush() == ((tmp_path / "metrics.jsonl").stat().st_size, "")
    (board,) = boards
    assert (board.folder, board.done, board.open) == (tmp_path / "tensorboard", 3, False)
    assert board.drawn == [(4, {f"training/{name}": value for name, value in UPDATE.items()})]
    assert said(console) == []


def test_a_validation_is_told_by_its_unrounded_auc(tmp_path: Path, boards: list[Board], console: Console) -> None:
    measures = {
        "clean": {"all": {"value": 0.8125, "rounded": 0.7}, "a": {"value": 0.75, "rounded": 0.6}},
        "degraded": {"all": {"value": 0.6875, "rounded": 0.5}},
    }
    with Journal(tmp_path, 10, Progress(), console) as journal:
        journal.validation(6, measures)
        journal.validation(7, {"clean": {}, "degraded": {}})
    assert rows(tmp_path)[0] == {"event": "validation", "update": 6, **measures}
    assert boards[0].drawn[0] == (
        6,
        {"validation/clean/all": 0.8125, "validation/clean/a": 0.75, "validation/degraded/all": 0.6875},
    )
    assert said(console) == [
        "update 6: validation AUC clean 0.812, degraded 0.688",  # on one line, though that is longer than the screen
        "update 7: validation AUC of one class only: none",
    ]


def test_what_belongs_to_no_state_is_cut_off_and_what_found_no_room_is_written(
    tmp_path: Path, boards: list[Board], console: Console
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kept": 1}\n{"of an update that will be made again": 2}\n')
    with Journal(tmp_path, 10, Progress(logged=12, unlogged='{"late": 3}\n'), console) as journal:
        assert rows(tmp_path) == [{"kept": 1}, {"late": 3}]
        assert journal.flush() == (24, "")


def test_of_metrics_that_were_removed_no_hole_is_left(tmp_path: Path, boards: list[Board], console: Console) -> None:
    with Journal(tmp_path, 10, Progress(updates=3, logged=500), console) as journal:
        journal.update(4, **UPDATE)
        assert rows(tmp_path) == [{"event": "update", "update": 4, **UPDATE}]
        assert journal.flush() == ((tmp_path / "metrics.jsonl").stat().st_size, "")


def test_a_short_write_goes_on_and_a_full_disk_keeps_what_is_left(
    tmp_path: Path, boards: list[Board], console: Console
) -> None:
    class Disk(io.BytesIO):
        room = 30

        def write(self, data: Any) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            count = super().write(data[: min(7, self.room)])
            self.room -= count
            return count

    with Journal(tmp_path, 10, Progress(), console) as journal:
        journal._metrics.close()
        journal._metrics = disk = Disk()  # type: ignore[assignment]
        with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be written: .*give the same command again"):
            journal.update(1, **UPDATE)
        count, left = journal.flush()
        assert count == 30
        assert json.loads(disk.getvalue() + left.encode()) == {"event": "update", "update": 1, **UPDATE}
        assert left.endswith("\n")


def test_images_left_out_are_added_to_their_file(tmp_path: Path, boards: list[Board], console: Console) -> None:
    with Journal(tmp_path, 10, Progress(), console) as journal:
        journal.skipped([])
        assert not (tmp_path / "skipped.txt").exists()
        journal.skipped(["a.png: damaged", "ä.png: gone"])
        journal.skipped(["c.png: empty"])
        assert (tmp_path / "skipped.txt").read_text(encoding="utf-8") == "a.png: damaged\nä.png: gone\nc.png: empty\n"
        (tmp_path / "skipped.txt").unlink()
        (tmp_path / "skipped.txt").mkdir()
        with pytest.raises(RunError, match=r"skipped\.txt: cannot be written"):
            journal.skipped(["d.png: empty"])


def test_the_time_left_is_told_once_the_first_updates_are_made(
    tmp_path: Path, boards: list[Board], console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one, which warms up, does not count; nor do those before this start."""
    clock = iter([1000.0, 1000.0 + 2 * (ESTIMATE_AFTER - 1)])
    monkeypatch.setattr(journal_module.time, "monotonic", lambda: next(clock))
    with Journal(tmp_path, 100, Progress(updates=20), console) as journal:
        journal._bar = Mock()  # which reads the clock too
        for number in range(21, 30):
            journal.update(number, **UPDATE)
    assert said(console) == ["update 25: 2.00 s an update, about 0:02:30 left, validations apart"]
    assert ESTIMATE_AFTER == 5


def test_a_board_that_is_full_is_given_up_and_said(tmp_path: Path, boards: list[Board], console: Console) -> None:
    with Journal(tmp_path, 10, Progress(), console) as journal:
        boards[0].full = True
        journal.update(1, **UPDATE)
        journal.update(2, **UPDATE)
    assert len(rows(tmp_path)) == 2
    assert not boards[0].open
    assert len(said(console)) == 1
    assert "TensorBoard's file cannot be written" in said(console)[0]


def test_what_is_said_may_have_brackets(tmp_path: Path, boards: list[Board], console: Console) -> None:
    with Journal(tmp_path, 10, Progress(), console) as journal:
        journal.say("[red]a[/red].png [1]")
    assert said(console) == ["[red]a[/red].png [1]"]


def test_the_bar_begins_where_the_run_is(tmp_path: Path, boards: list[Board]) -> None:
    terminal = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Journal(tmp_path, 10, Progress(updates=3), terminal) as journal:
        (task,) = journal._bar.tasks
        assert (task.completed, task.total) == (3, 10)
        journal.update(4, **UPDATE)
        assert (task.completed, task.fields["state"]) == (4, "loss 0.5000  rate 1.00e-03  8.0 im/s")
