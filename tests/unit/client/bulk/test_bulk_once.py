"""`deepfake-client score --once`: files of equal content are sent once, and each has its row."""

import json
import signal
import tarfile
from collections import Counter
from pathlib import Path

import grpc
import pytest
from deepfake_client import EarlyVerdict, Face, StreamVerdict, Verdict
from deepfake_client.bulk.once import Once, content_of
from deepfake_client.bulk.output.journal import Journal
from deepfake_client.images.items import Item, read

from tests.bulk import COMMAND, KINDS, make_images, printed, rows_of, score, stop_after
from tests.fakes.triton import FakeTriton, fail_times, hang


def names_and_scores(rows: list[dict[str, object]]) -> list[tuple[str, str]]:
    return [(Path(str(row["path"])).name, str(row["score"])) for row in rows]


@pytest.mark.parametrize("order", [[], ["--unordered"]])
@pytest.mark.parametrize("kind", KINDS)
def test_ten_contents_of_many_files_are_sent_once_each(
    server: FakeTriton, tmp_path: Path, kind: str, order: list[str]
) -> None:
    server.fault = hang(0.02)
    paths = make_images(tmp_path / "x", 120)  # image n holds n % 10 / 10
    output = tmp_path / f"scores.{kind}"
    result = score(server.url, tmp_path / "x", "--once", "--batch-size", 4, "-o", output, *order)
    assert result.exit_code == 0, result.output
    assert sum(server.batches) == 10
    expected = [(path.name, f"{n % 10 / 10}") for n, path in enumerate(paths)]
    found = names_and_scores(rows_of(output))
    assert found == expected if not order else Counter(found) == Counter(expected)
    assert "110 of 120 images were copies of others and were not sent again" in result.stderr
    assert score(server.url, tmp_path / "x", "--once", "-o", output, *order).exit_code == 0
    assert sum(server.batches) == 10


def test_rows_are_those_of_a_run_that_sends_all(server: FakeTriton, tmp_path: Path) -> None:
    make_images(tmp_path / "x", 35)
    for options in ([], ["--sha256"], ["--faces", "main"]):
        all_sent, once = (printed(score(server.url, tmp_path / "x", *options, *more)) for more in ([], ["--once"]))
        assert once == all_sent
    assert "sha256" not in once[0]


def test_a_run_that_goes_on_sends_no_content_again(server: FakeTriton, tmp_path: Path) -> None:
    paths = make_images(tmp_path / "x", 200)
    for n, path in enumerate(paths):
        path.write_bytes(b"0.%02d" % (n % 100))
    output = tmp_path / "scores.jsonl"
    command = [*COMMAND, str(tmp_path / "x"), "--once", "--batch-size", "2", "--in-flight", "1"]
    command += ["--url", server.url, "-o", str(output)]
    # What is in flight is finished, and its rows are written.
    assert stop_after(server, output, 30, signal.SIGINT, command) == 130
    assert 30 <= sum(server.batches) < 100
    assert score(server.url, tmp_path / "x", "--once", "-o", output).exit_code == 0
    assert sum(server.batches) == 100
    assert names_and_scores(rows_of(output)) == [(path.name, str(float(path.read_text()))) for path in paths]


def test_members_of_shards_and_files_are_told_apart_by_content_and_box(server: FakeTriton, tmp_path: Path) -> None:
    for n, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        (tmp_path / name).write_text("0.7" if n < 2 else "0.2")
    for shard, mode in (("s.tar", "w"), ("t.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / shard, mode) as tar:  # type: ignore[call-overload]
            for name in ("a.jpg", "c.jpg"):
                tar.add(tmp_path / name, name)
    listed = tmp_path / "boxes.csv"
    rows = [f"{tmp_path}/a.jpg,1,2,3,4", f"{tmp_path}/b.jpg,1,2,3,4", f"{tmp_path}/c.jpg,,,,"]
    listed.write_text("\n".join(["path,face_x1,face_y1,face_x2,face_y2", *rows]))
    inputs = [*(tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg", "s.tar", "t.tar.gz"))]
    result = score(server.url, *inputs, "--list", listed, "--face-boxes", "--once")
    assert result.exit_code == 0, result.output
    assert [row["score"] for row in printed(result)] == [0.7, 0.7, 0.2, 0.7, 0.2, 0.7, 0.2, 0.7, 0.7, 0.2]
    assert sum(server.batches) == 3  # both contents, and one of them with a box


@pytest.mark.usefixtures("whole_batches")
def test_each_copy_has_the_failure_of_its_content(server: FakeTriton, tmp_path: Path) -> None:
    for n in range(6):
        (tmp_path / f"{n}.jpg").write_text("status:empty_image" if n % 2 else "0.3")
    output = tmp_path / "scores.jsonl"
    server.fault = fail_times(1, grpc.StatusCode.INVALID_ARGUMENT, "no")  # then each image is sent alone
    result = score(server.url, tmp_path, "--once", "-o", output)
    assert result.exit_code == 1
    assert [row["status"] for row in rows_of(output)] == ["ok", "empty_image"] * 3
    server.fault = hang(0.0)
    before = sum(server.batches)
    assert score(server.url, tmp_path, "--once", "-o", output, "--retry-failed").exit_code == 1
    assert sum(server.batches) == before + 1
    assert Counter(row["status"] for row in rows_of(output)) == {"ok": 3, "empty_image": 3}


def test_a_request_that_fails_for_good_fails_its_copies(server: FakeTriton, tmp_path: Path) -> None:
    make_images(tmp_path / "x", 30)
    server.fault = fail_times(10**9, grpc.StatusCode.INVALID_ARGUMENT, "no")
    rows = printed(score(server.url, tmp_path / "x", "--once"))
    assert [row["status"] for row in rows] == ["request_failed"] * 30
    assert len({row["path"] for row in rows}) == 30


def test_copies_of_a_file_that_is_gone_are_sent_after_all(server: FakeTriton, tmp_path: Path) -> None:
    """Each file's own trouble is its own."""
    a, b = (tmp_path / name for name in ("a.jpg", "b.jpg"))
    for path in (a, b):
        path.write_text("0.4")

    class Kept(dict[bytes, Verdict]):
        known = dict.get
        keep = dict.__setitem__

    copied: list[None] = []
    once = Once(Kept(), lambda item: False, lambda: copied.append(None))
    sent = list(once.items(Item(str(path)) for path in (a, b, tmp_path / "missing.jpg")))
    assert [item.error is None for item in sent] == [True, False, True]
    gone = Verdict(str(a), "unreadable_file", error="gone")
    found = list(once.verdicts([(1, Verdict(str(b), "unreadable_file")), (0, gone), (2, gone)]))
    assert found == [(0, gone), (2, gone)]
    assert [(place, read(item).data) for place, item in once.left] == [(1, b"0.4")]
    assert not copied


def test_what_is_scored_for_itself_lends_and_takes_no_verdict() -> None:
    kept = {content_of(Item("b.mp4", b"same")): Verdict("b.jpg", "ok", 0.1)}

    class Kept:
        known = staticmethod(kept.get)
        keep = staticmethod(kept.__setitem__)

    once = Once(Kept(), lambda item: item.path != "b.jpg", lambda: None)  # type: ignore[arg-type]
    items = [Item("a.mp4", b"same"), Item("b.mp4", b"same")]
    assert list(once.items(items)) == items
    said = [(n, Verdict(item.path, "ok", 0.9)) for n, item in enumerate(items)]
    assert list(once.verdicts(said)) == said
    assert len(kept) == 1


def test_a_file_that_changes_before_it_is_sent_lends_its_verdict_to_none() -> None:
    kept: dict[bytes, Verdict] = {}

    class Kept:
        known = staticmethod(kept.get)
        keep = staticmethod(kept.__setitem__)

    once = Once(Kept(), lambda item: False, lambda: None)
    list(once.items([Item("a", b"before"), Item("b", b"before")]))
    other = Verdict("a", "ok", 0.9, sha256="00" * 32)
    assert [verdict.score for _, verdict in once.verdicts([(0, other), (1, Verdict("b", "unreadable_file"))])] == [0.9]
    assert not kept
    assert [place for place, _ in once.left] == [1]


def test_copies_of_a_file_that_changes_before_it_is_sent_get_their_own_rows(
    server: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three held the same when they were looked at; when they are sent, each holds something else."""
    paths = make_images(tmp_path / "x", 3)
    monkeypatch.setattr("deepfake_client.bulk.once.content_of", lambda item: bytes(32))
    result = score(server.url, tmp_path / "x", "--once")
    assert result.exit_code == 0, result.output
    assert names_and_scores(printed(result)) == [(path.name, f"{n / 10}") for n, path in enumerate(paths)]


VERDICTS = [
    Verdict(None, "ok", 0.7, 0.65, {"global_texture": StreamVerdict(0.1, 0.1)}, Face((1.5, 2, 3, 4), 0.9, "raw")),
    Verdict(None, "ok", 0.1, 0.123456789, faces=(Verdict(None, "ok", 0.2, face=Face((0, 0, 1, 1))),), weights="ab"),
    Verdict(None, "request_failed", error="why"),
    EarlyVerdict(None, "ok", decision="fake", score_range=(0.6, 0.8), probability_range=(0.5, 0.7), streams_run=("a",)),
    EarlyVerdict(None, "empty_image"),
]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_verdicts_come_back_as_they_were_kept(verdict: Verdict, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.keep(b"key", verdict)
    journal.commit()
    journal.close()
    journal = Journal(tmp_path / "journal")
    journal.check()
    found = journal.known(b"key")
    assert found == verdict
    assert type(found) is type(verdict)
    assert json.dumps(found.to_dict()) == json.dumps(verdict.to_dict())
    assert journal.known(b"other") is None
    journal.close()
