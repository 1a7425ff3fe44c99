"""How requests are kept in flight: order, overload, slow requests, memory."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from deepfake_client import AsyncDetectorClient, DetectorClient, Verdict
from tritonclient.grpc import service_pb2 as pb

from tests.fake_triton import serving

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
