"""Data sets and kept scores, right and wrong ones."""

import json
import os
from pathlib import Path

import pytest
from deepfake_client import Verdict

from forensics.common.dataset import read_dataset
from forensics.common.errors import ForensicsError
from forensics.common.scoring.scores import collect
from forensics.common.scoring.store import ScoreStore, old_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("real/b.jpg", "real/deep/a.PNG", "fake/c.webp", "fake/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"image")
    return tmp_path


def test_folder_is_read_with_its_subfolders(folder: Path) -> None:
    found = [(image.path.relative_to(folder).as_posix(), image.fake) for image in read_dataset(folder)]
    assert found == [("real/b.jpg", False), ("real/deep/a.PNG", False), ("fake/c.webp", True)]


def test_csv_paths_are_relative_to_it_and_labels_may_be_words_or_digits(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    table = tmp_path / "sub" / "labels.csv"
    table.write_text('\ufeffPath,source,Label\na.jpg,x,real\n/b.jpg,y,1\n"c,d.jpg",z, Fake \n', encoding="utf-8")
    found = [(image.path, image.fake) for image in read_dataset(table)]
    assert found == [(tmp_path / "sub" / "a.jpg", False), (Path("/b.jpg"), True), (tmp_path / "sub" / "c,d.jpg", True)]


def test_a_folder_named_like_an_image_is_none(folder: Path) -> None:
    (folder / "real" / "b.jpg").rename(folder / "b.jpg")
    (folder / "real" / "b.jpg").mkdir()
    (folder / "b.jpg").rename(folder / "real" / "b.jpg" / "b.jpg")
    found = [image.path.relative_to(folder).as_posix() for image in read_dataset(folder)]
    assert found == ["real/b.jpg/b.jpg", "real/deep/a.PNG", "fake/c.webp"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,real\nb.jpg,fake\n", "must name the columns path and label"),
        ("", "must name the columns path and label"),
        ("path,label\na.jpg,real\nb.jpg,maybe\n", "line 3: the label is 'maybe'; it must be real or fake, 0 or 1"),
        ("path,label\na.jpg\n", "line 2: the label is ''"),
        ("path,label\n,real\n", "line 2: no path"),
        ("path,label\na.jpg,real\nb.jpg,1\na.jpg,fake\n", "line 4: a.jpg is there twice, first in line 2"),
        ("path,label\na.jpg,real\n", "no fake image"),
    ],
)
def test_wrong_csv_is_told_by_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ForensicsError, match=message):
        read_dataset(tmp_path / "labels.csv")


def test_wrong_folders_are_told(folder: Path) -> None:
    with pytest.raises(ForensicsError, match="no such file or folder"):
        read_dataset(folder / "missing")
    with pytest.raises(ForensicsError, match=r"no subfolder real/.*it has: b.jpg, deep"):
        read_dataset(folder / "real")
    (folder / "fake" / "c.webp").unlink()
    with pytest.raises(ForensicsError, match="no fake image"):
        read_dataset(folder)
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ForensicsError, match="not a CSV file in UTF-8"):
        read_dataset(folder / "binary.csv")


def verdict(path: Path, status: str = "ok") -> Verdict:
    return Verdict(str(path), status, 0.5, 0.5) if status == "ok" else Verdict(str(path), status)


def test_rows_come_back_until_the_file_changes(folder: Path, tmp_path: Path) -> None:
    image, store = folder / "real" / "b.jpg", tmp_path / "scores.jsonl"
    with ScoreStore(store, {"weights": 1}) as scores:
        row = scores.keep(image, verdict(image).to_dict())
    with ScoreStore(store, {"weights": 1}) as scores:
        assert scores.get(image) == row
        assert scores.get(folder / "fake" / "c.webp") is None
        os.utime(image, ns=(0, 0))
        assert scores.get(image) is None


def test_failures_that_may_pass_are_not_kept_and_others_are(folder: Path, tmp_path: Path) -> None:
    image, other = folder / "real" / "b.jpg", folder / "fake" / "c.webp"
    with ScoreStore(tmp_path / "scores.jsonl", {}) as scores:
        assert scores.keep(image, verdict(image, "request_failed").to_dict())["status"] == "request_failed"
        scores.keep(other, verdict(other, "unreadable_image").to_dict())
        scores.keep(folder / "gone.jpg", verdict(folder / "gone.jpg", "unreadable_file").to_dict())
        assert len(scores) == 1
        assert scores.get(image) is None


def test_another_server_starts_afresh_and_the_old_rows_are_set_aside(folder: Path, tmp_path: Path) -> None:
    image, store = folder / "real" / "b.jpg", tmp_path / "scores.jsonl"
    with ScoreStore(store, {"weights": 1}) as scores:
        scores.keep(image, verdict(image).to_dict())
    before = store.read_text()
    with ScoreStore(store, {"weights": 2}) as scores:
        assert scores.replaced
        assert len(scores) == 0
    assert old_path(store).read_text() == before
    assert json.loads(store.read_text()) == {"server": {"weights": 2}}


def test_a_line_that_was_cut_off_is_scored_again_and_the_file_stays_whole(folder: Path, tmp_path: Path) -> None:
    first, second = folder / "real" / "b.jpg", folder / "fake" / "c.webp"
    store = tmp_path / "scores.jsonl"
    with ScoreStore(store, {}) as scores:
        scores.keep(first, verdict(first).to_dict())
        scores.keep(second, verdict(second).to_dict())
    store.write_bytes(store.read_bytes()[:-20])
    with ScoreStore(store, {}) as scores:
        assert scores.get(first) is not None
        assert scores.get(second) is None
        scores.keep(second, verdict(second).to_dict())
    with ScoreStore(store, {}) as scores:
        assert scores.get(second) is not None
    assert len(store.read_text().splitlines()) == 3


@pytest.mark.parametrize("text", ["not json\n", "[1]\n", '{"server": {}}\n{"path": "x"}\n'])
def test_a_damaged_file_of_scores_is_refused_unharmed(tmp_path: Path, text: str) -> None:
    (tmp_path / "scores.jsonl").write_text(text)
    with pytest.raises(ForensicsError, match="remove it to score all again"):
        ScoreStore(tmp_path / "scores.jsonl", {})
    assert (tmp_path / "scores.jsonl").read_text() == text


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with (
        ScoreStore(tmp_path / "scores.jsonl", {}),
        pytest.raises(ForensicsError, match="in use by another run"),
    ):
        ScoreStore(tmp_path / "scores.jsonl", {})


def test_no_scored_image_of_a_class_is_told_with_the_reason(folder: Path) -> None:
    images = read_dataset(folder)
    rows = [verdict(image.path, "empty_image").to_dict() for image in images]
    with pytest.raises(ForensicsError, match=r"0 real and 0 fake images were scored, 3 were not.*holds no bytes"):
        collect(images, rows)
