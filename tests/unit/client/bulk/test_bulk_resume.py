"""Runs of `deepfake-client score --output` that are stopped and go on: no row is lost and none is doubled."""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deepfake_client.bulk.output import rows as output_rows
from deepfake_client.bulk.output.journal import Journal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bulk import COMMAND, KINDS, hold_when, interrupt, make_images, rows_of, run_killed, score, stop_after
from tests.fakes.triton import FakeTriton, fail_times, hang, untrained
from tests.waiting import PATIENCE, wait_for


def brief(output: Path) -> list[tuple[str, str]]:
    return [(Path(row["path"]).name, str(row["score"])) for row in rows_of(output)]


def expected(paths: list[Path]) -> list[tuple[str, str]]:
    return [(path.name, f"{n % 10 / 10}") for n, path in enumerate(paths)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "order"), [("csv", []), ("jsonl", ["--unordered"]), ("parquet", ["--unordered"])])
def test_killed_again_and_again_no_row_is_lost_or_doubled(
    server: FakeTriton, tmp_path: Path, kind: str, order: list[str]
) -> None:
    chance = random.Random(f"{kind}{order}")
    server.fault = lambda request, context: hang(chance.uniform(0.03, 0.12))(request, context)
    paths = make_images(tmp_path / "x", 400)
    (tmp_path / "twice.txt").write_text("".join(f"{path}\n" for path in [*paths[:50], *paths[:50]]))
    output = tmp_path / f"scores.{kind}"
    options = ["--list", str(tmp_path / "twice.txt"), "--url", server.url, "--output", str(output), *order]
    command = [*COMMAND, str(tmp_path / "x"), "--batch-size", "4", "--in-flight", "2", *options]
    assert run_killed(command, chance, 4) >= 2
    all_rows = expected(paths) + 2 * expected(paths)[:50]
    assert Counter(brief(output)) == Counter(all_rows)
    if not order:
        assert brief(output) == all_rows


def test_run_that_goes_on_gives_the_same_file_to_the_byte(server: FakeTriton, tmp_path: Path) -> None:
    make_images(tmp_path / "x", 400)
    for kind in ("jsonl", "csv"):
        whole, pieces = tmp_path / f"whole.{kind}", tmp_path / f"pieces.{kind}"
        assert score(server.url, tmp_path / "x", "-o", whole).exit_code == 0
        command = [*COMMAND, str(tmp_path / "x"), "--in-flight", "2", "--url", server.url, "-o", str(pieces)]
        assert stop_after(server, pieces, 60, signal.SIGKILL, command) == -signal.SIGKILL
        assert stop_after(server, pieces, 200, signal.SIGINT, command) == 130
        assert 200 <= pieces.read_bytes().count(b"\n") < 400
        assert score(server.url, tmp_path / "x", "-o", pieces).exit_code == 0
        assert pieces.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_by_ctrl_c_every_row_is_in_the_output(server: FakeTriton, tmp_path: Path, kind: str) -> None:
    go_on = hold_when(server, lambda: sum(server.batches) >= 50)
    make_images(tmp_path / "x", 500)
    output = tmp_path / f"scores.{kind}"
    command = [*COMMAND, str(tmp_path / "x"), "--url", server.url, "-o", str(output)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: sum(server.batches) >= 50 or process.poll() is not None)
        interrupt(process)
        go_on.set()
        assert process.stderr is not None
        told = process.stderr.read()
        assert process.wait(PATIENCE) == 130
    assert "the same command goes on from here" in told
    assert len(rows_of(output)) == sum(server.batches) < 500


@pytest.mark.parametrize("kind", KINDS)
def test_second_ctrl_c_and_a_lost_server_lose_nothing(server: FakeTriton, tmp_path: Path, kind: str) -> None:
    paths = make_images(tmp_path / "x", 60)
    hold_when(server, lambda: len(server.batches) >= 5)
    output = tmp_path / f"scores.{kind}"
    command = [*COMMAND, str(tmp_path / "x"), "--url", server.url, "-o", str(output), "--batch-size", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(server.batches) >= 5 or process.poll() is not None)
        interrupt(process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        process.stderr.read()
        assert process.wait(PATIENCE) == 130
    rows = brief(output)
    assert rows == expected(paths)[: len(rows)]
    server.fault = fail_times(0, None)  # type: ignore[arg-type]
    assert score(server.url, tmp_path / "x", "-o", output).exit_code == 0
    assert brief(output) == expected(paths)


def test_finished_run_scores_what_is_new(server: FakeTriton, tmp_path: Path) -> None:
    paths = make_images(tmp_path / "x", 4)
    output = tmp_path / "scores.jsonl"
    score(server.url, tmp_path / "x", "-o", output)
    again = score(server.url, tmp_path / "x", "-o", output)
    assert (again.exit_code, sum(server.batches)) == (0, 4)
    assert "has 4 rows from before: going on" in again.stderr
    assert "no images found" not in again.stderr
    (tmp_path / "x" / "0.jpg").write_bytes(b"0.7")
    paths[0].unlink()
    assert score(server.url, tmp_path / "x", "-o", output).exit_code == 0
    assert brief(output) == [*expected(paths), ("0.jpg", "0.7")]


@pytest.mark.parametrize("kind", KINDS)
def test_overwrite_begins_anew(server: FakeTriton, tmp_path: Path, kind: str) -> None:
    paths = make_images(tmp_path / "x", 4)
    output = tmp_path / f"scores.{kind}"
    score(server.url, tmp_path / "x", "-o", output)
    assert score(server.url, *paths[:2], "-o", output, "--overwrite").exit_code == 0
    assert brief(output) == expected(paths)[:2]
    assert sum(server.batches) == 6


def test_link_stays_a_link(server: FakeTriton, tmp_path: Path) -> None:
    paths = make_images(tmp_path / "x", 4)
    paths[1].write_bytes(b"status:unreadable_image")
    (tmp_path / "disk").mkdir()
    output = tmp_path / "scores.csv"
    output.symlink_to(tmp_path / "disk" / "real.csv")
    for _ in range(2):
        assert score(server.url, tmp_path / "x", "-o", output, "--retry-failed").exit_code == 1
    assert output.is_symlink()
    assert len(rows_of(output)) == 4
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["real.csv", "real.csv.journal"]


def test_output_that_was_deleted_begins_anew(server: FakeTriton, tmp_path: Path) -> None:
    paths = make_images(tmp_path / "x", 4)
    output = tmp_path / "scores.csv"
    score(server.url, tmp_path / "x", "-o", output)
    output.unlink()
    assert score(server.url, tmp_path / "x", "-o", output).exit_code == 0
    assert brief(output) == expected(paths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["y"], "it holds rows of a run with other inputs; give another name, or --overwrite"),
        (["x", "--column", "file"], "with other columns"),
    ],
)
def test_another_run_is_refused(
    server: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(Path("x"), 4)
    make_images(Path("y"), 4)
    score(server.url, "x", "-o", "scores.csv")
    before = Path("scores.csv").read_bytes()
    result = score(server.url, *change, "-o", "scores.csv")
    assert result.exit_code == 2
    assert f"scores.csv: {message}" in " ".join(result.stderr.split()) or message in " ".join(result.stderr.split())
    assert Path("scores.csv").read_bytes() == before


def test_other_weights_are_refused(server: FakeTriton, tmp_path: Path) -> None:
    make_images(tmp_path / "x", 4)
    output = tmp_path / "scores.csv"
    score(server.url, tmp_path / "x", "-o", output)
    server.provenance = untrained()
    result = score(server.url, tmp_path / "x", "-o", output)
    assert (result.exit_code, "other weights" in result.stderr) == (2, True)


def test_weights_exported_again_are_the_same(server: FakeTriton, tmp_path: Path) -> None:
    paths = make_images(tmp_path / "x", 4)
    document = json.loads(untrained())
    for day, count in (("2026-01-01", 2), ("2026-01-02", 4)):
        server.provenance = json.dumps({**document, "created": day})
        (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths[:count]))
        assert score(server.url, "-l", tmp_path / "list.txt", "-o", tmp_path / "scores.csv").exit_code == 0
    assert brief(tmp_path / "scores.csv") == expected(paths)


def test_relative_paths_from_another_folder_are_refused(
    server: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scores.csv"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        paths = make_images(Path("x"), 3)
        result = score(server.url, "x", "-o", output)
    assert (result.exit_code, "other current folder" in result.stderr) == (2, True)
    assert score(server.url, *map(Path.absolute, paths), "-o", tmp_path / "all.csv").exit_code == 0
    monkeypatch.chdir(tmp_path)
    again = score(server.url, *(tmp_path / "b" / path for path in paths), "-o", tmp_path / "all.csv")
    assert again.exit_code == 0
    assert "every image has its row from before" in again.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_output_of_somebody_else_is_left_alone(server: FakeTriton, tmp_path: Path, kind: str) -> None:
    paths = make_images(tmp_path / "x", 2)
    output = tmp_path / f"scores.{kind}"
    if kind == "parquet":
        output.mkdir()
        (output / "part-00000.parquet").write_text("mine")
    else:
        output.write_text("mine")
    result = score(server.url, tmp_path / "x", "-o", output)
    assert result.exit_code == 2
    assert "it is there already, without a journal" in " ".join(result.stderr.split())
    assert [path.name for path in tmp_path.iterdir() if "journal" in path.name] == []
    assert score(server.url, tmp_path / "x", "-o", output, "--overwrite").exit_code == 0
    assert brief(output) == expected(paths)


def test_folder_with_other_files_is_no_parquet_output(server: FakeTriton, tmp_path: Path) -> None:
    make_images(tmp_path / "x.parquet", 2)
    result = score(server.url, tmp_path / "x.parquet", "-o", tmp_path / "x.parquet", "--overwrite")
    assert result.exit_code == 2
    assert "the folder holds other files, such as 0000" in " ".join(result.stderr.split())
    (tmp_path / "file.parquet").write_text("mine")
    assert score(server.url, tmp_path / "x.parquet", "-o", tmp_path / "file.parquet", "--overwrite").exit_code == 2
    assert (tmp_path / "file.parquet").read_text() == "mine"


@pytest.mark.parametrize("kind", KINDS)
def test_output_that_was_changed_is_refused(server: FakeTriton, tmp_path: Path, kind: str) -> None:
    make_images(tmp_path / "x", 4)
    output = tmp_path / f"scores.{kind}"
    score(server.url, tmp_path / "x", "-o", output)
    if kind == "parquet":
        (output / "part-00000.parquet").unlink()
    else:
        output.write_bytes(output.read_bytes()[:-10])
    result = score(server.url, tmp_path / "x", "-o", output)
    assert result.exit_code == 2
    assert "something else has changed it" in " ".join(result.stderr.split())


def test_damaged_journal_is_told(server: FakeTriton, tmp_path: Path) -> None:
    make_images(tmp_path / "x", 4)
    score(server.url, tmp_path / "x", "-o", tmp_path / "scores.csv")
    (tmp_path / "scores.csv.journal").write_bytes(b"no journal" * 1000)
    result = score(server.url, tmp_path / "x", "-o", tmp_path / "scores.csv")
    assert result.exit_code == 2
    assert "scores.csv.journal is damaged" in "".join(result.stderr.split("\n"))


def test_two_runs_do_not_write_one_output(server: FakeTriton, tmp_path: Path) -> None:
    paths = make_images(tmp_path / "x", 20)
    output = tmp_path / "scores.csv"
    go_on = hold_when(server, lambda: True)
    first = subprocess.Popen([*COMMAND, str(tmp_path / "x"), "-o", str(output), "--url", server.url])
    wait_for(lambda: server.calls or first.poll() is not None)
    second = score(server.url, tmp_path / "x", "-o", output, "--overwrite")
    go_on.set()
    assert first.wait(PATIENCE) == 0
    assert second.exit_code == 2
    assert "another run is writing it" in " ".join(second.stderr.split())
    assert brief(output) == expected(paths)


@pytest.mark.parametrize("kind", KINDS)
def test_retry_failed_scores_again_what_failed(server: FakeTriton, tmp_path: Path, kind: str) -> None:
    paths = make_images(tmp_path / "x", 12)
    for n in (0, 5, 11):
        paths[n].write_bytes(b"status:unreadable_image")
    output = tmp_path / f"scores.{kind}"
    assert score(server.url, tmp_path / "x", "-o", output).exit_code == 1
    again = score(server.url, tmp_path / "x", "-o", output)
    assert (again.exit_code, sum(server.batches)) == (1, 12)
    assert "see --retry-failed" in again.stderr
    for n in (0, 5):
        paths[n].write_bytes(b"0.7")
    assert score(server.url, tmp_path / "x", "-o", output, "--retry-failed").exit_code == 1
    assert sum(server.batches) == 15
    kept = [row for n, row in enumerate(expected(paths)) if n not in (0, 5, 11)]
    missing = "None" if kind != "csv" else ""
    assert brief(output) == [*kept, (paths[0].name, "0.7"), (paths[5].name, "0.7"), (paths[11].name, missing)]
    paths[11].write_bytes(b"0.8")
    assert score(server.url, tmp_path / "x", "-o", output, "--retry-failed").exit_code == 0
    assert Counter(brief(output)) == Counter(
        [*kept, (paths[0].name, "0.7"), (paths[5].name, "0.7"), (paths[11].name, "0.8")]
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_killed_while_failed_rows_are_taken_out(
    server: FakeTriton, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_images(tmp_path / "x", 12)
    paths[5].write_bytes(b"status:unreadable_image")
    output = tmp_path / f"scores.{kind}"
    score(server.url, tmp_path / "x", "-o", output)
    paths[5].write_bytes(b"0.5")
    for place in range(1, 40):
        script = KILL_AT_COMMIT.format(place=place)
        command = [sys.executable, "-c", script, str(tmp_path / "x"), "-o", str(output), "--retry-failed"]
        done = subprocess.run([*command, "--url", server.url], capture_output=True, text=True)
        if done.returncode != -signal.SIGKILL:
            break
        copy = brief(output)
        assert len(copy) >= 11
    assert done.returncode == 0, done.stderr
    assert place > 3
    assert Counter(brief(output)) == Counter(expected(paths))


KILL_AT_COMMIT = """
import os, signal, sys
from pathlib import Path
from deepfake_client.bulk.output import journal
from deepfake_client.cli import main
steps = 0
def deadly(function):
    def wrapped(*arguments, **options):
        global steps
        steps += 1
        if steps == {place}: os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return wrapped
journal.Journal.commit = deadly(journal.Journal.commit)
Path.replace = deadly(Path.replace)
Path.rename = deadly(Path.rename)
os.fsync = deadly(os.fsync)
main(["score", *sys.argv[1:]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_killed_at_every_step_of_a_commit(server: FakeTriton, tmp_path: Path, kind: str) -> None:
    paths = make_images(tmp_path / "x", 6)
    place = 0
    while True:
        place += 1
        output = tmp_path / f"{place}.{kind}"
        command = [sys.executable, "-c", KILL_AT_COMMIT.format(place=place), str(tmp_path / "x"), "-o", str(output)]
        code = subprocess.run([*command, "--url", server.url], capture_output=True).returncode
        if code != -signal.SIGKILL:
            break
        assert score(server.url, tmp_path / "x", "-o", output).exit_code == 0, place
        assert brief(output) == expected(paths), place
    assert code == 0
    assert place > 4


def test_parquet_shards_fill_up(server: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_rows, "SHARD_ROWS", 40)
    monkeypatch.setattr("deepfake_client.bulk.output.resumable._COMMIT_SECONDS", 0)
    paths = make_images(tmp_path / "x", 100)
    (tmp_path / "x" / os.fsdecode(b"z\xe9.jpg")).write_bytes(b"0.3")
    output = tmp_path / "scores.parquet"
    assert score(server.url, tmp_path / "x", tmp_path / "missing.jpg", "-o", output).exit_code == 1
    assert [pq.read_metadata(shard).num_rows for shard in sorted(output.glob("*.parquet"))] == [40, 40, 22]
    table = pq.read_table(output)  # as a folder: the journal is passed over
    assert table.num_rows == 102
    assert str(table.schema.field("probability").type) == "double"
    rows = table.to_pylist()
    assert [row["path"] for row in rows[:100]] == list(map(str, paths))
    assert rows[100]["path"].endswith("z\\udce9.jpg")
    assert (rows[9]["face_x2"], rows[9]["verdict"], rows[9]["error"]) == (100.1, "fake", None)
    assert (rows[101]["status"], rows[101]["score"]) == ("unreadable_file", None)


@pytest.mark.parametrize("kind", KINDS)
def test_full_disk_loses_nothing(server: FakeTriton, tmp_path: Path, kind: str) -> None:
    paths = make_images(tmp_path / "x", 300)
    output = tmp_path / f"scores.{kind}"
    command = [*COMMAND, str(tmp_path / "x"), "--url", server.url, "-o", str(output)]
    # A limit on files stands in for the disk; set by a program of its own, for `preexec_fn` would run Python and gRPC's
    # fork handlers in a forked copy of this process, whose threads serve gRPC.
    small_disk = ["prlimit", "--fsize=30000"]
    done = subprocess.run([*small_disk, *command], capture_output=True, text=True, timeout=240)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert f"scores.{kind}" in done.stderr.splitlines()[-1]
    assert score(server.url, tmp_path / "x", "-o", output).exit_code == 0
    assert brief(output) == expected(paths)


@pytest.mark.parametrize("unordered", [[], ["--unordered"]])
def test_odd_names_go_on(server: FakeTriton, tmp_path: Path, unordered: list[str]) -> None:
    names = [
        "new\nline.jpg",
        'quo"te,.jpg',
        os.fsdecode(b"caf\xe9.jpg"),
        "back\\udce9slash.jpg",
        " space .jpg",
        "é.jpg",
    ]
    (tmp_path / "x").mkdir()
    for name in names[::2]:
        (tmp_path / "x" / name).write_bytes(b"0.3")
    for kind in KINDS:
        assert score(server.url, tmp_path / "x", "-o", tmp_path / f"s.{kind}", *unordered).exit_code == 0
    for name in names[1::2]:
        (tmp_path / "x" / name).write_bytes(b"0.4")
    for kind in KINDS:
        output = tmp_path / f"s.{kind}"
        assert score(server.url, tmp_path / "x", "-o", output, *unordered).exit_code == 0
        escaped = Counter(name.encode("utf-8", "backslashreplace").decode() for name in names)
        assert Counter(name.encode("utf-8", "backslashreplace").decode() for name, _ in brief(output)) == escaped


@pytest.mark.usefixtures("whole_batches")
def test_same_image_with_other_boxes_goes_on(server: FakeTriton, tmp_path: Path) -> None:
    (image,) = make_images(tmp_path / "x", 1)
    boxes = tmp_path / "boxes.csv"
    header = "path,face_x1,face_y1,face_x2,face_y2\n"
    boxes.write_text(f"{header}{image},0,0,5,5\n")
    output = tmp_path / "scores.jsonl"
    command = ["-l", boxes, "--face-boxes", "-o", output]
    score(server.url, *command)
    boxes.write_text(f"{header}{image},1,1,5,5\n{image},0,0,5,5\n{image},0,0,5,5\n")
    assert score(server.url, *command).exit_code == 0
    assert len(rows_of(output)) == 3
    assert [sent.tolist() for sent in server.boxes[1:] if sent is not None] == [[[1, 1, 5, 5], [0, 0, 5, 5]]]


@given(st.lists(st.sampled_from("abcdef")), st.lists(st.sampled_from("abcdef")))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_journal_counts_each_row_once(tmp_path: Path, done: list[str], asked: list[str]) -> None:
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for name in done:
        journal.add(name.encode(), True, 1)
    journal.commit()
    journal.add(b"never committed", True, 1)
    journal.close()
    journal = Journal(path)
    assert journal.count() == len(done)
    missing = [name for name in asked if not journal.has(name.encode())]
    journal.close()
    assert Counter(missing) == Counter(asked) - Counter(done)


def test_row_of_jsonl_says_what_was_lost(server: FakeTriton, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("missing.jpg\nmissing.jpg\n")
    output = tmp_path / "scores.jsonl"
    result = score(server.url, "-l", tmp_path / "list.txt", "-o", output)
    assert result.exit_code == 1
    assert [json.loads(line)["status"] for line in output.read_text().splitlines()] == ["unreadable_file"] * 2
    assert "2 unreadable_file" in result.stderr
