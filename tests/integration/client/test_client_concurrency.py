"""How requests are kept under way: order, overload, slow requests, memory."""

import asyncio
import contextlib
import heapq
import math
import random
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from deepfake_client import AsyncDetectorClient, DetectorClient, ServerOverloadedError, Verdict
from deepfake_client.balancing.concurrency import ConcurrencyLimit
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.conftest import start_server
from tests.fakes.triton import FakeTriton, Fault, hang, serving
from tests.golden import BOXES, GOLDEN, ROWS
from tests.waiting import PATIENCE, wait_for

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
    images = [b"slow", *(b"%.1f" % (n % 11 / 10) for n in range(40))]
    with serving() as server:

        def dawdle(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
            while b"slow" in request.raw_input_contents[0] and len(server.batches) < 40 and context.is_active():
                time.sleep(0.01)
            if b"slow" in request.raw_input_contents[0]:
                time.sleep(1)  # the last of the others is on its way

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
        assert 1 < time.monotonic() - started < PATIENCE


def test_without_retries_an_overloaded_server_is_told_at_once() -> None:
    with serving() as server, DetectorClient(server.url, retries=0) as client:
        server.fault = turn_away_above(server, 0)
        with pytest.raises(ServerOverloadedError):
            client.score(b"0.1")
        assert server.calls == 1


def test_a_server_that_works_on_many_at_once_gets_many() -> None:
    with serving() as server, DetectorClient(server.url, batch_size=1, max_in_flight=12) as client:
        server.fault = hang(0.05)
        wait_for(lambda: list(client.score_many([b"0.1"] * 200)) and server.peak >= 12)
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

Seconds = Callable[[random.Random, float], float]
"""Draws how long the server works on one request, given how much of the run is over, from 0 to 1."""


class Queue:
    """A server that works on `width` requests at once, each for `seconds`; the others wait."""

    def __init__(self, width: int, seconds: Seconds, *, holds: float = math.inf, seed: int = 0) -> None:
        self.seconds = seconds
        self.holds = holds  # requests; more are turned away
        self.free = [0.0] * width
        self.waits: list[float] = []
        self.rng = random.Random(seed)

    def finish(self, now: float, progress: float) -> float:
        start = max(now, heapq.heappop(self.free))
        self.waits.append(start - now)
        end = start + self.seconds(self.rng, progress)
        heapq.heappush(self.free, end)
        return end


class Fixed(ConcurrencyLimit):
    """A number in flight that does not adapt."""

    def answered(self, *_: Any, **__: Any) -> None: ...

    @property
    def limit(self) -> int:
        return self._most


class Counting(ConcurrencyLimit):
    """Counts what was turned away."""

    refused = 0

    def overloaded(self, started: float, now: float) -> None:
        self.refused += 1
        super().overloaded(started, now)


def run_closed_loop(
    limit: ConcurrencyLimit,
    queue: Queue,
    answers: int,
    *,
    begin: float = 0.0,
    deadline: float = 1e6,
    use: int = 1000,
) -> float:
    """Keeps as many requests under way as the rule allows, at most `use`; returns answers per second."""
    now = begin
    under_way: list[tuple[float, float]] = []
    for n in range(answers):
        while len(under_way) < min(limit.limit, use):
            if len(under_way) >= queue.holds:
                limit.overloaded(now, now)
                break
            heapq.heappush(under_way, (queue.finish(now, n / answers), now))
        now, started = heapq.heappop(under_way)
        limit.answered(started, now, deadline=deadline, in_flight=len(under_way) + 1)
    return answers / (now - begin)


SECONDS: dict[str, Seconds] = {
    "constant": lambda rng, progress: 1.0,
    "a tenth more or less": lambda rng, progress: rng.uniform(0.9, 1.1),
    "one to three": lambda rng, progress: rng.uniform(1, 3),
    "exponential": lambda rng, progress: rng.expovariate(1),
    "one in 20 takes 50 times as long": lambda rng, progress: 50.0 if rng.random() < 0.05 else 1.0,
    "one in 100 takes 100 times as long": lambda rng, progress: 100.0 if rng.random() < 0.01 else rng.uniform(0.5, 1.5),
    "three times slower midway": lambda rng, progress: rng.uniform(0.9, 1.1) * (1 if progress < 0.5 else 3),
    "three times faster midway": lambda rng, progress: rng.uniform(0.9, 1.1) * (3 if progress < 0.5 else 1),
    "exponential, slower midway": lambda rng, progress: rng.expovariate(1) * (1 if progress < 0.5 else 3),
}


@pytest.mark.parametrize("width", [1, 4, 8, 16, 32])
@pytest.mark.parametrize("seconds", SECONDS.values(), ids=SECONDS.keys())
def test_limit_reaches_what_the_best_fixed_number_does_without_a_long_queue(seconds: Seconds, width: int) -> None:
    shares, waits = [], []
    for seed in range(3):
        queue, other = Queue(width, seconds, seed=seed), Queue(width, seconds, seed=seed)
        rate = run_closed_loop(ConcurrencyLimit(64), queue, 4000)
        # No number is faster than this one: the server is always at work, and no answer is late in coming.
        shares.append(rate / run_closed_loop(Fixed(width + 1), other, 4000))
        waits.append(statistics.median(queue.waits) * rate / width)  # in mean service times
    assert statistics.mean(shares) >= 0.85
    assert min(shares) >= 0.75
    assert statistics.median(waits) <= 2.5
    assert max(waits) <= 4


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 24), seconds=st.floats(0.001, 100), most=st.integers(1, 64))
def test_limit_keeps_any_server_busy_and_its_queue_short(width: int, seconds: float, most: int) -> None:
    limit = ConcurrencyLimit(most)
    rate = run_closed_loop(limit, Queue(width, lambda rng, _: seconds * rng.uniform(0.9, 1.1)), 2000)
    assert rate > 0.85 * min(width, most) / seconds
    assert limit.limit <= min(most, 2.5 * width + 4)


def test_limit_lets_a_server_that_batches_fill_its_batches() -> None:
    limit, now, answers = ConcurrencyLimit(64), 0.0, 0
    for _ in range(600):  # all that wait are taken at once: 4 s, and 1 s for each
        started, taken = now, limit.limit
        now += 4 + taken
        for left in range(taken, 0, -1):
            limit.answered(started, now, deadline=1e6, in_flight=left)
        answers += taken
    assert answers / now > 0.7  # 1 is what endless batches would reach


def test_limit_does_not_grow_while_it_is_not_used() -> None:
    limit = ConcurrencyLimit(64)
    run_closed_loop(limit, Queue(32, SECONDS["exponential"]), 1000, use=3)
    assert limit.limit <= 8


def test_limit_grows_when_a_server_becomes_wider() -> None:
    limit = ConcurrencyLimit(64)
    run_closed_loop(limit, Queue(2, SECONDS["a tenth more or less"]), 1000)
    assert limit.limit <= 6
    run_closed_loop(limit, Queue(16, SECONDS["a tenth more or less"]), 2000, begin=1e5)
    assert limit.limit >= 10


def test_a_server_that_turns_away_is_kept_busy_and_rarely_turns_away() -> None:
    for name in ("a tenth more or less", "exponential"):
        limit = Counting(64)
        rate = run_closed_loop(limit, Queue(8, SECONDS[name], holds=16), 4000)
        assert rate > 0.8 * 8
        assert limit.refused < 40


@settings(max_examples=200, deadline=None)
@given(
    most=st.integers(1, 20),
    steps=st.lists(
        st.tuples(st.booleans(), st.floats(0, 100), st.floats(0, 100), st.integers(1, 8), st.integers(1, 30)),
        max_size=200,
    ),
)
def test_limit_stays_within_its_bounds(most: int, steps: list[tuple[bool, float, float, int, int]]) -> None:
    limit, now = ConcurrencyLimit(most), 0.0
    for answered, waited, latency, images, in_flight in steps:
        now += waited
        before = limit.limit
        if answered:
            limit.answered(now - latency, now, deadline=60, in_flight=in_flight, images=images)
        else:
            limit.overloaded(now - latency, now)
            assert limit.limit <= before
        assert 1 <= limit.limit <= most
        assert limit.limit <= 2.5 * before + 2


def test_limit_is_not_misled_by_a_small_request_that_was_quick() -> None:
    limit, now, limits = ConcurrencyLimit(16), 0.0, []
    for n in range(400):
        limit.answered(now, now + 0.001, deadline=60, in_flight=limit.limit, images=1 + n % 3)
    for n in range(400):
        now += 1
        latency, images = (0.001, 3) if n % 50 == 0 else (0.2, 8)
        limit.answered(now - latency, now, deadline=60, in_flight=limit.limit, images=images)
        limits.append(limit.limit)
    assert statistics.median(limits[100:]) == 16


def test_limit_is_halved_once_for_all_that_was_sent_before() -> None:
    limit = ConcurrencyLimit(16)
    now = 0
    while limit.limit < 16:
        limit.answered(now, now + 1, deadline=60, in_flight=limit.limit)
        now += 1
    for _ in range(10):
        limit.overloaded(started=now, now=now + 1)
    assert limit.limit == 8
    limit.overloaded(started=now + 2, now=now + 3)
    assert limit.limit == 4


def test_limit_shrinks_where_answers_take_half_of_their_deadline() -> None:
    limit = ConcurrencyLimit(4)
    run_closed_loop(limit, Queue(1, lambda rng, _: 20 * rng.uniform(0.9, 1.1)), 200, deadline=60)
    assert limit.limit <= 3  # three take the whole deadline: with four, each request would miss it
