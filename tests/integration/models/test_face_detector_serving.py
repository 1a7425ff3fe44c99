"""The detector behind face_crop, through the real server: RetinaFace, and one that fails or answers nonsense."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from deepfake_client import DetectorClient
from onnx import TensorProto, helper, numpy_helper

from benchmarks.faces import OnnxRetinaFace
from ensemble.faces import retinaface
from ensemble.faces.localisation import locate_faces
from export.layout import CONFIGURATIONS
from networks.faces.gfpgan_checkpoints import (
    ALIGNER_FILE,
    GFPGAN_FILE,
    PARSENET_FILE,
    write_random_face_aligner,
    write_random_gfpgan,
    write_random_parsenet,
)
from networks.faces.retinaface_weights import write_random_retinaface
from tests import hostile
from tests.conftest import start_server
from tests.golden import IMAGES, read_rgb
from tests.waiting import PATIENCE, wait_for

pytestmark = [pytest.mark.server, pytest.mark.slow]

CONFIG = CONFIGURATIONS / "face_detector.pbtxt"


def detector(values: dict[str, float], fail: bool = False) -> onnx.ModelProto:
    """A detector of 2×2 cells a stride that answers the same for every image, or fails at run time."""
    nodes = [
        helper.make_node("Cast", ["PIXELS"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["float", "starts", "ends", "sides"], ["cells"]),  # whose number stays free
        helper.make_node("ReduceMean", ["cells", "channels"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "nought"], ["zero"]),
    ]
    constants = {
        "starts": np.array([0, 0], np.int64),
        "ends": np.array([2, 2], np.int64),
        "sides": np.array([1, 2], np.int64),
        "channels": np.array([3], np.int64),
        "nought": np.float32(0),
        "index": np.array([7 if fail else 0], np.int64),
    }
    nodes.append(helper.make_node("Gather", ["nought_row", "index"], ["gathered"]))
    constants["nought_row"] = np.zeros(1, np.float32)
    nodes.append(helper.make_node("Add", ["zero", "gathered"], ["base"]))
    outputs = []
    for name in retinaface.OUTPUTS:
        head = name.split("_")[0]
        channels = {"SCORES": 4, "BOXES": 8, "LANDMARKS": 20}[head]
        constants[f"constant_{name}"] = np.full((1, 1, 1, channels), values[head], np.float32)
        nodes.append(helper.make_node("Add", ["base", f"constant_{name}"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "rows", "columns", channels]))
    pixels = helper.make_tensor_value_info("PIXELS", TensorProto.UINT8, ["batch", "height", "width", 3])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "detector", [pixels], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def with_detector(repository: Path, model: onnx.ModelProto, target: Path) -> Path:
    shutil.copytree(repository, target)
    (target / "face_detector" / "1").mkdir(parents=True)
    config = CONFIG.read_text().partition("model_warmup")[0]  # A detector that fails would not survive it.
    (target / "face_detector" / "config.pbtxt").write_text(config)
    onnx.save(model, target / "face_detector" / "1" / "model.onnx")
    return target


NONSENSE = {
    "nan": {"SCORES": float("nan"), "BOXES": float("nan"), "LANDMARKS": 0.0},
    "infinite": {"SCORES": float("inf"), "BOXES": float("inf"), "LANDMARKS": float("inf")},
    "fails": {"SCORES": 0.99, "BOXES": 0.0, "LANDMARKS": 0.0},
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_a_useless_detector_leaves_no_face_and_a_score(kind: str, tiny_repository: Path, tmp_path: Path) -> None:
    model = detector(NONSENSE[kind], fail=kind == "fails")
    server = start_server(with_detector(tiny_repository, model, tmp_path / "models"), tmp_path / "log")
    with DetectorClient(server.url, timeout=PATIENCE, retries=0) as client:
        verdicts = list(client.score_many([*IMAGES[:4], (IMAGES[1], (60, 58, 182, 190))]))
    assert server.stop() == 0
    assert [verdict.status for verdict in verdicts] == ["ok"] * 5
    assert [verdict.face.source for verdict in verdicts] == ["none"] * 4 + ["supplied"]
    assert all(verdict.face.box is None for verdict in verdicts[:4])
    if kind == "fails":
        assert "face_detector failed" in server.log.read_text()


@pytest.mark.heavy
def test_retinaface_serves_what_it_finds_in_process(tmp_path: Path) -> None:
    """Random weights: what is found means nothing, but it must be the same, in batches of images of any sizes."""
    weights = tmp_path / "weights"
    weights.mkdir()
    write_random_retinaface(weights / "retinaface.h5")
    options = ["--random-weights", "tiny", "--weights", str(weights), "--repository", str(tmp_path / "models")]
    done = subprocess.run([sys.executable, "-m", "export", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    images = [read_rgb(IMAGES[1]), cv2.resize(read_rgb(IMAGES[0]), (200, 140))]
    local = OnnxRetinaFace(tmp_path / "models" / "face_detector" / "1" / "model.onnx")
    expected = locate_faces(images, [None] * len(images), local)

    server = start_server(tmp_path / "models", tmp_path / "log")
    with DetectorClient(server.url, timeout=250, batch_size=len(images), retries=0) as client:
        verdicts = list(client.score_many(_png(images)))
        provenance = client.provenance()
    assert server.stop() == 0
    assert "face detector: retinaface" in server.log.read_text()
    assert provenance is not None
    assert provenance.document["face_detector"] == "retinaface"
    for verdict, location in zip(verdicts, expected, strict=True):
        assert verdict.face.source == location.source
        if location.box is not None:
            np.testing.assert_allclose(verdict.face.box, location.box, atol=1)
        if location.confidence is not None:
            assert verdict.face.confidence == pytest.approx(location.confidence, abs=1e-3)


@pytest.mark.heavy
def test_gfpgan_runs_in_the_attempts_that_are_its_own(tmp_path: Path) -> None:
    """Narrow networks of random weights in the published layout; the export takes their widths from the files."""
    weights = tmp_path / "weights"
    weights.mkdir()
    write_random_face_aligner(weights / ALIGNER_FILE)
    write_random_gfpgan(weights / GFPGAN_FILE, width=64)
    write_random_parsenet(weights / PARSENET_FILE, width=8)
    options = ["--random-weights", "tiny", "--weights", str(weights), "--repository", str(tmp_path / "models")]
    done = subprocess.run([sys.executable, "-m", "export", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    server = start_server(tmp_path / "models", tmp_path / "log")
    with DetectorClient(server.url, timeout=250, retries=0) as client, triton.InferenceServerClient(server.url) as raw:
        before = _inferences(raw, "face_aligner")
        verdict = client.score(np.asarray(cv2.imencode(".png", np.full((256, 256, 3), 90, np.uint8))[1]).tobytes())
        wait_for(lambda: _inferences(raw, "face_aligner") - before >= 3)  # counted after their answers have gone
    assert server.stop() == 0
    assert "median9, gfpgan, gfpgan_bilateral, gfpgan_median9, sharpen_clahe" in server.log.read_text()
    assert (verdict.status, verdict.face.source) == ("ok", "none")


def _inferences(raw: triton.InferenceServerClient, model: str) -> int:
    return int(raw.get_inference_statistics(model).model_stats[0].inference_count)


def _png(images: Sequence[np.ndarray]) -> list[bytes]:
    return [hostile.encode(np.ascontiguousarray(image[..., ::-1]), ".png") for image in images]
