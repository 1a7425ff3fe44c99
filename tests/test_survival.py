"""A step of the server is killed under load: the supervisor brings it back, and a retrying client loses nothing."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from deepfake_client import DetectorClient

from tests.conftest import Server, start_server
from tests.golden import BOXES, GOLDEN, ROWS

pytestmark = [pytest.mark.server, pytest.mark.slow]


def shared_memory(server: Server) -> list[Path]:
    return list(Path("/dev/shm").glob(f"deepfake_detector_{server.process.pid}_*"))


def test_a_killed_stub_costs_time_and_nothing_else(tiny_repository: Path, tmp_path: Path) -> None:
    server = start_server(tiny_repository, tmp_path / "log")
    items = [(GOLDEN / "images" / row["image"], BOXES[row["image"]]) for row in ROWS] * 30
    scores: list[float | None] = []

    def score() -> None:
        with DetectorClient(server.url, batch_size=2, max_in_flight=8, timeout=60) as client:
            scores.extend(verdict.score for verdict in client.score_many(items))

    load = threading.Thread(target=score)
    load.start()
    while len(scores) < 20:
        time.sleep(0.05)
    stubs = [p for p in psutil.Process(server.process.pid).children(recursive=True) if "stub" in p.name()]
    os.kill(stubs[len(stubs) // 2].pid, signal.SIGKILL)
    killed = time.monotonic()
    with DetectorClient(server.url) as client:
        time.sleep(1)  # The death has to be noticed before an answer means anything.
        client.wait_ready(timeout=60)
    assert time.monotonic() - killed < 30
    load.join(timeout=120)
    assert scores == [row["vote"] for row in ROWS] * 30

    assert shared_memory(server)
    processes = psutil.Process(server.process.pid).children(recursive=True)
    asked = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - asked < 15
    assert not [process for process in processes if process.is_running()]
    assert not shared_memory(server)
