"""How requests are kept in flight: order, overload, slow requests, memory."""

import asyncio
import contextlib
import heapq
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from deepfake_client import AsyncDetectorClient, DetectorClient, ServerOverloadedError, Verdict
from deepfake_client._flight import Flight
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.conftest import start_server
from tests.fake_triton import FakeTriton, Fault, hang, serving
from tests.golden import BOXES, GOLDEN, ROWS

Scorer = Callable[..., list[Verdict]]


def score_unordered(url: str, items: Any, **options: Any) -> list[Verdict]:
    with DetectorClient(url, **options) as client:
        return list(client.score_many(items, ordered=False))


def score_unordered_asyncio(url: str, items: Any, **options: Any) -> list[Verdict]:
    async def run() -> list[Verdict]:
        async with AsyncDetectorClient(url, **options) as client:
            return [verdict async for verdict in client.score_many(items, ordered=False)]

    return asyncio.run(run())


@pytest.fixture(params=[score_unordered, score_unordered_asyncio], ids=["blocking", "asyncio"])
def score(request: pytest.FixtureRequest) -> Scorer:
    return request.param


def test_unordered_verdicts_do_not_wait_for_a_slow_one_and_name_their_items(score: Scorer) -> None:
    def dawdle(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        if b"slow" in request.raw_input_contents[0]:
            time.sleep(1)

    images = [b"slow", *(b"%.1f" % (n % 11 / 10) for n in range(40))]
    with serving() as server:
        server.fault = dawdle
        verdicts = score(server.url, images, batch_size=1, max_in_flight=2)
    assert verdicts[-1].index == 0
    assert sorted(v.index for v in verdicts if v.index is not None) == list(range(41))
    assert all(v.score == float(images[v.index]) for v in verdicts[:-1] if v.index is not None)


def test_the_same_path_twice_gives_two_verdicts_that_can_be_told_apart(score: Scorer, tmp_path: Any) -> None:
    (tmp_path / "a.jpg").write_bytes(b"0.1")
    with serving() as server:
        verdicts = score(server.url, [tmp_path / "a.jpg", "missing.jpg", tmp_path / "a.jpg"], batch_size=1)
    assert {v.index: v.status for v in verdicts} == {0: "ok", 1: "unreadable_file", 2: "ok"}


def test_in_order_one_image_that_takes_for_ever_bounds_what_is_taken() -> None:
    taken = 0
    released = threading.Event()

    def source() -> Iterator[bytes]:
        nonlocal taken
        for n in range(200):
            taken += 1
            yield b"slow" if n == 0 else b"0.1"

    def dawdle(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        if b"slow" in request.raw_input_contents[0]:
            released.wait(20)

    with serving() as server, DetectorClient(server.url, batch_size=2, max_in_flight=2) as client:
        server.fault = dawdle
        verdicts = client.score_many(source())
        first = threading.Thread(target=next, args=(verdicts,))
        first.start()
        time.sleep(1)
        assert taken <= 2 * 2 * 2
        released.set()
        first.join()
        assert len(list(verdicts)) == 199


# overload


def turn_away_above(server: FakeTriton, most: int) -> Fault:
    """What Triton answers when the queue of a step is full."""

    def fault(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        if server._in_flight > most:
            context.abort(grpc.StatusCode.UNAVAILABLE, "in ensemble 'deepfake_detector', Exceeds maximum queue size")
        time.sleep(0.02)

    return fault


def test_an_overloaded_server_loses_nothing_however_few_the_retries(score: Scorer) -> None:
    with serving() as server:
        server.fault = turn_away_above(server, 1)
        verdicts = score(server.url, [b"0.1"] * 60, batch_size=1, max_in_flight=16, retries=1)
    assert [verdict.status for verdict in verdicts] == ["ok"] * 60


def test_overload_halves_what_is_in_flight_and_leaves_the_server_in() -> None:
    with serving() as server, DetectorClient(server.url, batch_size=1, retries=1) as client:
        server.fault = turn_away_above(server, 2)
        list(client.score_many([b"0.1"] * 60))
        (status,) = client.servers
        assert status.available
        assert status.failed < 20
        assert status.limit <= 4


def test_overload_that_lasts_ends_with_the_deadline_and_says_so() -> None:
    with serving() as server, DetectorClient(server.url, timeout=2) as client:
        server.fault = turn_away_above(server, 0)
        started = time.monotonic()
        with pytest.raises(ServerOverloadedError, match=r"overloaded .*queue size.*; ask for less at a time"):
            client.score(b"0.1")
        assert 1 < time.monotonic() - started < 8


def test_without_retries_an_overloaded_server_is_told_at_once() -> None:
    with serving() as server, DetectorClient(server.url, retries=0) as client:
        server.fault = turn_away_above(server, 0)
        with pytest.raises(ServerOverloadedError):
            client.score(b"0.1")
        assert server.calls == 1


def test_a_server_that_works_on_many_at_once_gets_many() -> None:
    with serving() as server, DetectorClient(server.url, batch_size=1, max_in_flight=12) as client:
        server.fault = hang(0.05)
        list(client.score_many([b"0.1"] * 200))
    assert server.peak == 12


def test_a_server_that_works_on_one_at_a_time_is_not_flooded() -> None:
    lock = threading.Lock()

    def one_at_a_time(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        with lock:
            time.sleep(0.02)

    with serving() as server, DetectorClient(server.url, batch_size=1, max_in_flight=16) as client:
        server.fault = one_at_a_time
        list(client.score_many([b"0.1"] * 150))
    assert server.peak <= 8


@pytest.mark.server
@pytest.mark.slow
def test_the_real_server_with_a_full_queue_loses_nothing(tiny_repository: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(tiny_repository, repository)
    config = repository / "preprocess" / "config.pbtxt"
    text = config.read_text()
    limit = 'key: "max_pending" value { string_value: "256" }'
    assert limit in text
    config.write_text(text.replace(limit, limit.replace("256", "3")))
    server = start_server(repository, tmp_path / "log")
    items = [(GOLDEN / "images" / row["image"], BOXES[row["image"]]) for row in ROWS] * 2

    async def run() -> tuple[list[list[Verdict]], int]:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(AsyncDetectorClient(server.url, batch_size=1, timeout=120, retries=1))
                for _ in range(6)
            ]

            async def score(client: AsyncDetectorClient) -> list[Verdict]:
                return [verdict async for verdict in client.score_many(items)]

            verdicts = await asyncio.gather(*map(score, clients))
            return verdicts, sum(client.servers[0].failed for client in clients)

    try:
        verdicts, turned_away = asyncio.run(run())
    finally:
        assert server.stop() == 0
    assert turned_away > 0
    assert [[v.score for v in each] for each in verdicts] == [[row["vote"] for row in ROWS] * 2] * 6


# the rule by itself


class Queue:
    """A server that works on `width` requests at once, each for about `seconds`; the others wait."""

    def __init__(self, width: int, seconds: float) -> None:
        self.seconds = seconds
        self.free = [0.0] * width
        self.rng = random.Random(0)

    def finish(self, now: float) -> float:
        start = max(now, heapq.heappop(self.free))
        end = start + self.seconds * self.rng.uniform(0.9, 1.1)
        heapq.heappush(self.free, end)
        return end


def run_closed_loop(flight: Flight, queue: Queue, answers: int, deadline: float = 1e6) -> float:
    """Keeps as many requests under way as the rule allows; returns answers per second."""
    now = 0.0
    under_way: list[tuple[float, float]] = []
    for _ in range(answers):
        while len(under_way) < flight.limit:
            heapq.heappush(under_way, (queue.finish(now), now))
        now, started = heapq.heappop(under_way)
        flight.answered(started, now, deadline=deadline, in_flight=len(under_way) + 1)
    return answers / now


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 24), seconds=st.floats(0.001, 100), most=st.integers(1, 64))
def test_flight_keeps_any_server_busy_and_its_queue_short(width: int, seconds: float, most: int) -> None:
    flight = Flight(most)
    rate = run_closed_loop(flight, Queue(width, seconds), 2000)
    reachable = min(width, most) / seconds
    assert rate > 0.9 * reachable
    assert flight.limit <= min(most, 1.5 * width + 6)


@settings(max_examples=200, deadline=None)
@given(
    most=st.integers(1, 20),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0, 100), st.floats(0, 100)), max_size=80),
)
def test_flight_stays_within_its_bounds(most: int, steps: list[tuple[bool, float, float]]) -> None:
    flight, now = Flight(most), 0.0
    for answered, waited, latency in steps:
        now += waited
        before = flight.limit
        if answered:
            flight.answered(now - latency, now, deadline=60, in_flight=before)
        else:
            flight.overloaded(now - latency, now)
            assert flight.limit <= before
        assert 1 <= flight.limit <= most
        assert flight.limit <= before + 1


def test_flight_is_not_misled_by_a_small_request_that_was_quick() -> None:
    flight = Flight(16)
    flight.answered(-0.005, 0, deadline=60, in_flight=1, images=1)
    flight.answered(0, 0.2, deadline=60, in_flight=1, images=8)
    flight.answered(0.2, 0.201, deadline=60, in_flight=1, images=3)
    now = 0.0
    for _ in range(200):
        now += 0.2
        flight.answered(now - 0.2, now, deadline=60, in_flight=flight.limit, images=8)
    assert flight.limit == 16


def test_flight_is_halved_once_for_all_that_was_sent_before() -> None:
    flight = Flight(16)
    for _ in range(12):
        flight.answered(0, 1, deadline=60, in_flight=16)
    assert flight.limit == 16
    for _ in range(10):
        flight.overloaded(started=5, now=6)
    assert flight.limit == 8
    flight.overloaded(started=7, now=8)
    assert flight.limit == 4


def test_flight_shrinks_where_answers_take_half_of_their_deadline() -> None:
    flight = Flight(4)
    run_closed_loop(flight, Queue(1, 20), 200, deadline=60)
    assert flight.limit <= 3  # three take the whole deadline: with four, each request would miss it
