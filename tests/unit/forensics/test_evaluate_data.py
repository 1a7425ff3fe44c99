"""Data sets and kept scores, right and wrong ones."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from deepfake_client import Verdict

from forensics.common.dataset import LabelledImage, find_images, read_dataset
from forensics.common.errors import ForensicsError
from forensics.common.scoring.scores import collect, reason
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
    changed = image.stat().st_mtime_ns
    with ScoreStore(store, {"weights": 1}) as scores:
        row = scores.keep(image, verdict(Path("as others call it")).to_dict())
        assert (row["path"], row["mtime_ns"]) == (str(image), changed)
        assert json.loads(store.read_text().splitlines()[-1]) == row  # at once: a killed run keeps it
    with ScoreStore(store, {"weights": 1}) as scores:
        assert scores.get(image) == row
        assert scores.get(folder / "fake" / "c.webp") is None
        os.utime(image, ns=(changed, changed + 1))
        assert scores.get(image) is None
        image.write_bytes(b"another size")
        os.utime(image, ns=(changed, changed))
        assert scores.get(image) is None


def test_failures_that_may_pass_are_not_kept_and_others_are(folder: Path, tmp_path: Path) -> None:
    image, other = folder / "real" / "b.jpg", folder / "fake" / "c.webp"
    with ScoreStore(tmp_path / "scores.jsonl", {}) as scores:
        assert scores.keep(image, verdict(image, "request_failed").to_dict())["status"] == "request_failed"
        scores.keep(other, verdict(other, "unreadable_image").to_dict())
        scores.keep(folder / "gone.jpg", verdict(folder / "gone.jpg", "unreadable_file").to_dict())
        scores.keep(image, verdict(image, "unreadable_file").to_dict())  # it is there again
        gone = scores.keep(folder / "gone.jpg", verdict(folder / "gone.jpg").to_dict())  # it was there a moment ago
        assert (gone["status"], "size" in gone) == ("ok", False)
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


@pytest.mark.parametrize("text", [b"not json\n", b"[1]\n", b'{"server": {}}\n{"path": "x"}\n', b"\xff\xfe\n"])
def test_a_damaged_file_of_scores_is_refused_unharmed(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "scores.jsonl").write_bytes(text)
    with pytest.raises(ForensicsError, match="remove it to score all again"):
        ScoreStore(tmp_path / "scores.jsonl", {})
    assert (tmp_path / "scores.jsonl").read_bytes() == text


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


def test_images_of_a_folder_are_found_at_any_depth_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = find_images(Path())
    assert found == [folder / "fake" / "c.webp", folder / "real" / "b.jpg", folder / "real" / "deep" / "a.PNG"]
    assert [image.path for image in read_dataset(Path())] == [*found[1:], found[0]]
    (folder / "none").mkdir()
    with pytest.raises(ForensicsError, match=r"none: no image \(\.jpg"):
        find_images(folder / "none")


def test_paths_of_a_table_are_absolute_wherever_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labels.csv").write_text("path,label\na.jpg,0\nb.jpg,1\n")
    monkeypatch.chdir(tmp_path)
    assert [(image.path, image.fake) for image in read_dataset(Path("labels.csv"))] == [
        (tmp_path / "a.jpg", False),
        (tmp_path / "b.jpg", True),
    ]
    (tmp_path / "long.csv").write_text("path,label\n" + "a" * 2_000 + ",real\n")
    before = csv.field_size_limit(1_000)  # of all this process: the client raises it for its own lists
    try:
        with pytest.raises(ForensicsError, match="not a CSV file in UTF-8"):
            read_dataset(tmp_path / "long.csv")
    finally:
        csv.field_size_limit(before)


def test_arrays_hold_what_each_image_was_given_and_leave_out_the_others(tmp_path: Path) -> None:
    images = [
        LabelledImage(tmp_path / f"{n}.png", fake, video, group)
        for n, (fake, video, group) in enumerate(
            [(False, "v", "g"), (True, "w", "g"), (True, "w", "g"), (False, None, None), (False, None, None)]
        )
    ]
    names = ("global_texture", "local_facial", "semantic_fusion")
    rows = [
        {
            "path": str(image.path),
            "status": "ok",
            "score": 0.1 * n,
            "probability": 0.11 * n,
            "streams": {name: {"probability": n / 8 + k / 64, "vote": n / 8 + k / 32} for k, name in enumerate(names)},
        }
        for n, image in enumerate(images)
    ]
    rows[1] = {"path": "x.png", "status": "empty_image"}
    scores, unscored = collect(images, rows)
    kept = np.array([0, 2, 3, 4])
    assert scores.labels.tolist() == [False, True, False, False]
    np.testing.assert_allclose(scores.vote, 0.1 * kept)
    np.testing.assert_allclose(scores.mean, 0.11 * kept)
    np.testing.assert_allclose(scores.streams, kept[:, None] / 8 + np.arange(3) / 64)
    np.testing.assert_allclose(scores.votes, kept[:, None] / 8 + np.arange(3) / 32)
    assert scores.videos is not None
    assert scores.groups is not None
    assert (scores.videos.tolist(), scores.groups.tolist()) == ([0, 1, 2, 3], [0, 0, 1, 2])
    assert (scores.real, scores.fake, scores.kinds) == (3, 1, "3 real and 1 fake images")
    assert list(scores.columns) == [*names, "mean", "vote"]
    np.testing.assert_array_equal(scores.columns["mean"], scores.mean)
    np.testing.assert_array_equal(scores.columns["local_facial"], scores.streams[:, 1].astype(float))
    assert [(each.path, each.status) for each in unscored] == [("x.png", "empty_image")]
    assert reason({"status": "empty_image", "error": "a closer reason"}) == "a closer reason"
    with pytest.raises(ForensicsError, match="0 real and 1 fake images were scored, 0 were not"):
        collect(images[2:3], rows[2:3])
    with pytest.raises(ForensicsError, match="2 real and 0 fake images were scored, 0 were not"):
        collect(images[3:], rows[3:])
