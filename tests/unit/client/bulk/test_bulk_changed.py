"""Outputs and journals that something else changed between two runs: refused, and left as they are."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from deepfake_client.bulk.output import content, resumable, rows
from deepfake_client.bulk.output.journal import FORMAT, Journal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bulk import KINDS, make_images, rows_of, score
from tests.fakes.triton import FakeTriton

Edit = Callable[[Path], None]


def snapshot(output: Path) -> dict[str, bytes]:
    """The bytes of an output and its journal by the name of their files."""
    files = sorted(output.iterdir()) if output.is_dir() else [output, output.with_name(output.name + ".journal")]
    return {file.name: file.read_bytes() for file in files if file.exists()}


def sorted_lines(path: Path) -> None:
    path.write_text("".join(sorted(path.read_text().splitlines(keepends=True), reverse=True)))


def with_crlf(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def with_another_score(path: Path) -> None:
    before = path.read_bytes()
    after = before.replace(b"0.1", b"0.9", 1)
    assert after != before
    path.write_bytes(after)


def with_another_row(path: Path) -> None:
    with path.open("ab") as file:
        file.write(path.read_bytes().splitlines(keepends=True)[-1])


def without_the_last_row(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


EDITS = [sorted_lines, with_crlf, with_another_score, with_another_row, without_the_last_row]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("option", [[], ["--retry-failed"]])
def test_a_text_that_was_edited_is_refused_and_left_as_it_is(
    server: FakeTriton, tmp_path: Path, kind: str, edit: Edit, option: list[str]
) -> None:
    paths = make_images(tmp_path / "x", 4)
    paths[3].write_bytes(b"status:unreadable_image")
    output = tmp_path / f"scores.{kind}"
    assert score(server.url, tmp_path / "x", "-o", output).exit_code == 1
    edit(output)
    before = snapshot(output)
    result = score(server.url, tmp_path / "x", "-o", output, *option)
    assert result.exit_code == 2
    assert "something else has changed it" in told(result)
    assert snapshot(output)[output.name] == before[output.name]
    assert score(server.url, tmp_path / "x", "-o", output, "--overwrite").exit_code == 1
    assert len(rows_of(output)) == 4


def rewritten(output: Path) -> None:
    shard = output / "part-00000.parquet"
    pq.write_table(pq.read_table(shard).sort_by([("score", "descending")]), shard)


def flipped(output: Path) -> None:
    shard = output / "part-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)


def gone(output: Path) -> None:
    (output / "part-00001.parquet").unlink()


def added(output: Path) -> None:
    shutil.copy(output / "part-00000.parquet", output / "part-00002.parquet")


@pytest.mark.parametrize("edit", [rewritten, flipped, gone, added])
def test_shards_that_were_edited_are_refused_and_left_as_they_are(
    server: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Edit
) -> None:
    monkeypatch.setattr(rows, "SHARD_ROWS", 4)
    monkeypatch.setattr(resumable, "_COMMIT_SECONDS", 0)
    make_images(tmp_path / "x", 8)
    output = tmp_path / "scores.parquet"
    assert score(server.url, tmp_path / "x", "-o", output).exit_code == 0
    edit(output)
    before = {name: data for name, data in snapshot(output).items() if name != "_journal"}
    result = score(server.url, tmp_path / "x", "-o", output)
    assert result.exit_code == 2
    assert "something else has changed it" in told(result) or "its journal does not know" in told(result)
    assert {name: data for name, data in snapshot(output).items() if name != "_journal"} == before


def told(result: Result) -> str:
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return " ".join(result.stderr.split())


def change(output: Path, statement: str, *values: Any) -> None:
    """Changes a journal behind the back of its program."""
    path = output / "_journal" if output.is_dir() else output.with_name(output.name + ".journal")
    with sqlite3.connect(path) as db:
        db.execute(statement, values)
    db.close()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE done SET key = x'00' WHERE rowid = 1", "is damaged"),
        ("UPDATE done SET size = size + 1 WHERE rowid = 1", "is damaged"),
        ("UPDATE done SET ok = 1 - ok WHERE rowid = 2", "is damaged"),
        ("DELETE FROM done WHERE rowid = 3", "is damaged"),
        ("DELETE FROM value WHERE name = 'content'", "is damaged"),
        ("UPDATE value SET json = '{' WHERE name = 'run'", "is damaged"),
        ("UPDATE value SET json = x'ff' WHERE name = 'format'", "is damaged"),
        ("DROP TABLE waiting", None),  # which is made again, and held nothing
        ("ALTER TABLE done RENAME COLUMN key TO other", "is damaged"),
        ("UPDATE value SET json = '1' WHERE name = 'format'", "is of format 1, and this client writes"),
        ("DELETE FROM value WHERE name = 'format'", "is of format 1, and this client writes"),
        ("DELETE FROM value WHERE name = 'digests'", "is damaged"),
        ("DELETE FROM value WHERE name = 'run'", "is damaged"),
        ("UPDATE value SET json = 'null' WHERE name = 'run'", "is damaged"),
        ("DELETE FROM value", "is damaged"),
        ("DROP TABLE value", "is damaged"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_journal_that_was_changed_is_an_error(
    server: FakeTriton, tmp_path: Path, kind: str, statement: str, reason: str | None
) -> None:
    make_images(tmp_path / "x", 4)
    output = tmp_path / f"scores.{kind}"
    assert score(server.url, tmp_path / "x", "-o", output).exit_code == 0
    change(output, statement)
    before = rows_of(output)
    result = score(server.url, tmp_path / "x", "-o", output)
    assert result.exit_code == (0 if reason is None else 2)
    assert (reason or "") in told(result)
    assert rows_of(output) == before


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.csv"])
def test_an_empty_journal_lets_no_run_replace_what_is_there(server: FakeTriton, tmp_path: Path, name: str) -> None:
    make_images(tmp_path / "x", 2)
    output = tmp_path / name
    output.write_text("precious\n" * 50)
    (tmp_path / f"{name}.journal").touch()
    result = score(server.url, tmp_path / "x", "-o", output)
    assert result.exit_code == 2
    assert "is damaged" in told(result)
    assert output.read_text() == "precious\n" * 50


def test_an_output_that_was_to_be_overwritten_is_there_until_that_is_said_again(
    server: FakeTriton, tmp_path: Path
) -> None:
    """The run that was to overwrite it was stopped between forgetting its entries and emptying the file."""
    make_images(tmp_path / "x", 2)
    output = tmp_path / "scores.jsonl"
    assert score(server.url, tmp_path / "x", "-o", output).exit_code == 0
    before = output.read_bytes()
    journal = Journal(tmp_path / "scores.jsonl.journal")
    journal.clear()
    journal.commit()
    journal.close()
    result = score(server.url, tmp_path / "x", "-o", output)
    assert (result.exit_code, output.read_bytes()) == (2, before)
    assert "begin anew with --overwrite" in told(result)


def test_an_empty_journal_lets_no_run_replace_shards(server: FakeTriton, tmp_path: Path) -> None:
    make_images(tmp_path / "x", 2)
    output = tmp_path / "scores.parquet"
    assert score(server.url, tmp_path / "x", "-o", output).exit_code == 0
    (output / "_journal").write_bytes(b"")
    before = (output / "part-00000.parquet").read_bytes()
    result = score(server.url, tmp_path / "x", "-o", output)
    assert result.exit_code == 2
    assert "is damaged" in told(result)
    assert (output / "part-00000.parquet").read_bytes() == before


KILL_BEFORE_THE_FIRST_COMMIT = """
import os, signal, sys
from deepfake_client.bulk.output.journal import Journal
from deepfake_client.cli import main
commit = Journal.commit
def deadly(self):
    if self["run"] is not None or sys.argv[1] == "0": os.kill(os.getpid(), signal.SIGKILL)
    commit(self)
Journal.commit = deadly
main(["score", *sys.argv[2:]])
"""


@pytest.mark.parametrize("moment", ["0", "1"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_killed_before_its_first_commit_begins_anew(
    server: FakeTriton, tmp_path: Path, kind: str, moment: str
) -> None:
    paths = make_images(tmp_path / "x", 3)
    output = tmp_path / f"scores.{kind}"
    words = [str(tmp_path / "x"), "-o", str(output), "--url", server.url]
    killed = subprocess.run([sys.executable, "-c", KILL_BEFORE_THE_FIRST_COMMIT, moment, *words], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert score(server.url, tmp_path / "x", "-o", output).exit_code == 0
    assert Counter(row["path"] for row in rows_of(output)) == Counter(map(str, paths))


def test_rows_that_wait_for_their_shard_are_known(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.wait({"path": "a.jpg"}, True)
    journal.commit()
    journal.close()
    with sqlite3.connect(tmp_path / "journal") as db:
        db.execute("""UPDATE waiting SET row = '{"path": "b.jpg"}'""")
    db.close()
    journal = Journal(tmp_path / "journal")
    with pytest.raises(Exception, match="is damaged"):
        journal.check()
    journal.close()


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_journal_damaged_anywhere_is_an_error_or_does_no_harm(
    server: FakeTriton, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    make_images(folder / "x", 6)
    output = folder / "scores.jsonl"
    assert score(server.url, folder / "x", "-o", output).exit_code == 0
    journal = output.with_name("scores.jsonl.journal")
    content = bytearray(journal.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    journal.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    before = output.read_bytes()
    result = score(server.url, folder / "x", "-o", output)
    told(result)
    assert result.exit_code in (0, 2, 4)
    if result.exit_code == 0:
        assert Counter(row["path"] for row in rows_of(output)) == Counter(
            str(path) for path in sorted((folder / "x").iterdir())
        )
    else:
        assert output.read_bytes() == before


def test_the_journal_says_its_format(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.commit()
    journal.close()
    with sqlite3.connect(tmp_path / "journal") as db:
        assert db.execute("SELECT json FROM value WHERE name = 'format'").fetchone() == (json.dumps(FORMAT),)
    db.close()


@pytest.mark.parametrize("size", [0, 1, content._PIECE, content._PIECE + 1])
def test_content_is_the_same_however_it_is_read(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data + b"tail")
    running = content.Content()
    for start in range(0, size, 1000):
        running.add(data[start : start + 1000])
    assert content.content_of(tmp_path / "file", size).known == running.known == (size, running.known[1])
    assert content.content_of(tmp_path / "file").known != running.known


KILL_BEFORE_A_SHARD = """
import os, signal, sys
from deepfake_client.bulk.output import resumable, rows
from deepfake_client.cli import main
resumable._COMMIT_SECONDS = 0
write = resumable.ResumableOutput.write
written = 0
def deadly(self, key, verdict):
    global written
    write(self, key, verdict)
    written += 1
    if written == 10: os.kill(os.getpid(), signal.SIGKILL)
resumable.ResumableOutput.write = deadly
main(["score", *sys.argv[1:]])
"""


def test_failed_rows_that_wait_for_their_shard_are_retried_once(server: FakeTriton, tmp_path: Path) -> None:
    paths = make_images(tmp_path / "x", 12)
    paths[2].write_bytes(b"status:unreadable_image")
    output = tmp_path / "scores.parquet"
    command = [sys.executable, "-c", KILL_BEFORE_A_SHARD, str(tmp_path / "x"), "-o", str(output), "--url", server.url]
    assert subprocess.run(command, capture_output=True).returncode == -9
    assert not list(output.glob("part-*"))  # all its rows wait in the journal
    paths[2].write_bytes(b"0.2")
    assert score(server.url, tmp_path / "x", "-o", output, "--retry-failed").exit_code == 0
    assert Counter(row["path"] for row in rows_of(output)) == Counter(map(str, paths))
    assert {row["status"] for row in rows_of(output)} == {"ok"}
