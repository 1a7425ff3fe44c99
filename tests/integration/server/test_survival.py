"""What a server must survive: a step that is killed under load, and requests that are given up."""

import asyncio
import os
import random
import signal
import threading
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from deepfake_client import DetectorClient
from deepfake_client.images.items import make_item, read
from deepfake_client.transport.wire import build_inputs
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.conftest import Server, start_server
from tests.golden import BOXES, GOLDEN, ROWS
from tests.processes import living, stubs
from tests.waiting import PATIENCE, wait_for

pytestmark = [pytest.mark.server, pytest.mark.slow]


def steps(server: Server) -> set[int]:
    """The processes of the server's steps."""
    return {process.pid for process in stubs(server.process.pid)}


def shared_memory(server: Server) -> list[Path]:
    return list(Path("/dev/shm").glob(f"deepfake_detector_{server.process.pid}_*"))


def test_a_killed_stub_costs_time_and_nothing_else(tiny_repository: Path, tmp_path: Path) -> None:
    server = start_server(tiny_repository, tmp_path / "log")
    items = [(GOLDEN / "images" / row["image"], BOXES[row["image"]]) for row in ROWS] * 30
    scores: list[float | None] = []

    def score() -> None:
        with DetectorClient(server.url, batch_size=2, max_in_flight=8, timeout=PATIENCE) as client:
            scores.extend(verdict.score for verdict in client.score_many(items))

    load = threading.Thread(target=score)
    load.start()
    while len(scores) < 20:
        time.sleep(0.05)
    steps_then = sorted(steps(server))
    os.kill(steps_then[len(steps_then) // 2], signal.SIGKILL)
    with DetectorClient(server.url) as client:
        # The death has to be noticed before an answer means anything.
        wait_for(lambda: "RESTARTING" in server.log.read_text())
        client.wait_ready(timeout=PATIENCE)
    load.join(timeout=2 * PATIENCE)
    assert scores == [row["vote"] for row in ROWS] * 30

    assert shared_memory(server)
    processes = living(server.process.pid)
    assert server.stop() == 0
    assert "stopped in" in server.log.read_text()  # it had nothing to finish, and ended by itself
    assert not [process for process in processes if process.is_running()]
    assert not shared_memory(server)


async def give_up(url: str, seconds: float) -> int:
    """Sends requests with deadlines at random, most of them too short, for some time; how many were given up."""
    end = time.monotonic() + seconds
    calls = [build_inputs([read(make_item(GOLDEN / "images" / row["image"], BOXES[row["image"]]))]) for row in ROWS]

    async def send(chance: random.Random) -> int:
        given_up = 0
        async with InferenceServerClient(url) as client:
            while time.monotonic() < end:
                try:
                    deadline = chance.choice([0.05, 0.6, 5.0]) * chance.random()
                    await client.infer("deepfake_detector", chance.choice(calls), client_timeout=deadline)
                except InferenceServerException as error:
                    assert "DEADLINE_EXCEEDED" in (error.status() or ""), error  # noqa: PT017
                    given_up += 1
        return given_up

    return sum(await asyncio.gather(*(send(random.Random(seed)) for seed in range(12))))


def test_requests_that_are_given_up_do_no_harm(tiny_repository: Path, tmp_path: Path) -> None:
    """Without the amended library tritonserver 2.51 ends by SIGSEGV within seconds of this."""
    server = start_server(tiny_repository, tmp_path / "log")
    before = steps(server)
    assert asyncio.run(give_up(server.url, 10)) > 20
    with DetectorClient(server.url) as client:
        for row in ROWS:
            assert client.score(GOLDEN / "images" / row["image"], BOXES[row["image"]]).score == row["vote"]
    assert steps(server) == before

    def pending() -> list[str]:
        with urlopen(f"http://localhost:{server.metrics_port}/metrics") as answer:
            metrics = answer.read().decode()
        lines = [line for line in metrics.splitlines() if line.startswith("nv_inference_pending_request_count{")]
        assert len(lines) == len(list(tiny_repository.glob("*/config.pbtxt")))
        return lines

    wait_for(lambda: all(line.endswith(" 0") for line in pending()), hint=pending)
    assert server.stop() == 0
