"""Callers that leave before the last verdict."""

import asyncio
import threading
import time
from contextlib import aclosing, closing
from itertools import islice

import grpc
import pytest
from deepfake_client import AsyncDetectorClient, DetectorClient

from tests.fakes.triton import FakeTriton, Fault, fail_times, hang
from tests.waiting import PATIENCE

LONG = 2 * PATIENCE
"""Seconds that a caller waits who does not leave."""
FIRST_AND_OTHERS = [b"0.1", *[b"0.9"] * 50]


def for_all_but_the_first(fault: Fault) -> Fault:
    return lambda request, context: fault(request, context) if b"0.9" in request.raw_input_contents[0] else None


def test_leaving_early_cancels_what_is_in_flight(server: FakeTriton) -> None:
    server.fault = for_all_but_the_first(hang(LONG))
    started = time.monotonic()
    with DetectorClient(server.url, batch_size=1, timeout=LONG) as client:
        with closing(client.score_many(FIRST_AND_OTHERS)) as verdicts:
            assert next(verdicts).score == 0.1
        assert client.server_info().version == "2.51.0"  # the client itself goes on
    assert time.monotonic() - started < PATIENCE


def test_leaving_early_ends_a_wait_for_the_next_try(server: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()
    monkeypatch.setattr("deepfake_client.balancing.retries.RetryPolicy.pause", lambda _: waits.set() or LONG)
    server.fault = for_all_but_the_first(fail_times(10**6, grpc.StatusCode.INTERNAL))
    started = time.monotonic()
    with DetectorClient(server.url, batch_size=1) as client, closing(client.score_many(FIRST_AND_OTHERS)) as verdicts:
        next(verdicts)
        assert waits.wait(PATIENCE)
    assert time.monotonic() - started < PATIENCE


def test_asyncio_leaving_early_cancels_what_is_in_flight(server: FakeTriton) -> None:
    server.fault = for_all_but_the_first(hang(LONG))

    async def run() -> None:
        async with (
            AsyncDetectorClient(server.url, batch_size=1, timeout=LONG) as client,
            aclosing(client.score_many(FIRST_AND_OTHERS)) as verdicts,
        ):
            assert (await anext(verdicts)).score == 0.1

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < PATIENCE


def test_iterators_beside_each_other_do_not_mix(client: DetectorClient) -> None:
    pairs = zip(client.score_many([b"0.1"] * 50), client.score_many([b"0.9"] * 50), strict=True)
    assert {(a.score, b.score) for a, b in islice(pairs, 50)} == {(0.1, 0.9)}
