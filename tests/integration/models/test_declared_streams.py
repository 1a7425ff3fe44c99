"""One specification entry more, or one less: exported, served and scored, by a copy of the sources with that change."""

import json
import shutil
import site
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.standin.layout import Layout
from tests.conftest import free_ports
from tests.golden import IMAGES
from tests.unit.export.test_other_methods import other_network
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("ensemble", "networks", "export", "server", "model_repository", "degradation")
ENTRY = "STREAMS = (GLOBAL_TEXTURE, LOCAL_FACIAL, SEMANTIC_FUSION)"


Row = dict[str, Any]


class Copy:
    """The sources with other streams, and a Python that finds them before all else, inside tritonserver too."""

    def __init__(self, folder: Path, layout: Layout, entry: str) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "*.onnx", "*.onnx.data", "provenance.json", ".staging*")
        for name in SOURCES:
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copytree(ROOT / "client", folder / "client", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "contract", folder / "scripts")
        (folder / ".triton").symlink_to(layout.root)
        source = folder / "ensemble" / "streams.py"
        text = source.read_text()
        assert ENTRY in text
        source.write_text(text.replace(ENTRY, entry))
        subprocess.run([folder / "scripts" / "contract"], check=True)
        venv.create(folder / "venv", symlinks=True)
        self._python = folder / "venv" / "bin" / "python"
        (packages,) = (folder / "venv" / "lib").glob("python3*/site-packages")
        paths = [folder, folder / "client", *site.getsitepackages()]
        (packages / "copy.pth").write_text("".join(f"{path}\n" for path in paths))

    def run(self, *arguments: str | Path) -> str:
        done = subprocess.run(self.command(*arguments), cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def command(self, *arguments: str | Path) -> list[str]:
        return [str(self._python), "-m", *map(str, arguments)]

    @contextmanager
    def served(self, repository: Path) -> Iterator[str]:
        """Serves a repository; gives the address."""
        grpc, http, metrics = free_ports(3)
        ports = ["--grpc-port", str(grpc), "--http-port", str(http), "--metrics-port", str(metrics)]
        log = self.folder / "server.log"
        with log.open("w") as file:
            command = self.command("server", "--model-repository", repository, *ports)
            process = subprocess.Popen(command, cwd=self.folder, stdout=file, stderr=file)
            try:
                self.wait(f"127.0.0.1:{grpc}", process, log)
                yield f"127.0.0.1:{grpc}"
            except BaseException:
                sys.stderr.write(log.read_text()[-4000:])
                raise
            finally:
                process.terminate()
                process.wait(PATIENCE)

    def wait(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        """Waits for the first answer."""
        while subprocess.run(self.command("deepfake_client", "info", "--url", url), capture_output=True).returncode:
            assert process.poll() is None, log.read_text()[-4000:]
            time.sleep(2)

    def scores(self, repository: Path, images: Sequence[Path]) -> tuple[list[Row], list[Row]]:
        """The rows of the full ensemble, and those of early verdicts."""
        with self.served(repository) as url:
            return self._rows(url, images), self._rows(url, images, "--verdict-only")

    def _rows(self, url: str, images: Sequence[Path], *options: str) -> list[Row]:
        output = self.folder / f"rows{''.join(options)}.jsonl"
        self.run("deepfake_client", "score", *images, "--url", url, "--output", output, *options)
        return [json.loads(line) for line in output.read_text().splitlines()]


REFERENCE = """
import json, sys
from pathlib import Path
import onnxruntime
from ensemble.faces.haar import HaarDetector
from ensemble.images import Limits, read_image
from ensemble.pipeline import score
from ensemble.streams import STREAMS
repository, *paths = map(Path, sys.argv[1:])
sessions = {s.name: onnxruntime.InferenceSession(repository / s.name / "1" / "model.onnx") for s in STREAMS}
networks = {n: lambda pixels, s=s: s.run(["LOGITS"], {"PIXELS": pixels})[0] for n, s in sessions.items()}
result = score([read_image(path.read_bytes(), Limits()) for path in paths], networks, HaarDetector()).result
names = ("score", "probability", "stream_probabilities", "stream_votes")
print(json.dumps({name: getattr(result, name).tolist() for name in names}))
"""


def reference(copy: Copy, repository: Path, images: Sequence[Path]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """What the plain pipeline makes of the same models."""
    (copy.folder / "reference.py").write_text(REFERENCE)
    command = [str(copy._python), "reference.py", str(repository), *map(str, images)]
    done = subprocess.run(command, cwd=copy.folder, capture_output=True, text=True, check=True)
    return {name: np.array(values) for name, values in json.loads(done.stdout).items()}


def agree(rows: Sequence[Row], expected: dict[str, np.ndarray], names: Sequence[str]) -> None:  # type: ignore[type-arg]
    assert [row["status"] for row in rows] == ["ok"] * len(rows)
    for index, row in enumerate(rows):
        streams = row["streams"]
        assert list(streams) == list(names)
        probabilities = [streams[name]["probability"] for name in names]
        np.testing.assert_allclose(probabilities, expected["stream_probabilities"][index], atol=1e-5)
        np.testing.assert_allclose(row["probability"], expected["probability"][index], atol=1e-5)
        np.testing.assert_allclose(row["score"], expected["score"][index], atol=1e-6)


def decide_alike(rows: Sequence[Row], early: Sequence[Row], always: set[str]) -> None:
    """The verdicts are those of all streams, whatever ran beside those that always do."""
    assert [row["verdict"] for row in early] == [row["verdict"] for row in rows]
    for full, row in zip(rows, early, strict=True):
        ran = set(row["streams_run"])
        assert always <= ran <= set(full["streams"])
        for values in ("score", "probability"):
            low, high = row[f"{values}_range"]
            assert low - 1e-5 <= full[values] <= high + 1e-5
        for name, stream in row["streams"].items():
            assert (stream["probability"] is not None) == (name in ran)
        if "local_facial" in ran:
            assert row["face"] == full["face"]


@pytest.mark.timeout(1800)
def test_streams_more_are_exported_served_and_scored(layout: Layout, tmp_path: Path) -> None:
    """One of the method's own kind, of another size and framing and with weight 1, and one of another method."""
    fourth = 'Stream("eyes", "Eyes", "eyes.pth", 196, 1, "face_resize")'
    fifth = 'Stream("colour", "Colour", "colour.onnx", 96, 1, "resize")'
    copy = Copy(tmp_path, layout, f"{ENTRY[:-1]}, {fourth}, {fifth})")
    weights, repository = tmp_path / "weights", tmp_path / "models"
    weights.mkdir()
    other_network(weights / "colour.onnx")
    copy.run("export", "--weights", weights, "--repository", repository, "--random-weights", "tiny")
    images = IMAGES[:3]
    rows, early = copy.scores(repository, images)
    expected = reference(copy, repository, images)
    names = ["global_texture", "local_facial", "semantic_fusion", "eyes", "colour"]
    agree(rows, expected, names)
    votes = expected["stream_votes"]
    np.testing.assert_allclose(expected["score"], np.round(votes @ [2, 1, 2, 1, 1] / 7, 1), atol=1e-6)
    decide_alike(rows, early, {"global_texture", "semantic_fusion"})


@pytest.mark.timeout(1800)
def test_a_stream_less_is_gone_everywhere_and_a_heavy_face_stream_decides_first(layout: Layout, tmp_path: Path) -> None:
    heavy = 'Stream("local_facial", "Localized Facial", "dinov2_252_crop.pth", 252, 6, "face")'
    copy = Copy(tmp_path, layout, f"STREAMS = ({heavy}, SEMANTIC_FUSION)")
    weights, repository = tmp_path / "weights", tmp_path / "models"
    copy.run("export", "--weights", weights, "--repository", repository, "--random-weights", "tiny")
    assert not (repository / "global_texture").exists()
    assert not (weights / "dinov2_252.pth").exists()
    rows, early = copy.scores(repository, IMAGES)
    agree(rows, reference(copy, repository, IMAGES), ["local_facial", "semantic_fusion"])
    decide_alike(rows, early, {"local_facial"})
    assert "local_facial" in {name for row in early if len(row["streams_run"]) == 1 for name in row["streams_run"]}
