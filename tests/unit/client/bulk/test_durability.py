"""What a commit promises: rows are on the disk before the journal says so, whole, and in this order."""

import os
import stat
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from deepfake_client import Verdict
from deepfake_client.bulk.output import journal as journals
from deepfake_client.bulk.output import resumable, rows
from deepfake_client.bulk.output.content import content_of, find_changed
from deepfake_client.bulk.output.journal import Journal, JournalError, key_of
from deepfake_client.bulk.output.resumable import ResumableOutput
from deepfake_client.bulk.output.rows import KINDS, OutputError, TextRows
from deepfake_client.images.items import Item

from tests.bulk import rows_of
from tests.waiting import PATIENCE


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to files and journal, in order."""
    happened: list[str] = []

    def watch(owner: Any, name: str, what: Any) -> None:
        original = getattr(owner, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            happened.append(what(*arguments) if callable(what) else what)
            return result

        monkeypatch.setattr(owner, name, wrapped)

    watch(os, "fsync", lambda number: "sync folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "sync file")
    watch(Journal, "commit", "commit")
    watch(Path, "rename", "rename")
    watch(Path, "replace", "replace")
    watch(TextRows, "_write", "write")
    return happened


@pytest.fixture
def one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are committed at the end alone, however long a busy machine takes to come there."""
    monkeypatch.setattr(resumable, "_COMMIT_SECONDS", PATIENCE)


def write(output: ResumableOutput, name: str, status: str = "ok") -> None:
    score = 0.5 if status == "ok" else None
    output.write(key_of(Item(name)), Verdict(name, status, score, score))


@pytest.mark.usefixtures("one_commit")
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_rows_are_on_the_disk_before_they_are_committed(tmp_path: Path, events: list[str], kind: str) -> None:
    with ResumableOutput(tmp_path / f"scores.{kind}", {}) as output:
        del events[:]
        write(output, "a.jpg")
        write(output, "b.jpg")
    assert events == ["write", "write", "sync file", "commit"]


def test_a_run_without_images_leaves_no_shard(tmp_path: Path) -> None:
    with ResumableOutput(tmp_path / "scores.parquet", {}) as output:
        assert output.earlier == 0
    assert not list((tmp_path / "scores.parquet").glob("*.parquet"))
    with ResumableOutput(tmp_path / "scores.parquet", {}) as output:
        write(output, "a.jpg")
    assert [row["path"] for row in rows_of(tmp_path / "scores.parquet")] == ["a.jpg"]


def test_a_new_output_is_on_the_disk_with_its_name(tmp_path: Path, events: list[str]) -> None:
    with ResumableOutput(tmp_path / "scores.csv", {}):
        assert events == ["commit", "write", "sync folder", "sync file", "commit"]


@pytest.mark.usefixtures("one_commit")
def test_a_shard_is_on_the_disk_with_its_name_before_it_is_committed(tmp_path: Path, events: list[str]) -> None:
    with ResumableOutput(tmp_path / "scores.parquet", {}) as output:
        write(output, "a.jpg")
        del events[:]
    assert events == ["sync file", "rename", "sync folder", "commit"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_staged_rows_are_on_the_disk_before_they_replace(tmp_path: Path, events: list[str], kind: str) -> None:
    path = tmp_path / f"scores.{kind}"
    with ResumableOutput(path, {}) as output:
        write(output, "a.jpg")
        write(output, "b.jpg", "empty_image")
    del events[:]
    with ResumableOutput(path, {}, retry_failed=True):
        pass
    replaced = events.index("replace")
    assert events[replaced - 2 : replaced + 3] == ["sync file", "commit", "replace", "sync folder", "commit"]
    assert [row["path"] for row in rows_of(path)] == ["a.jpg"]


def test_a_commit_outlasts_a_loss_of_power(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
    assert journal._db.execute("PRAGMA locking_mode").fetchone() == ("exclusive",)
    with pytest.raises(JournalError, match="another run is writing it"):
        Journal(tmp_path / "journal")
    journal.close()


def test_what_was_not_committed_is_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.add(b"a", True, 5)
    journal["name"] = {"some": ["thing"]}
    journal.commit()
    journal.add(b"b", False, 7)
    journal["name"] = None
    journal.close()
    journal = Journal(tmp_path / "journal")
    assert (journal.count(), journal.count(failed=True), list(journal.rows())) == (1, 0, [(1, 5)])
    assert journal["name"] == {"some": ["thing"]}
    assert journal["other"] is None
    assert (journal.has(b"a"), journal.has(b"a"), journal.has(b"b")) == (True, False, False)
    journal.check()
    journal.close()


def test_failed_images_are_forgotten_with_their_waiting_rows(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for n, ok in enumerate((True, False, True)):
        journal.add(b"%d" % n, ok, n)
        journal.wait({"n": n}, ok)
    assert (journal.count(failed=True), journal.count_waiting()) == (1, 3)
    journal.forget_failed()
    assert list(journal.rows()) == [(1, 0), (1, 2)]
    assert list(journal.waiting(10)) == [[{"n": 0}, {"n": 2}]]
    assert list(journal.waiting(1)) == [[{"n": 0}], [{"n": 2}]]
    assert (journal.has(b"0"), journal.has(b"1")) == (True, False)
    for ok in (True, False, True):  # an image that is listed more than once
        journal.add(b"twice", ok, 3)
    journal.forget_failed()
    assert [journal.has(b"twice") for _ in range(3)] == [True, True, False]
    journal.commit()
    journal.check()
    journal.end_waiting()
    assert journal.count_waiting() == 0
    journal.clear()
    assert (journal.count(), journal["format"], journal.has(b"2")) == (0, None, False)
    journal.close()


def test_keys_tell_names_and_boxes_apart() -> None:
    items = [Item("a"), Item("b"), Item("a", box=(1.0, 2.0, 3.0, 4.0)), Item("a", box=(1.0, 2.0, 3.0, 5.0)), Item(None)]
    assert len({key_of(item) for item in items}) == len(items)
    assert key_of(Item("a", data=b"x")) == key_of(Item("a"))
    assert len(key_of(Item("\udce9.jpg"))) == 16


class ShortWrites:
    """A file on a disk that takes a few bytes at a time."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return int(self._file.write(data[:7]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_short_writes_make_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with ResumableOutput(path, {}) as output:
        output._rows._file = ShortWrites(output._rows._file)  # type: ignore[attr-defined]
        for name in ("a.jpg", "ä" * 50 + ".jpg"):
            write(output, name)
    assert [row["path"] for row in rows_of(path)] == ["a.jpg", "ä" * 50 + ".jpg"]
    with ResumableOutput(path, {}) as output:  # and the journal knows them
        assert output.earlier == 2


def test_commits_come_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(resumable.time, "monotonic", lambda: now[0])
    with ResumableOutput(tmp_path / "scores.jsonl", {}) as output:
        del events[:]
        for seconds in (0.5, 0.4, 0.2, 0.5):
            now[0] += seconds
            write(output, "a.jpg")
        assert events.count("commit") == 1
        assert events[:5] == ["write", "write", "write", "sync file", "commit"]


@pytest.mark.parametrize("before_it", [True, False])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_row_that_was_written_by_half_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, before_it: bool
) -> None:
    path = tmp_path / f"scores{kind}"

    def full(*_: Any) -> int:
        raise OSError("the disk is full")

    with ResumableOutput(path, {}) as output:
        write(output, "a.jpg")
        output._commit()
        with monkeypatch.context() as patch:
            patch.setattr(*((type(output._rows), "append") if before_it else (Journal, "add")), full)
            with pytest.raises(OSError, match="full"):
                write(output, "b.jpg")
    with ResumableOutput(path, {}) as output:
        assert output.earlier == 1
        assert output.has(key_of(Item("a.jpg")))
        assert not output.has(key_of(Item("a.jpg")))
        assert not output.has(key_of(Item("b.jpg")))
        write(output, "b.jpg")
    assert [row["path"] for row in rows_of(path)] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("kind", list(KINDS))
def test_another_run_is_refused_and_names_what_differs(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"scores{kind}"
    with ResumableOutput(path, {"weights": 1, "inputs": ["a"]}) as output:
        write(output, "a.jpg")
        write(output, "b.jpg", "empty_image")
        assert output.count_failed() == 1
    with pytest.raises(OutputError, match="of a run with other weights and inputs"):
        ResumableOutput(path, {"weights": 2, "inputs": ["b"]})
    with pytest.raises(OutputError, match="of a run with other framing"):  # of which the first did not say anything
        ResumableOutput(path, {"weights": 1, "inputs": ["a"], "framing": "face"})
    with ResumableOutput(path, {"weights": 2}, overwrite=True) as output:
        assert output.earlier == 0
    assert rows_of(path) == []


def test_a_shard_that_was_half_done_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.parquet"
    with ResumableOutput(path, {}) as output:
        write(output, "a.jpg")
    monkeypatch.setattr(rows, "SHARD_ROWS", 10)
    with ResumableOutput(path, {}) as output:
        write(output, "b.jpg")
        output._commit()
        (path / "part-00001.parquet").write_bytes(b"renamed, and killed before the commit")
        output._half_done = True  # as after a kill
    with ResumableOutput(path, {}) as output:
        assert output.earlier == 2
    assert [row["path"] for row in rows_of(path)] == ["a.jpg", "b.jpg"]
    assert journals.FORMAT == 2


def test_a_shard_is_full_with_its_last_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.parquet"
    monkeypatch.setattr(rows, "SHARD_ROWS", 2)
    with ResumableOutput(path, {}) as output:
        for name, shards in (("a.jpg", 0), ("b.jpg", 1), ("c.jpg", 1)):
            write(output, name)
            output._commit()
            assert len(list(path.glob("part-*.parquet"))) == shards


def test_what_a_journal_keeps_of_a_file_is_known_to_other_releases(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"abcdef")
    whole, first = blake2b(b"abcdef", digest_size=16).hexdigest(), blake2b(b"abc", digest_size=16).hexdigest()
    assert content_of(path).known == (6, whole)
    assert content_of(path, 3).known == (3, first)
    assert content_of(path, 0).known == (0, blake2b(digest_size=16).hexdigest())
    assert find_changed(tmp_path, {"rows": (6, whole)}, may_have_grown=False) is None
    assert find_changed(tmp_path, {"rows": (3, first)}, may_have_grown=True) is None
    assert find_changed(tmp_path, {"rows": (3, first)}, may_have_grown=False) == (
        "rows has 6 bytes where its journal says 3"
    )
    assert find_changed(tmp_path, {"rows": (7, whole)}, may_have_grown=True) == (
        "rows has 6 bytes where its journal says 7"
    )
    assert find_changed(tmp_path, {"rows": (3, whole)}, may_have_grown=True) == (
        "rows does not hold what its journal says"
    )
    assert find_changed(tmp_path, {"rows": (6, whole), "more": (0, whole)}, may_have_grown=True) == "more is gone"


def test_a_journal_that_is_cleared_forgets_contents_too_and_one_without_any_is_as_before_there_were_some(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal")
    journal.commit()
    assert set(journal["digests"]) == {"value", "done", "waiting"}
    journal.keep(b"content", Verdict("a", "ok", 0.5, 0.5))
    journal.commit()
    assert set(journal["digests"]) == {"value", "done", "waiting", "content"}
    journal.wait({"path": "a"}, True)
    journal.clear()
    assert journal.known(b"content") is None
    assert journal.count_waiting() == 0, "rows of the run before would be in the next one's shards"
    journal.commit()
    journal.check()
    journal.close()


def test_a_journal_whose_pages_do_not_fit_together_is_damaged(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").close()
    data = bytearray((tmp_path / "journal").read_bytes())
    data[36:40] = (5).to_bytes(4, "big")  # SQLite's count of free pages, of which there are none
    (tmp_path / "journal").write_bytes(data)
    with pytest.raises(JournalError, match="is damaged"):
        Journal(tmp_path / "journal")


@pytest.mark.usefixtures("one_commit")
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_finished_output_may_grow_again_once_a_run_goes_on(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"scores.{kind}"
    with ResumableOutput(path, {}) as output:
        write(output, "a.jpg")
    with ResumableOutput(path, {}) as output:
        write(output, "b.jpg")
        output._half_done = True  # as after a kill: the row is in the file, and not committed
    with ResumableOutput(path, {}) as output:
        assert output.earlier == 1
        write(output, "b.jpg")
    assert [row["path"] for row in rows_of(path)] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("kind", list(KINDS))
def test_where_none_failed_nothing_is_replaced(tmp_path: Path, events: list[str], kind: str) -> None:
    for names in ("ab", "c"):
        with ResumableOutput(tmp_path / f"scores{kind}", {}, retry_failed=True) as output:
            for name in names:
                write(output, name)
    assert "replace" not in events


def test_of_shards_only_those_with_failures_are_replaced(tmp_path: Path, events: list[str]) -> None:
    path = tmp_path / "scores.parquet"
    for name, status in (("a.jpg", "ok"), ("b.jpg", "empty_image"), ("c.jpg", "ok")):
        with ResumableOutput(path, {}) as output:
            write(output, name, status)
    with ResumableOutput(path, {}, retry_failed=True) as output:
        assert output.earlier == 2
    assert events.count("replace") == 1
    assert [row["path"] for row in rows_of(path)] == ["a.jpg", "c.jpg"]
    assert not list(path.glob("_staged*"))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_what_an_attempt_has_staged_counts_only_as_its_journal_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, stage = tmp_path / f"scores.{kind}", tmp_path / f"scores.{kind}.staged"
    with ResumableOutput(path, {}) as output:
        write(output, "a.jpg")
        write(output, "b.jpg", "empty_image")
    stage.write_text("from an attempt that was not committed")
    with ResumableOutput(path, {}):
        assert not stage.exists()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            ResumableOutput(path, {}, retry_failed=True)
    staged = stage.read_bytes()
    stage.write_bytes(staged[:-1] + b" ")
    with pytest.raises(OutputError, match="staged is not what its journal says"):
        ResumableOutput(path, {})
    stage.write_bytes(staged)
    with ResumableOutput(path, {}) as output:
        assert output.earlier == 1
    assert [row["path"] for row in rows_of(path)] == ["a.jpg"]


def test_a_shard_that_was_half_done_is_not_there_beside_the_rows_that_wait(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with ResumableOutput(path, {}) as output:
        write(output, "a.jpg")
        output._commit()
        (path / "part-00000.parquet").write_bytes(b"renamed, and killed before the commit")
        output._half_done = True
    with ResumableOutput(path, {}):
        assert not list(path.glob("*.parquet"))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_what_was_staged_after_a_replacement_counts_for_nothing_either(tmp_path: Path, kind: str) -> None:
    path, stage = tmp_path / f"scores.{kind}", tmp_path / f"scores.{kind}.staged"
    with ResumableOutput(path, {}) as output:
        write(output, "a.jpg")
        write(output, "b.jpg", "empty_image")
    with ResumableOutput(path, {}, retry_failed=True) as output:
        write(output, "b.jpg", "empty_image")
    stage.write_bytes(b"by half, and killed")
    with ResumableOutput(path, {}) as output:
        assert output.earlier == 2
    assert not stage.exists()
    assert [row["path"] for row in rows_of(path)] == ["a.jpg", "b.jpg"]
