"""The command explain, on the real server."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensemble.streams import STREAMS
from forensics.__main__ import main
from networks import StreamNetwork, write_random_weights
from tests.conftest import Server
from tests.golden import GOLDEN, IMAGES


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder, "tiny")
    return folder


def explain(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["explain", *map(str, arguments)])


def assert_picture(path: Path) -> None:
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.shape[1] > 1000
    border = np.concatenate([picture[:, :3].ravel(), picture[:, -3:].ravel(), picture[:2].ravel()])
    assert (border > 200).all(), "something is cut off at the border"


@pytest.mark.server
def test_command_explains_images_clean_and_degraded(server: Server, tmp_path: Path) -> None:
    images = [GOLDEN / "images" / "01_face_close.png", GOLDEN / "images" / "03_face_jpeg.png"]
    result = explain(*images, "--url", server.url, "--degrade", "jpeg=10", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.output.count("UNTRAINED") >= 2
    document = json.loads((tmp_path / "explain.json").read_text())
    assert document["untrained"] is True
    assert [Path(each["path"]) for each in document["images"]] == images
    for each in document["images"]:
        clean, degraded = each["views"]
        assert (clean["title"], degraded["title"]) == ("clean", "JPEG, quality 10")
        for stream in STREAMS:
            before, after = clean["streams"][stream.name], degraded["streams"][stream.name]
            assert 0 <= before["outside_face"] <= 1
            assert before["drift"] is None
            assert 0 < after["drift"]["shared_mass"] < 1
    for path in images:
        assert_picture(tmp_path / path.name)
    page = (tmp_path / "explain.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 2 * (
        1 + len(STREAMS) + 1
    )  # clean and degraded: image, maps, votes
    assert "UNTRAINED" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page needs another file"


@pytest.mark.server
def test_command_computes_score_cam_once(
    server: Server, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seeded weights of the test are those of the server; the network itself is tested above."""
    calls = []

    def fake(network: StreamNetwork, pixels: np.ndarray, **options: object) -> np.ndarray:
        calls.append(pixels.shape)
        return np.random.default_rng(len(calls)).random(pixels.shape[:2], np.float32)

    monkeypatch.setattr("forensics.explain.maps.score_cam", fake)
    arguments = (IMAGES[1], "--url", server.url, "--method", "score-cam", "--weights", tiny, "--output", tmp_path)
    result = explain(*arguments)
    assert result.exit_code == 0, result.output
    assert "129 forwards in each of 3 streams, about" in result.output
    assert calls == [(252, 252, 3), (252, 252, 3), (224, 224, 3)]
    assert len(list((tmp_path / "maps").iterdir())) == 3
    assert_picture(tmp_path / IMAGES[1].name)
    assert explain(*arguments).exit_code == 0
    assert len(calls) == 3


@pytest.mark.server
def test_command_refuses_weights_that_the_server_does_not_run(server: Server, tiny: Path, tmp_path: Path) -> None:
    for stream in STREAMS:
        (tmp_path / stream.checkpoint).write_bytes((tiny / STREAMS[0].checkpoint).read_bytes())
    result = explain(IMAGES[1], "--url", server.url, "--method", "score-cam", "--weights", tmp_path)
    assert result.exit_code == 1
    assert "is not the checkpoint that the server runs" in result.output


@pytest.mark.server
def test_command_names_an_image_that_cannot_be_scored(server: Server, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    result = explain(tmp_path / "bad.jpg", "--url", server.url, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "bad.jpg" in result.output
    assert "unsupported_format" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--degrade", "jpg=10"], "the names are compound, jpeg"),
        (["--degrade", "jpeg=0"], "a number from 5 to 100"),
        (["--degrade", "jpeg"], "a number from 5 to 100"),
        (["--method", "score-cam"], "needs --weights DIR"),
    ],
)
def test_command_tells_wrong_usage_apart(arguments: list[str], message: str) -> None:
    result = explain(IMAGES[1], *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
