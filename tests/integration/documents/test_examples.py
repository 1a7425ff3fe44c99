"""Every example runs as a user would run it, against the real server."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.golden import ROOT

EXAMPLES = ROOT / "examples"
IMAGES = ROOT / "tests/golden/images"
FACE = IMAGES / "00_face.png"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

pytestmark = pytest.mark.server


def run(name: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, str(EXAMPLES / name)] if name.endswith(".py") else [str(EXAMPLES / name)]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_run() -> None:
    here, client = Path(__file__), ROOT / "tests/integration/client"
    mentioned = "".join(path.read_text() for path in (here, client / "test_ray.py", client / "test_spark.py"))
    assert all(f'"{path.name}"' in mentioned for path in EXAMPLES.iterdir() if path.is_file())


def test_score_one(server: Server, tmp_path: Path) -> None:
    printed = run("score_one.py", FACE, "--url", server.url)
    assert "probability of a fake" in printed
    assert "semantic_fusion: probability" in printed
    (broken := tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(AssertionError, match="unsupported_format"):
        run("score_one.py", broken, "--url", server.url)


def test_score_many(server: Server) -> None:
    lines = run("score_many.py", IMAGES, "--url", server.url, "--most", 3).splitlines()
    assert len(lines) == 3
    probabilities = [float(line.split()[0]) for line in lines]
    assert probabilities == sorted(probabilities, reverse=True)


def test_score_asyncio(server: Server) -> None:
    images = sorted(IMAGES.glob("*.png"))
    lines = run("score_asyncio.py", *images, "--url", server.url).splitlines()
    assert {line.split()[0] for line in lines} == set(map(str, images))


def test_frames(server: Server) -> None:
    assert "mean of 8 frames" in run("frames.py", IMAGES, "--url", server.url)


def test_plain_tritonclient(server: Server) -> None:
    lines = run("plain_tritonclient.py", FACE, FACE, "--url", server.url).splitlines()
    assert len(lines) == 2
    assert all(line.split()[1] == "ok" for line in lines)


def test_perf_analyzer_input(tmp_path: Path) -> None:
    run("perf_analyzer_input.py", IMAGES, "--output", tmp_path / "new" / "input.json")
    assert len(json.loads((tmp_path / "new" / "input.json").read_text())["data"]) == 8


def test_evaluate(server: Server, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(IMAGES.glob("*.png"))):
        (folder := tmp_path / "data" / ("real", "fake")[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    run("evaluate.sh", tmp_path / "data", tmp_path / "out", server.url)
    assert (tmp_path / "out" / "report.html").exists()


def test_the_notebook_draws_a_verdict(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("DEEPFAKE_CLIENT_URL", server.url)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # the user's own settings stay out
    notebook = nbformat.read(ROOT / "notebooks/draw_a_verdict.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("'status': 'ok'" in output.get("data", {}).get("text/plain", "") for output in outputs)
