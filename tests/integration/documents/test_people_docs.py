"""The commands of the pages on videos, the page and REST, one after the other, against the real server."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import Server
from tests.golden import GOLDEN, ROOT, read_rgb
from tests.integration.client.test_web_browser import run_web
from tests.videos import write_video

pytestmark = [pytest.mark.server, pytest.mark.slow]
PAGES = ("videos", "web", "rest")
COMMANDS = {
    page: [
        line
        for block in re.findall(r"```console\n(.*?)```", (ROOT / f"docs/how-to/{page}.md").read_text(), re.DOTALL)
        for line in block.splitlines()
    ]
    for page in PAGES
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the pages name."""
    one, two = (read_rgb(GOLDEN / "images" / name) for name in ("00_face.png", "01_face_close.png"))
    group = cv2.cvtColor(np.concatenate([one, two], axis=1), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(tmp_path / "photo.jpg"), cv2.cvtColor(two, cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(tmp_path / "group.jpg"), group)
    write_video(tmp_path / "clip.mp4", [two] * 8, fps=4)
    (tmp_path / "clips").mkdir()
    shutil.copy(tmp_path / "clip.mp4", tmp_path / "clips")
    return tmp_path


@pytest.fixture
def web(server: Server, tmp_path: Path) -> Iterator[str]:
    yield from run_web(server.url, tmp_path / "web.log")


def run(command: str, folder: Path, url: str) -> str:
    environment = {
        **os.environ,
        "DEEPFAKE_CLIENT_URL": url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = command.replace("DetectorClient()", f"DetectorClient('{url}')")
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_videos(server: Server, folder: Path) -> None:
    for command in COMMANDS["videos"]:
        run(command, folder, server.url)
    assert (folder / "clips.jsonl").read_text().count("\n") == 1
    assert (folder / "frames.csv").read_text().count("\n") == 1 + 8 + 1
    assert len(list((folder / "timelines").iterdir())) == 1


def test_evidence(server: Server, folder: Path) -> None:
    score, replay = (command for command in COMMANDS["web"] if "photo.jpg" in command)
    run(score, folder, server.url)
    with zipfile.ZipFile(folder / "evidence.zip") as archive:
        assert {"report.html", "receipt.json", "row.json", "maps/global_texture.png"} <= set(archive.namelist())
        report = archive.read("report.html").decode()
        archive.extract("receipt.json", folder)
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", report)
    assert "the same" in run(replay, folder, server.url)


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_rest(server: Server, web: str, folder: Path) -> None:
    for command in COMMANDS["rest"]:
        answer = run(
            command.replace("curl ", "curl --fail-with-body --silent ").replace("http://localhost:8080", web),
            folder,
            server.url,
        )
        assert '"status"' in answer
        assert "NaN" not in answer
