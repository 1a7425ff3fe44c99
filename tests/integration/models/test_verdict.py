"""`deepfake_verdict` on the real server: the verdict of the full ensemble, by as few streams as that takes."""

import asyncio
import csv
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from deepfake_client import AsyncDetectorClient, DetectorClient, EarlyVerdict, Verdict
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ensemble.decision import verdicts
from ensemble.streams import STREAMS
from ensemble.voting import EnsembleScore
from tests import hostile
from tests.bulk import printed, score
from tests.conftest import Server, start_server
from tests.golden import BOXES, IMAGES, read_rgb
from tests.processes import kill_stub
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.server

FULL, EARLY = "deepfake_detector", "deepfake_verdict"
NAMES = [stream.name for stream in STREAMS]


def ask(url: str, model: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    tensors = []
    for name, values in inputs.items():
        tensor = triton.InferInput(name, values.shape, np_to_triton_dtype(values.dtype))
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    with triton.InferenceServerClient(url) as client:
        answer = client.infer(model, tensors, client_timeout=250)
    return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}


def column(files: list[bytes]) -> np.ndarray:
    return np.array([[data] for data in files], np.object_)


def photographs() -> list[bytes]:
    """The golden images and parts of them, each a little different to every stream."""
    pixels = [read_rgb(path) for path in IMAGES]
    parts = [image[top : top + 200, top : top + 200] for image in pixels for top in (0, 20, 56)]
    return [path.read_bytes() for path in IMAGES] + [hostile.encode(part, ".png") for part in parts]


def full_verdicts(full: dict[str, np.ndarray], threshold: float) -> list[str]:
    score = EnsembleScore(full["SCORE"][:, 0], full["PROBABILITY"][:, 0], *(np.empty(0, np.float32),) * 2)
    found = verdicts(score, np.full(len(score.score), threshold, np.float32))
    return [verdict or "" for verdict in found]


def text(values: np.ndarray) -> list[str]:
    return [value.decode() for value in values[:, 0]]


@pytest.fixture(scope="module")
def mixed(server: Server) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Photographs with a box each, and what the full ensemble says of them."""
    files = column(photographs())
    # One box each, so that the face search, which no test here is about, takes no time.
    boxes = np.float32([[60, 50, 190, 190] if n % 3 else [90, 90, 120, 120] for n in range(len(files))])
    return files, boxes, ask(server.url, FULL, IMAGE=files, FACE_BOX=boxes)


@pytest.mark.parametrize("threshold", [None, 0.2, 0.3, 0.35, 0.4, 0.5, 0.9])
def test_every_verdict_is_the_full_ensembles(
    server: Server, mixed: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]], threshold: float | None
) -> None:
    files, boxes, full = mixed
    inputs: dict[str, Any] = {"IMAGE": files, "FACE_BOX": boxes}
    if threshold is not None:
        inputs["THRESHOLD"] = np.full((len(files), 1), threshold, np.float32)
    early = ask(server.url, EARLY, **inputs)
    assert text(early["STATUS"]) == ["ok"] * len(files)
    assert text(early["VERDICT"]) == full_verdicts(full, np.nan if threshold is None else threshold)
    for ends, value in (("SCORE_RANGE", "SCORE"), ("PROBABILITY_RANGE", "PROBABILITY")):
        # The networks' own last digits depend on the batch.
        assert (early[ends][:, 0] <= full[value][:, 0] + 1e-5).all()
        assert (early[ends][:, 1] >= full[value][:, 0] - 1e-5).all()
    for row, run in enumerate(text(early["STREAMS_RUN"])):
        ran = [name in run.split(",") for name in NAMES]
        assert ran[0]
        assert ran[2]
        for values in ("STREAM_PROBABILITIES", "STREAM_VOTES"):
            assert np.isfinite(early[values][row]).tolist() == ran
            np.testing.assert_allclose(early[values][row][ran], full[values][row][ran], atol=1e-5)
        alike = early["SCORE_RANGE"][row, 0] == early["SCORE_RANGE"][row, 1]
        assert alike == all(ran)
        if all(ran):
            np.testing.assert_array_equal(early["FACE"][row], full["FACE"][row])
            assert early["FACE_SOURCE"][row] == full["FACE_SOURCE"][row]
        else:
            assert np.isnan(early["FACE"][row]).all()
            assert early["FACE_SOURCE"][row] == b"not_needed"


def test_both_ways_are_taken(server: Server, mixed: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]) -> None:
    files, boxes, _ = mixed
    ran = text(ask(server.url, EARLY, IMAGE=files, FACE_BOX=boxes)["STREAMS_RUN"])
    assert {"global_texture,semantic_fusion", ",".join(NAMES)} == set(ran)


def test_a_threshold_on_an_images_own_probability_is_not_passed(server: Server) -> None:
    files, boxes = column([IMAGES[0].read_bytes()]), np.float32([BOXES[IMAGES[0].name]])
    own = ask(server.url, FULL, IMAGE=files, FACE_BOX=boxes)["PROBABILITY"]
    tie = ask(server.url, EARLY, IMAGE=files, FACE_BOX=boxes, THRESHOLD=own)
    assert (text(tie["VERDICT"]), text(tie["STREAMS_RUN"])) == (["real"], [",".join(NAMES)])
    under = ask(server.url, EARLY, IMAGE=files, FACE_BOX=boxes, THRESHOLD=np.nextafter(own, np.float32(0)))
    assert text(under["VERDICT"]) == ["fake"]


@pytest.mark.parametrize(
    "case", [case for case in hostile.CASES if case.status != "ok"][:12], ids=lambda case: case.name
)
def test_a_bad_image_gets_its_status_and_its_neighbour_a_verdict(server: Server, case: hostile.Case) -> None:
    early = ask(server.url, EARLY, IMAGE=column([IMAGES[1].read_bytes(), case.data]))
    assert text(early["STATUS"]) == ["ok", case.status]
    assert text(early["VERDICT"]) == ["real", ""]
    assert np.isnan(early["SCORE_RANGE"][1]).all()
    assert np.isnan(early["STREAM_PROBABILITIES"][1]).all()
    assert text(early["STREAMS_RUN"])[1] == ""


def test_whoever_is_answered_has_left(server: Server) -> None:
    # More images, one after the other, than may be inside at once.
    files = column([path.read_bytes() for path in IMAGES[:1]] * 32)
    for _ in range(10):
        assert set(text(ask(server.url, EARLY, IMAGE=files, THRESHOLD=np.float32([[0.99]] * 32))["STATUS"])) == {"ok"}


ODD_STEP = """
import numpy as np
import triton_python_backend_utils as pb_utils

def answer(pixels):
    logits = np.tile(np.float32([0, 9]), (len(pixels), 1))
    if (pixels == [255, 0, 0]).all():
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("out of order"))
    logits[(pixels == [0, 255, 0]).all(axis=(1, 2, 3))] = np.nan
    if (pixels == [0, 0, 255]).all():
        logits = logits[:, :1]
    if (pixels == [255, 0, 255]).all():
        raise RuntimeError("broken")
    return pb_utils.InferenceResponse([pb_utils.Tensor("LOGITS", logits)])

class TritonPythonModel:
    def execute(self, requests):
        return [answer(pb_utils.get_input_tensor_by_name(each, "PIXELS").as_numpy()) for each in requests]
"""
"""A late stream that goes wrong where it is shown some colours, and else calls everything fake."""


@pytest.mark.slow
def test_a_late_step_that_is_odd_or_dead_leaves_no_request_without_an_answer(
    tiny_repository: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(tiny_repository, models)
    config = models / "local_facial" / "config.pbtxt"
    config.write_text(
        config.read_text().replace('backend: "onnxruntime"', 'backend: "python"').replace("model.onnx", "model.py")
    )
    (models / "local_facial" / "1" / "model.py").write_text(ODD_STEP)
    server = start_server(models, tmp_path / "log")
    files, boxes = column([IMAGES[0].read_bytes()]), np.float32([BOXES[IMAGES[0].name]])

    def ask_late(*colours: tuple[int, int, int]) -> dict[str, np.ndarray]:
        """Images of one colour, at thresholds that the late stream must decide."""
        flat = column([hostile.encode(np.full((256, 256, 3), colour, np.uint8), ".png") for colour in colours])
        inputs = {"IMAGE": flat, "FACE_BOX": np.float32([[78, 78, 178, 178]] * len(colours))}
        early = ask(server.url, EARLY, **inputs, THRESHOLD=np.zeros((len(colours), 1), np.float32))
        middle = early["PROBABILITY_RANGE"].mean(axis=1, keepdims=True)
        return ask(server.url, EARLY, **inputs, THRESHOLD=middle)

    def answer(_: int) -> str:
        try:
            return text(ask(server.url, EARLY, IMAGE=files, FACE_BOX=boxes)["VERDICT"])[0]
        except InferenceServerException as error:
            return str(error.message())

    def answers_of_a_dead_step() -> set[str]:
        """Other answers than the right one; none where another server stood there before anybody asked."""
        kill_stub(server.process.pid, "local_facial")
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(answer, range(8)))
        assert all(answers)
        return set(answers) - {"fake"}

    try:
        assert answer(0) == "fake"
        for colour in ((255, 0, 0), (0, 0, 255), (255, 0, 255)):
            with pytest.raises(InferenceServerException, match=r"local_facial|LOGITS|decision"):
                ask_late(colour)
        odd = ask_late((0, 255, 0), (9, 9, 9))
        assert text(odd["STATUS"]) == ["non_finite_logits", "ok"]
        assert text(odd["VERDICT"]) == ["", "fake"]
        assert np.isnan(odd["PROBABILITY_RANGE"]).all(axis=1).tolist() == [True, False]
        wait_for(answers_of_a_dead_step)
        wait_for(lambda: answer(0) == "fake", 2 * PATIENCE)  # The supervisor has started another server.
    finally:
        server.stop()


def test_the_clients_decide_as_they_score(server: Server) -> None:
    files: list[Any] = [*map(str, IMAGES), b"junk", "missing.png"]
    with DetectorClient(server.url) as client:
        full = list(client.score_many(files))
        early = list(client.decide_many(files))
        one = client.decide(IMAGES[0], threshold=full[0].probability)
    assert [verdict.verdict for verdict in early] == [verdict.verdict for verdict in full]
    assert [verdict.status for verdict in early] == [verdict.status for verdict in full]
    assert (one.verdict, one.probability) == ("real", full[0].probability)

    async def decide() -> tuple[EarlyVerdict, list[Verdict]]:
        async with AsyncDetectorClient(server.url) as client:
            return await client.decide(IMAGES[0]), [verdict async for verdict in client.decide_many(files)]

    first, again = asyncio.run(decide())
    assert first.to_dict() == early[0].to_dict()
    assert [verdict.to_dict() for verdict in again] == [verdict.to_dict() for verdict in early]


def test_thresholds_nearer_to_a_probability_than_float32_are_the_probability(server: Server) -> None:
    """Both ways compare in float32, so both call the image real."""
    with DetectorClient(server.url) as client:
        full = client.score(IMAGES[0])
        assert full.probability is not None
        for threshold in (full.probability - 1e-10, full.probability, full.probability + 1e-10):
            assert client.decide(IMAGES[0], threshold=threshold).verdict == full.decided_by(threshold).verdict == "real"


def test_the_command_line_asks_for_verdicts_alone(server: Server, tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deepfake_client", "score", str(IMAGES[0].parent), "--url", server.url]
        return subprocess.run([*command, *options], capture_output=True, text=True, timeout=250)

    full, early = run(), run("--verdict-only")
    words = [[json.loads(line)["verdict"] for line in done.stdout.splitlines()] for done in (full, early)]
    assert words[0] == words[1]
    assert len(words[0]) == len(IMAGES)
    assert "local_facial was not needed for 7 of 8 images (88%)" in early.stderr
    output = tmp_path / "rows.csv"
    assert run("--verdict-only", "--output", str(output)).returncode == 0
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert {row["streams_run"] for row in rows} == {"global_texture,semantic_fusion", ",".join(NAMES)}
    assert all(float(row["score_low"]) <= float(row["score_high"]) for row in rows)
    refused = run("--output", str(output))
    assert (refused.returncode, list(csv.DictReader(output.read_text().splitlines()))) == (2, rows)
    assert run("--verdict-only", "--faces", "all").returncode == 2


def test_a_forecast_says_what_the_run_would_take_and_writes_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake_client.cli.output.forecast.PROBE_SECONDS", 0.5)
    faces, here = tmp_path / "faces", tmp_path / "here"
    for folder in (faces, here):
        folder.mkdir()
    for image in (IMAGES[number] for number in (0, 1, 3, 4)):  # where a face is found at once
        shutil.copy(image, faces)
    monkeypatch.chdir(here)
    found = printed(score(server.url, faces, "--forecast", "--format", "jsonl"))[0]
    assert (found["images"], found["videos"]) == (4, 0)
    for name in ("full", "verdict_only"):
        each = found[name]
        assert each["hours"] * 3600 * each["images_per_second"] == pytest.approx(4)
        assert each["probe"]["images"] / each["probe"]["seconds"] == pytest.approx(each["images_per_second"])
    assert found["full"]["probe"]["left_out"] == {}
    assert set(found["verdict_only"]["probe"]["left_out"]) == {"local_facial"}
    assert list(here.iterdir()) == []
    told = score(server.url, faces, "--forecast", "--operating-point", "far=0.01")
    assert told.exit_code == 2  # the vote is not calibrated
    assert score(server.url, here, "--forecast").exit_code == 5
    assert score(server.url, IMAGES[0], "--forecast", "--output", "rows.csv").exit_code == 2
