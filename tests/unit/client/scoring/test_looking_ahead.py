"""How far items are taken ahead of their verdicts, and what becomes of their source."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from itertools import count, islice

import grpc
import pytest
from deepfake_client import AsyncDetectorClient, DetectorClient
from deepfake_client.bulk.batcher import STALL_SECONDS
from deepfake_client.bulk.reorder import ReorderBuffer
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.fakes.triton import FakeTriton
from tests.unit.client.scoring.asking import Scorer, score_many_asyncio, scores_of
from tests.waiting import PATIENCE


def test_items_are_taken_no_further_ahead_than_documented(server: FakeTriton) -> None:
    taken: list[int] = []
    endless = (taken.append(n) or b"0.1" for n in count())
    with (
        DetectorClient(server.url, batch_size=4, max_in_flight=2) as client,
        closing(client.score_many(endless, ordered=False)) as verdicts,
    ):
        for yielded, _ in enumerate(islice(verdicts, 500)):
            assert len(taken) - yielded <= 2 * 2 * 4


def test_items_are_taken_no_further_past_a_slow_request_than_documented(
    server: FakeTriton, score_many: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake_client.bulk.reorder.HELD_IMAGES", 20)
    taken: list[int] = []
    reached: list[int] = []

    def wait_for_the_others(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        if b"0.9" in request.raw_input_contents[0]:
            while len(server.batches) < 20:
                time.sleep(0.01)
            time.sleep(0.5)
            reached.append(len(taken))

    server.fault = wait_for_the_others
    images = (taken.append(n) or (b"0.9" if not n else b"0.1") for n in range(100))
    verdicts = score_many(server.url, images, batch_size=1, max_in_flight=4)
    assert scores_of(verdicts) == [0.9, *[0.1] * 99]
    assert 21 <= reached[0] <= 20 + 2 * 4


@settings(max_examples=200, deadline=None)
@given(
    ordered=st.booleans(),
    size=st.sampled_from([1, 3, 2000, 9000]),
    limits=st.lists(st.integers(1, 5), max_size=60),
    chance=st.randoms(use_true_random=False),
)
def test_window_gives_each_batch_once_and_holds_no_more_than_it_may(
    ordered: bool, size: int, limits: list[int], chance: random.Random
) -> None:
    window: ReorderBuffer[int] = ReorderBuffer(size, ordered=ordered)
    begun, under_way, given = 0, [], []
    for limit in [*limits, *[0] * 300]:
        while window.has_room(limit):
            window.begin(begun)
            under_way.append(begun)
            begun += 1
        if under_way:
            work = under_way.pop(chance.randrange(len(under_way)))
            free = window.end(work)
            assert free == [work] or ordered
            given += free
        assert len(under_way) < 2 * max([*limits, 1])
        assert len(window.pending) <= max(4096 // size, 1) * ordered + 2 * max([*limits, 1])
    assert sorted(given) == list(range(begun))
    assert given == sorted(given) or not ordered
    assert not window.pending


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_verdicts_do_not_wait_for_the_next_item(
    server: FakeTriton, batch_size: int, ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source gives an item only once there is the verdict of the one before."""
    monkeypatch.setattr("deepfake_client.client.STALL_SECONDS", STALL_SECONDS)
    seen = threading.Semaphore(0)

    def source() -> Iterator[bytes]:
        for n in range(4):
            assert not n or seen.acquire(timeout=PATIENCE)
            yield b"0.%d" % n

    scores = []
    with DetectorClient(server.url, batch_size=batch_size) as client:
        for verdict in client.score_many(source(), ordered=ordered):
            scores.append(verdict.score)
            seen.release()
    assert scores == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_asyncio_verdicts_do_not_wait_for_the_next_item(
    server: FakeTriton, batch_size: int, ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake_client.aio.STALL_SECONDS", STALL_SECONDS)

    async def run() -> list[float | None]:
        seen = asyncio.Semaphore(0)

        async def source() -> AsyncIterator[bytes]:
            for n in range(4):
                if n:
                    async with asyncio.timeout(PATIENCE):
                        await seen.acquire()
                yield b"0.%d" % n

        scores = []
        async with AsyncDetectorClient(server.url, batch_size=batch_size) as client:
            async for verdict in client.score_many(source(), ordered=ordered):
                scores.append(verdict.score)
                seen.release()
        return scores

    assert asyncio.run(run()) == [0.0, 0.1, 0.2, 0.3]


def test_error_of_the_source_comes_after_the_verdicts_before_it(server: FakeTriton, score_many: Scorer) -> None:
    def broken() -> Iterator[bytes]:
        yield from [b"0.1"] * 11
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        score_many(server.url, broken(), batch_size=4)
    assert sum(server.batches) == 11


def test_source_is_closed_when_it_is_left_early(server: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake_client.bulk.batcher._LAST_ITEM_SECONDS", PATIENCE)
    closed: list[str] = []

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"0.1"
        finally:
            closed.append(threading.current_thread().name)

    before = set(threading.enumerate())
    with DetectorClient(server.url) as client, closing(client.score_many(endless())) as verdicts:
        next(verdicts)
        ours = {thread for thread in threading.enumerate() if thread not in before and "deepfake" in thread.name}
        assert ours
    assert len(closed) == 1
    assert not any(thread.is_alive() for thread in ours)


def test_asyncio_items_may_come_asynchronously(server: FakeTriton) -> None:
    async def images() -> AsyncIterator[bytes]:
        for n in range(7):
            await asyncio.sleep(0)
            yield b"0.%d" % n

    verdicts = score_many_asyncio(server.url, images(), batch_size=3)
    assert scores_of(verdicts) == [n / 10 for n in range(7)]
    assert sorted(server.batches) == [1, 3, 3]
