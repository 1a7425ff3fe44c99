"""The whole deployment as its users run it: exported models, the real tritonserver, the real client over gRPC."""

import asyncio
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from deepfake_client import STREAM_NAMES, AsyncDetectorClient, DetectorClient, Verdict

from ensemble import status
from ensemble.streams import ENSEMBLE_NAME, MAX_BATCH_SIZE, STREAMS
from tests import hostile
from tests.conftest import Server
from tests.golden import BOXES, GOLDEN, IMAGES, ROWS, read_rgb
from tests.processes import living
from tests.waiting import wait_for

pytestmark = pytest.mark.server

GOLDEN_KEYS = dict(zip(STREAM_NAMES, ("global", "local", "semantic"), strict=True))
CLI = [sys.executable, "-m", "deepfake_client"]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[DetectorClient]:
    with DetectorClient(server.url, timeout=60) as client:
        yield client


def assert_equals_golden(verdict: Verdict, row: dict) -> None:
    assert verdict.status == "ok"
    assert verdict.score == row["vote"]
    for name, key in GOLDEN_KEYS.items():
        assert verdict.streams[name].probability == pytest.approx(row[key]["prob_fake"], abs=1e-4)
        assert verdict.streams[name].vote == float(row[key]["quantised"])
    if row["local_is_original"]:
        assert verdict.face.source == "too_small"
        assert verdict.face.box is None
    else:
        assert verdict.face.source == "supplied"
        assert list(verdict.face.box) == row["box"]
    assert verdict.face.confidence is None


@pytest.mark.parametrize("row", ROWS, ids=[row["image"] for row in ROWS])
def test_scores_equal_the_authors(client: DetectorClient, row: dict) -> None:
    image = (GOLDEN / "images" / row["image"]).read_bytes()
    assert_equals_golden(client.score(image, face_box=row["box"]), row)


def test_a_batch_scores_as_its_images_do_alone(client: DetectorClient, server: Server) -> None:
    items = [(path, BOXES[path.name] if index % 2 else None) for index, path in enumerate(IMAGES)]
    alone = [client.score(path, face_box=box) for path, box in items]
    with DetectorClient(server.url, batch_size=MAX_BATCH_SIZE, max_in_flight=1) as batches:
        together = list(batches.score_many(items * 4))
    for index, verdict in enumerate(together):
        expected = alone[index % len(items)]
        assert verdict.score == expected.score
        assert verdict.face == expected.face
        for name in STREAM_NAMES:
            assert verdict.streams[name].probability == pytest.approx(expected.streams[name].probability, abs=1e-5)


def test_a_face_is_detected_where_none_is_supplied(client: DetectorClient) -> None:
    verdict = client.score(GOLDEN / "images" / "01_face_close.png")
    assert verdict.face.source == "raw"
    assert 0.5 < verdict.face.confidence <= 1
    x1, y1, x2, y2 = verdict.face.box
    assert 60 < (x1 + x2) / 2 < 182
    assert 58 < (y1 + y2) / 2 < 190


def test_hostile_files_get_their_status_and_harm_no_neighbour(server: Server) -> None:
    row = ROWS[1]
    photo = ((GOLDEN / "images" / row["image"]).read_bytes(), row["box"])
    items = [item for case in hostile.CASES for item in ((case.data, None), photo)]
    random.Random(0).shuffle(items)
    expected = {case.data: case.status for case in hostile.CASES}
    with DetectorClient(server.url, batch_size=16, max_in_flight=8, retries=0) as client:
        verdicts = list(client.score_many(items))
    assert len(verdicts) == len(items)
    for (data, box), verdict in zip(items, verdicts, strict=True):
        if box is not None:
            assert_equals_golden(verdict, row)
        else:
            assert verdict.status == expected[data]
            assert (verdict.score is None) == (verdict.status != status.OK)
            assert (verdict.probability is None) == (verdict.status != status.OK)
            if verdict.status != status.OK:
                assert verdict.face.box is None
                assert all(stream.probability is None for stream in verdict.streams.values())


def test_a_bomb_does_not_grow_the_server(server: Server, client: DetectorClient) -> None:
    def resident() -> int:
        total = 0
        for process in living(server.process.pid):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    bomb = hostile.png_declaring(60000, 60000)
    assert client.score(bomb).status == status.TOO_MANY_PIXELS
    before = resident()
    verdicts = list(client.score_many([bomb] * 200))
    assert {verdict.status for verdict in verdicts} == {status.TOO_MANY_PIXELS}
    assert resident() - before < 500 * 2**20  # One of them decoded would take 10.8 GB.


@pytest.mark.parametrize("box", [(9, 9, 1, 1), (math.nan, 0, 5, 5), (1e6, 1e6, 2e6, 2e6), (-1e9, -1e9, 1e9, 1e9)])
def test_a_wrong_face_box_is_a_status(client: DetectorClient, box: tuple[float, ...]) -> None:
    assert client.score(IMAGES[0], face_box=box).status == status.INVALID_FACE_BOX
    assert client.score(IMAGES[0], face_box=BOXES[IMAGES[0].name]).status == status.OK


def test_asyncio_client_scores_the_same(server: Server) -> None:
    async def score() -> list[Verdict]:
        async with AsyncDetectorClient(server.url, batch_size=3) as client:
            items = [(path, BOXES[path.name]) for path in IMAGES]
            return [verdict async for verdict in client.score_many(items)]

    for verdict, row in zip(asyncio.run(score()), ROWS, strict=True):
        assert_equals_golden(verdict, row)


def test_backbones_give_the_golden_logits_and_features(server: Server) -> None:
    golden = np.load(GOLDEN / "tiny" / "features.npz")
    image = read_rgb(IMAGES[0])[None, 2:254, 2:254]
    pixels = triton.InferInput("PIXELS", image.shape, "UINT8")
    pixels.set_data_from_numpy(np.ascontiguousarray(image))
    with triton.InferenceServerClient(server.url) as raw:
        answer = raw.infer("global_texture", [pixels])
    np.testing.assert_allclose(answer.as_numpy("LOGITS")[0], ROWS[0]["global"]["logits"], atol=1e-4)
    np.testing.assert_allclose(answer.as_numpy("FEATURES")[0], golden["00_face.png:global"], atol=1e-4)


def test_the_server_says_that_its_weights_are_untrained(server: Server, client: DetectorClient) -> None:
    provenance = client.provenance()
    assert provenance is not None
    assert provenance.untrained
    assert set(provenance.document["streams"]) == {stream.name for stream in STREAMS}
    assert "UNTRAINED" in server.log.read_text()


def test_doctor_and_log_say_which_face_detector_is_used(server: Server) -> None:
    assert "face detector haar, all attempts" in server.log.read_text()
    doctor = [sys.executable, "-m", "server", "doctor", "--model-repository", str(server.repository)]
    done = subprocess.run([*doctor, "--url", server.url], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "haar, all attempts" in done.stdout
    assert "answered a real inference" in done.stdout


def test_load_is_answered_in_full_and_leaves_nothing(server: Server) -> None:
    rng = random.Random(1)
    items = [(path, box) for path, box in ((p, BOXES[p.name]) for p in IMAGES)]
    expected = {row["image"]: row["vote"] for row in ROWS}

    async def load(requests: int, in_flight: int) -> int:
        gate = asyncio.Semaphore(in_flight)
        async with AsyncDetectorClient(server.url, batch_size=MAX_BATCH_SIZE, timeout=120, retries=0) as client:

            async def one() -> int:
                batch = rng.choices(items, k=rng.randint(1, 4))
                async with gate:
                    verdicts = [verdict async for verdict in client.score_many(batch)]
                assert [verdict.score for verdict in verdicts] == [expected[path.name] for path, _ in batch]
                return len(verdicts)

            return sum(await asyncio.gather(*[one() for _ in range(requests)]))

    with triton.InferenceServerClient(server.url) as raw:

        def counts() -> Any:
            return raw.get_inference_statistics(ENSEMBLE_NAME).model_stats[0].inference_stats

        before = counts()
        images = asyncio.run(load(150, 48))
        # A request is counted after its answer has gone. The supervisor probes too.
        wait_for(lambda: counts().success.count - before.success.count >= 150, hint=counts)
        assert counts().fail.count == before.fail.count
        assert images > 150


def score_cli(server: Server, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, "score", *map(str, arguments), "--url", server.url], capture_output=True, text=True, timeout=120
    )


def test_cli_scores_a_folder_to_jsonl(server: Server, tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    done = score_cli(server, GOLDEN / "images", "--output", output)
    assert done.returncode == 0, done.stderr
    assert "UNTRAINED" in done.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(row["path"]).name for row in rows] == [path.name for path in IMAGES]
    fields = {"path", "status", "score", "probability", "verdict", "streams", "face", "weights"}
    assert all(set(row) == fields for row in rows)
    assert all(set(row["weights"]) == {"identity", "untrained"} for row in rows)


def test_cli_reports_what_could_not_be_scored(server: Server, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(IMAGES[0].read_bytes())
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    output = tmp_path / "scores.csv"
    done = score_cli(server, tmp_path, tmp_path / "missing.png", "--output", output)
    assert done.returncode == 1
    table = output.read_text()
    assert "unsupported_format" in table
    assert "unreadable_file" in table
    assert table.count(",ok,") == 1


def test_answers_stay_within_their_ranges(client: DetectorClient) -> None:
    rng = np.random.default_rng(0)
    images = [hostile.encode(rng.integers(0, 256, (h, w, 3), np.uint8), ".png") for h, w in [(40, 90), (300, 256)]]
    for verdict in client.score_many(images):
        assert verdict.status == status.OK
        assert 0 <= verdict.probability <= 1
        assert round(verdict.score * 10) == pytest.approx(verdict.score * 10)
        weighted = sum(s.weight * verdict.streams[s.name].probability for s in STREAMS) / sum(s.weight for s in STREAMS)
        assert verdict.probability == pytest.approx(weighted, abs=1e-6)
