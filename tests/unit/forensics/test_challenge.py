"""The challenge's numbers and its form of submission, against those of the authors' code."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from forensics.common.dataset import read_dataset
from forensics.common.errors import ForensicsError
from forensics.common.scoring.scores import Scores, collect
from forensics.evaluate.challenge import challenge, one_decimal
from forensics.submission.command import sorted_by_name, write_entry
from tests.golden import GOLDEN

CASES = json.loads((GOLDEN / "studies" / "metrics.json").read_text())["cases"]


def scores_of(probabilities: list[float], labels: list[int], videos: list[int] | None = None) -> Scores:
    column = np.array(probabilities, np.float32)
    return Scores(
        labels=np.array(labels, np.bool_),
        streams=np.stack([column] * 3, axis=1),
        votes=np.stack([column] * 3, axis=1),
        mean=column.astype(np.float64),
        vote=one_decimal(column.astype(np.float64)),
        videos=None if videos is None else np.array(videos, np.int64),
    )


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_numbers_are_those_of_the_authors(case: dict) -> None:
    for name, numbers in challenge(scores_of(case["prob_fake"], case["label"])).items():
        assert numbers.rounded.auc == pytest.approx(case["auc"], abs=1e-9)
        assert numbers.rounded.accuracy == pytest.approx(case["acc"], abs=1e-9)
        if name != "vote":
            assert numbers.unrounded.auc == pytest.approx(case["auc_without_rounding"], abs=1e-9)
        assert numbers.rounded.video_auc is None


def test_rounding_is_that_of_float32() -> None:
    values = np.array([0.25, 0.35, 0.45, 0.75, 0.95, 0.349])
    np.testing.assert_allclose(one_decimal(values), [0.2, 0.4, 0.4, 0.8, 1.0, 0.3])


def test_a_video_has_the_mean_of_its_rounded_frames() -> None:
    # Rounded, the videos have 0.3, 0.35 and 0.4: the fake one, of two frames, lies between the real ones.
    numbers = challenge(scores_of([0.34, 0.31, 0.36, 0.44], [0, 1, 1, 0], [0, 1, 1, 2]))["mean"]
    assert numbers.rounded.video_auc == 0.5
    assert numbers.unrounded.video_auc == 0
    assert numbers.rounded.auc == pytest.approx((0.5 + 1 + 0 + 0.5) / 4)


def test_frames_are_told_apart_by_subfolder_or_column(tmp_path: Path) -> None:
    for name in ("real/a/1.png", "real/a/2.png", "real/b.png", "fake/a/1.png", "fake/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    images = read_dataset(tmp_path)
    assert [image.video for image in images] == ["real/a", "real/a", None, "fake/a", None]
    streams = {
        name: {"probability": 0.5, "vote": 0.5} for name in ("global_texture", "local_facial", "semantic_fusion")
    }
    rows = [{"path": str(i.path), "status": "ok", "score": 0.5, "probability": 0.5, "streams": streams} for i in images]
    scores, _ = collect(images, rows)
    assert scores.videos is not None
    assert scores.videos.tolist() == [0, 0, 1, 2, 3]
    table = tmp_path / "frames.csv"
    table.write_text("path,label,video\na.png,real,x\nb.png,real,\nc.png,fake,y\n")
    assert [image.video for image in read_dataset(table)] == ["x", None, "y"]
    table.write_text("path,label,video\na.png,real,x\nb.png,fake,x\n")
    with pytest.raises(ForensicsError, match="line 3: the video 'x' has real frames and fake ones"):
        read_dataset(table)


def test_an_entry_has_a_score_a_line_in_the_order_of_the_names(tmp_path: Path) -> None:
    paths = sorted_by_name([tmp_path / "x" / "10.png", tmp_path / "y" / "2.png", tmp_path / "1.png"])
    assert [path.name for path in paths] == ["1.png", "10.png", "2.png"]
    rows = [
        {"path": str(path), "status": "ok", "score": score} for path, score in zip(paths, (0.1, 1.0, 0.5), strict=True)
    ]
    write_entry(tmp_path, paths, rows)
    assert (tmp_path / "submission.txt").read_text() == "0.1\n1.0\n0.5\n"
    assert (tmp_path / "order.txt").read_text() == "1.png\n10.png\n2.png\n"
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert archive.namelist() == ["submission.txt"]
        assert archive.read("submission.txt") == b"0.1\n1.0\n0.5\n"


def test_an_entry_without_all_scores_is_not_written(tmp_path: Path) -> None:
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    rows = [{"path": "1.png", "status": "ok", "score": 0.1}, {"path": "2.png", "status": "unreadable_image"}]
    with pytest.raises(ForensicsError, match=r"1 of 2 images have no score.*2\.png: unreadable_image"):
        write_entry(tmp_path, paths, rows)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ForensicsError, match="have the same name"):
        sorted_by_name([tmp_path / "a" / "1.png", tmp_path / "b" / "1.png"])
