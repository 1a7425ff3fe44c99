"""The command robustness, resumed, through the real server."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from degradation import SWEEPS
from ensemble.streams import STREAMS
from forensics.__main__ import main
from forensics.common.scoring.scores import TITLES
from tests.conftest import Server
from tests.golden import GOLDEN

SWEEP = replace(SWEEPS["jpeg"], levels=(80, 10))


def robustness(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["robustness", *map(str, arguments)])


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs of faces with labels made up; two levels of JPEG."""
    monkeypatch.setitem(SWEEPS, "jpeg", SWEEP)
    for label, names in (("real", ("00_face", "01_face_close")), ("fake", ("02_face_edge", "03_face_jpeg"))):
        (tmp_path / "data" / label).mkdir(parents=True)
        for name in names:
            (tmp_path / "data" / label / f"{name}.png").write_bytes((GOLDEN / "images" / f"{name}.png").read_bytes())
    return tmp_path / "data"


@pytest.mark.server
def test_command_measures_labelled_images_and_goes_on_where_it_was(
    server: Server, labelled: Path, tmp_path: Path
) -> None:
    (labelled / "real" / "broken.jpg").write_bytes(b"no image")
    arguments = (labelled, "--url", server.url, "--sweep", "jpeg", "--output", tmp_path / "out", "--resamples", 100)
    result = robustness(*arguments)
    assert result.exit_code == 0, result.output
    assert result.output.count("UNTRAINED") >= 2
    assert "1 unsupported_format" in " ".join(result.output.split())
    document = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert (document["untrained"], document["real"], document["fake"]) == (True, 2, 2)
    (sweep,) = document["sweeps"]
    for stream in STREAMS:
        assert sweep["clean"]["cosine"][stream.name]["value"] == 1
        assert sweep["levels"][1]["cosine"][stream.name]["value"] < 0.999
        assert 1 < sweep["levels"][1]["entropy"][stream.name]["value"] < 5.781
    assert set(sweep["levels"][0]["auc"]) == set(TITLES)
    page = (tmp_path / "out" / "robustness.html").read_text()
    assert page.count("<svg") == 4
    assert "UNTRAINED" in page
    assert "src=" not in page

    rows = tmp_path / "out" / "rows-jpeg.jsonl"
    whole = rows.read_bytes()
    rows.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))  # as a run leaves it that was stopped
    again = robustness(*arguments)
    assert again.exit_code == 0, again.output
    assert "2 of 5 images were done before" in again.output
    assert rows.read_bytes() == whole
    assert "all anew" in robustness(*arguments, "--keep-face").output


@pytest.mark.server
def test_command_degrades_the_pixels_of_each_stream(server: Server, labelled: Path, tmp_path: Path) -> None:
    arguments = ("--url", server.url, "-s", "jpeg", "--degrade", "streams", "--output", tmp_path / "out")
    result = robustness(labelled, *arguments, "--resamples", 100)
    assert result.exit_code == 0, result.output
    assert "each stream's pixels" in " ".join(result.output.split())
    document = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert document["degrade"] == "streams"
    assert [level["same_face"] for level in document["sweeps"][0]["levels"]] in ([1, 1], [None, None])
    assert document["sweeps"][0]["levels"][1]["cosine"]["local_facial"]["value"] < 0.999
    assert "as the paper" in (tmp_path / "out" / "robustness.html").read_text()


def test_a_kept_face_is_for_files(tmp_path: Path) -> None:
    result = robustness(tmp_path, "--degrade", "streams", "--keep-face")
    assert result.exit_code == 2
    assert "--keep-face is for --degrade file" in result.output


@pytest.mark.server
def test_command_measures_images_without_labels(server: Server, labelled: Path, tmp_path: Path) -> None:
    result = robustness(
        labelled / "fake", "--url", server.url, "-s", "jpeg", "--keep-face", "--output", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert (document["real"], document["images"]) == (None, 2)
    sweep = document["sweeps"][0]
    assert sweep["levels"][1]["auc"] is None
    assert sweep["levels"][1]["distance"]["mean"]["value"] > 0
    assert sweep["levels"][1]["same_face"] in (None, 1)


def test_command_needs_images(tmp_path: Path) -> None:
    result = robustness(tmp_path)
    assert result.exit_code == 1
    assert "no image" in result.output
    assert robustness(tmp_path / "missing").exit_code == 1
    assert robustness(tmp_path, "--sweep", "fog").exit_code == 2
