"""Faces cut from photographs and videos, and a preparation that goes on where it was."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from ensemble.faces.haar import HaarDetector
from tests.golden import IMAGES, read_rgb
from training.__main__ import main
from training.data.manifest import read_manifest
from training.prepare import faces
from training.prepare.sources import spread


def write_video(path: Path, frames: int) -> None:
    image = read_rgb(IMAGES[0])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for number in range(frames):
            picture = np.roll(image, number, axis=1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    (folder / "real").mkdir()
    (folder / "fake").mkdir()
    (folder / "real" / "a.png").write_bytes(IMAGES[0].read_bytes())
    (folder / "real" / "broken.jpg").write_bytes(IMAGES[0].read_bytes()[:100])
    (folder / "real" / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    cv2.imwrite(str(folder / "fake" / "no_face.png"), np.full((256, 256, 3), 90, np.uint8))
    write_video(folder / "fake" / "film.mp4", 12)
    return folder


def prepare(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["prepare", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("shard", [0, 2])
def test_prepares_and_goes_on(sources: Path, tmp_path: Path, shard: int) -> None:
    arguments = (sources, "--output", tmp_path / "out", "--frames", 3, "--shard", shard)
    output = prepare(*arguments)
    items = read_manifest(tmp_path / "out" if shard else tmp_path / "out" / "manifest.csv")
    assert sorted(item.label for item in items) == [0, 1, 1, 1]
    for item in items:
        assert cv2.imdecode(np.frombuffer(item.read(), np.uint8), cv2.IMREAD_COLOR).shape == (256, 256, 3)
    assert {item.group for item in items} == {"real/a.png", "fake/film.mp4"}
    assert "4 frames of 5 sources" in output
    report = (tmp_path / "out" / "unusable.txt").read_text()
    assert "no_face.png: no face found" in report
    assert "cut.mp4: not a video" in report
    assert "broken.jpg" in report

    journal = tmp_path / "out" / "prepared.jsonl"
    before = journal.read_bytes()
    journal.write_bytes(before[:-30])  # killed in the middle of a line
    assert "4 frames of 5 sources" in prepare(*arguments)
    assert journal.read_bytes() == before
    assert len(read_manifest(tmp_path / "out" if shard else tmp_path / "out" / "manifest.csv")) == 4


def test_sources_of_like_names_stay_apart(tmp_path: Path) -> None:
    inputs = []
    for number, name in enumerate(("one/real/a.png", "two/real/a.png", "one/real/b/c.png", "one/real/b-c.png")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((256, 256, 3), 40 * number, np.uint8))
        inputs.append(path)
    prepare(tmp_path / "one", tmp_path / "two", "--output", tmp_path / "out", "--keep-faceless")
    items = read_manifest(tmp_path / "out" / "manifest.csv")
    assert len({item.group for item in items}) == 4
    shades = {int(cv2.imread(str(item.path)).mean()) for item in items}
    assert shades == {0, 40, 80, 120}


def test_other_settings_are_refused(sources: Path, tmp_path: Path) -> None:
    prepare(sources, "--output", tmp_path, "--frames", 1)
    result = CliRunner().invoke(main, ["prepare", str(sources), "--output", str(tmp_path), "--frames", "2"])
    assert result.exit_code == 1
    assert "was prepared with" in result.output


def test_without_a_label(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(IMAGES[0].read_bytes())
    result = CliRunner().invoke(main, ["prepare", str(tmp_path / "a.png"), "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "give --label" in result.output


def test_another_label_or_detector_is_refused(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are there keep their label and their faces: a second call must not look as if it had changed them."""
    prepare(sources / "fake" / "no_face.png", "--output", tmp_path)
    arguments = ["prepare", str(sources / "fake"), "--output", str(tmp_path)]
    other = CliRunner().invoke(main, [*arguments, "--label", "real"])
    assert other.exit_code == 1
    assert "label '', not 'real'" in other.output
    (tmp_path / "retinaface.h5").write_bytes(b"weights")
    monkeypatch.setattr(faces, "make_detector", lambda weights: HaarDetector())
    other = CliRunner().invoke(main, [*arguments, "--retinaface", str(tmp_path / "retinaface.h5")])
    assert other.exit_code == 1
    assert "detector 'haar', not 'retinaface 9a129038" in other.output.replace("\n", "")


@pytest.mark.parametrize(
    ("total", "count", "expected"), [(3, 8, [0, 1, 2]), (8, 2, [2, 6]), (100, 4, [12, 37, 62, 87])]
)
def test_spread(total: int, count: int, expected: list[int]) -> None:
    assert list(spread(total, count)) == expected
