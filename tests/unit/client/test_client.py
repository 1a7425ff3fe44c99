"""The client library against a server that misbehaves on demand, blocking and asyncio alike."""

import asyncio
import json
import math
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import deepfake_client
import grpc
import numpy as np
import pytest
from deepfake_client import (
    AsyncDetectorClient,
    DetectorClient,
    InvalidResponseError,
    Provenance,
    RequestFailedError,
    ServerInfo,
    ServerOverloadedError,
    ServerUnavailableError,
    Verdict,
    decide,
    explain,
)
from deepfake_client.balancing.addresses import Address
from deepfake_client.balancing.balancer import Balancer
from deepfake_client.balancing.request_state import RequestState
from deepfake_client.balancing.retries import RetryPolicy
from deepfake_client.bulk.memory_budget import AsyncMemoryBudget, MemoryBudget
from deepfake_client.bulk.reorder import ReorderBuffer
from deepfake_client.images.items import read as read_file
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from ensemble.admission import AdmissionController
from tests.fakes.triton import FACE, FakeTriton, Fault, fail_times, hang, serving, untrained

Scorer = Callable[..., list[Verdict]]

RETRYABLE = ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED"]
FINAL = ["INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED"]


@pytest.fixture
def client(server: FakeTriton) -> Iterator[DetectorClient]:
    with DetectorClient(server.url, timeout=10) as client:
        yield client


def score_many_blocking(url: str, items: Any, **options: Any) -> list[Verdict]:
    with DetectorClient(url, **options) as client:
        return list(client.score_many(items))


def score_many_asyncio(url: str, items: Any, **options: Any) -> list[Verdict]:
    async def run() -> list[Verdict]:
        async with AsyncDetectorClient(url, **options) as client:
            return [verdict async for verdict in client.score_many(items)]

    return asyncio.run(run())


@pytest.fixture(params=[score_many_blocking, score_many_asyncio], ids=["blocking", "asyncio"])
def score_many(request: pytest.FixtureRequest) -> Scorer:
    return request.param


def scores_of(verdicts: list[Verdict]) -> list[float | None]:
    return [verdict.score for verdict in verdicts]


# one image


def test_score_gives_every_field_in_short_numbers(client: DetectorClient) -> None:
    verdict = client.score(b"0.7")
    assert (verdict.path, verdict.status, verdict.score, verdict.probability) == (None, "ok", 0.7, 0.7)
    assert (verdict.verdict, verdict.ok, verdict.error) == ("fake", True, None)
    assert [(s.probability, s.vote) for s in verdict.streams.values()] == [(0.7, 0.7), (0.123, 0.1), (0.9, 0.9)]
    assert (verdict.face.box, verdict.face.confidence, verdict.face.source) == (FACE, 0.97, "raw")


def test_row_is_the_documented_one_without_nan(client: DetectorClient) -> None:
    streams = {
        "global_texture": {"probability": 0.3, "vote": 0.3},
        "local_facial": {"probability": 0.123, "vote": 0.1},
        "semantic_fusion": {"probability": 0.9, "vote": 0.9},
    }
    assert json.loads(json.dumps(client.score(b"0.3").to_dict(), allow_nan=False)) == {
        "path": None,
        "status": "ok",
        "score": 0.3,
        "probability": 0.3,
        "verdict": "real",
        "streams": streams,
        "face": {"box": None, "confidence": None, "source": "none"},
    }


def test_unscored_image_has_its_status_and_no_numbers(client: DetectorClient) -> None:
    row = client.score(b"status:too_many_pixels").to_dict()
    assert row.pop("status") == "too_many_pixels"
    assert row.pop("face") == {"box": None, "confidence": None, "source": "none"}
    assert set(row.pop("streams")) == {"global_texture", "local_facial", "semantic_fusion"}
    assert set(row.values()) == {None}


def test_path_is_given_back_as_it_was(client: DetectorClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(b"0.2")
    assert client.score("./a.jpg") == replace(client.score(b"0.2"), path="./a.jpg")
    assert client.score(tmp_path / "a.jpg").path == str(tmp_path / "a.jpg")


def test_score_raises_where_the_file_is_missing(client: DetectorClient) -> None:
    with pytest.raises(FileNotFoundError):
        client.score("missing.jpg")


def test_empty_image_arrives_as_it_is(client: DetectorClient, server: FakeTriton) -> None:
    assert client.score(b"").ok
    assert [verdict.ok for verdict in client.score_many([b"", b"x", b""])] == [True] * 3


@pytest.mark.parametrize("image", [bytearray(b"0.9"), memoryview(b"0.9")])
def test_any_bytes_are_an_image(client: DetectorClient, image: Any) -> None:
    assert client.score(image).score == 0.9


def test_image_of_forty_megabytes_is_sent(client: DetectorClient) -> None:
    assert client.score(b"x" * 40_000_000).ok


@pytest.mark.parametrize(
    ("score", "word"), [(0.0, "real"), (0.4, "real"), (0.5, "uncertain"), (0.6, "fake"), (1.0, "fake")]
)
def test_decide_is_fake_above_one_half(score: float, word: str) -> None:
    assert decide(score) == word


def test_explain_knows_a_fix_and_passes_unknown_codes_on() -> None:
    assert "resize" in explain("too_many_pixels")
    assert explain("a_new_code") == "a_new_code"


def test_every_public_name_exists() -> None:
    assert all(hasattr(deepfake_client, name) for name in deepfake_client.__all__)


# face boxes


def test_face_box_is_sent_only_where_some_image_has_one(client: DetectorClient, server: FakeTriton) -> None:
    list(client.score_many([b"0.1", b"0.2"]))
    list(client.score_many([b"0.1", (b"0.2", (1, 2, 3, 4)), (b"0.3", None)]))
    client.score(b"0.1", face_box=np.array([5, 6, 7, 8.5]))
    nan = [math.nan] * 4
    assert server.boxes[0] is None
    np.testing.assert_array_equal(server.boxes[1], [nan, [1, 2, 3, 4], nan])
    np.testing.assert_array_equal(server.boxes[2], [[5, 6, 7, 8.5]])


def test_face_box_beyond_float32_is_left_to_the_server(client: DetectorClient, server: FakeTriton) -> None:
    client.score(b"0.1", face_box=(0, 0, 1e300, 1))
    np.testing.assert_array_equal(server.boxes[0], [[0, 0, np.inf, 1]])


def test_face_box_of_another_length_is_refused(client: DetectorClient) -> None:
    with pytest.raises(ValueError, match="x1, y1, x2, y2 in pixels; got 3 numbers"):
        client.score(b"0.1", face_box=(1, 2, 3))


def test_what_is_no_image_is_refused(client: DetectorClient) -> None:
    with pytest.raises(TypeError, match="bytes or a path; got int"):
        list(client.score_many([1]))  # type: ignore[list-item]


# many images


def test_order_is_kept_whatever_answers_first(server: FakeTriton, score_many: Scorer) -> None:
    server.fault = lambda request, context: time.sleep(random.Random(len(server.batches)).random() * 0.05)
    images = [b"%.1f" % (n % 11 / 10) for n in range(200)]
    verdicts = score_many(server.url, images, batch_size=3, max_in_flight=8)
    assert scores_of(verdicts) == [float(image) for image in images]


def test_in_flight_is_bounded_and_used(server: FakeTriton, score_many: Scorer) -> None:
    server.fault = hang(0.05)
    score_many(server.url, [b"0.1"] * 60, batch_size=2, max_in_flight=3)
    assert server.peak == 3


@pytest.mark.parametrize(("limit", "wanted", "largest"), [(3, 8, 3), (32, 8, 8), (1, 8, 1)])
def test_batches_keep_to_the_servers_limit(limit: int, wanted: int, largest: int, score_many: Scorer) -> None:
    with serving(limit) as server:
        assert len(score_many(server.url, [b"0.1"] * 17, batch_size=wanted)) == 17
        assert max(server.batches) == largest


def test_model_without_batches_is_not_the_detector(score_many: Scorer) -> None:
    with serving(0) as server, pytest.raises(InvalidResponseError, match="max_batch_size 0"):
        score_many(server.url, [b"0.1"])


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
def test_verdicts_do_not_wait_for_the_next_item(server: FakeTriton, batch_size: int, ordered: bool) -> None:
    """The source gives an item only once there is the verdict of the one before."""
    seen = threading.Semaphore(0)

    def source() -> Iterator[bytes]:
        for n in range(4):
            assert not n or seen.acquire(timeout=30)
            yield b"0.%d" % n

    scores = []
    with DetectorClient(server.url, batch_size=batch_size) as client:
        for verdict in client.score_many(source(), ordered=ordered):
            scores.append(verdict.score)
            seen.release()
    assert scores == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_asyncio_verdicts_do_not_wait_for_the_next_item(server: FakeTriton, batch_size: int, ordered: bool) -> None:
    async def run() -> list[float | None]:
        seen = asyncio.Semaphore(0)

        async def source() -> AsyncIterator[bytes]:
            for n in range(4):
                if n:
                    async with asyncio.timeout(30):
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


def test_source_is_closed_when_it_is_left_early(server: FakeTriton) -> None:
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


def test_no_items_give_no_verdicts(server: FakeTriton, score_many: Scorer) -> None:
    assert score_many(server.url, []) == []


def test_bad_images_and_missing_files_cost_only_their_rows(
    server: FakeTriton, score_many: Scorer, tmp_path: Path
) -> None:
    good = tmp_path / "good.jpg"
    good.write_bytes(b"0.8")
    missing = [tmp_path / "missing.jpg", tmp_path, "nul\0.jpg"]
    items = [good, missing[0], b"status:empty_image", *missing[1:], (good, (1, 2, 3, 4)), b"0.1"]
    verdicts = score_many(server.url, items)
    statuses = ["ok", "unreadable_file", "empty_image", "unreadable_file", "unreadable_file", "ok", "ok"]
    assert [verdict.status for verdict in verdicts] == statuses
    assert verdicts[1].error == f"{tmp_path / 'missing.jpg'}: No such file or directory"
    assert "error" in verdicts[1].to_dict()
    assert "error" not in verdicts[2].to_dict()
    assert server.batches == [4]


def test_batch_of_missing_files_asks_the_server_nothing(server: FakeTriton, score_many: Scorer) -> None:
    assert [v.status for v in score_many(server.url, ["no.jpg"] * 3)] == ["unreadable_file"] * 3
    assert server.calls == 0


def test_large_images_go_in_smaller_requests(
    server: FakeTriton, score_many: Scorer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("deepfake_client.images.items.REQUEST_BYTES", 10)
    items = [b"0.1000", b"0.2", tmp_path / "missing.jpg", b"0.3000000000000000", b"0.4", b"0.5"]
    assert scores_of(score_many(server.url, items, max_in_flight=1)) == [0.1, 0.2, None, 0.3, 0.4, 0.5]
    assert server.batches == [2, 1, 2]


def test_file_over_the_limit_is_unreadable(server: FakeTriton, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("deepfake_client.images.items.MAX_IMAGE_BYTES", 1 << 20)
    (tmp_path / "huge.jpg").write_bytes(bytes((1 << 20) + 1))
    (verdict,) = score_many_blocking(server.url, [tmp_path / "huge.jpg"])
    assert verdict.status == "unreadable_file"
    assert "over the limit of 1 MiB" in (verdict.error or "")


@pytest.mark.parametrize("limit", ["16", None])
def test_file_over_the_servers_limit_is_not_read(
    server: FakeTriton, score_many: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None
) -> None:
    server.max_bytes = limit
    read = []
    monkeypatch.setattr("deepfake_client.images.items.read", lambda item: read.append(item.path) or read_file(item))
    paths = [tmp_path / "small.jpg", tmp_path / "large.jpg"]
    for path, size in zip(paths, (16, 17), strict=True):
        path.write_bytes(bytes(size))
    verdicts = score_many(server.url, [*paths, bytes(16), bytes(17)], batch_size=1)
    statuses = ["ok", "ok" if limit is None else "too_many_bytes"] * 2
    assert [verdict.status for verdict in verdicts] == statuses
    assert ("large.jpg" in {Path(path).name for path in read if path}) is (limit is None)
    assert sum(server.batches) == statuses.count("ok")


def test_limit_that_is_no_number_is_not_the_detectors(server: FakeTriton, score_many: Scorer) -> None:
    server.max_bytes = "32 MiB"
    with pytest.raises(InvalidResponseError, match="max_bytes is '32 MiB'"):
        score_many(server.url, [b"0.1"])


def test_bytes_under_way_are_bounded(
    server: FakeTriton, score_many: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small images go side by side, as many as the budget has room for; one that is over it goes alone."""
    for module in ("client", "aio"):
        monkeypatch.setattr(f"deepfake_client.{module}.BYTES", 100)
    under_way: list[int] = []
    peaks: list[int] = []
    lock = threading.Lock()

    def weigh(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        size = len(request.raw_input_contents[0]) - 4  # the length in front of the image
        with lock:
            under_way.append(size)
            peaks.append(sum(under_way) if max(under_way) <= 100 else len(under_way) * 100)
        time.sleep(0.05)
        with lock:
            under_way.remove(size)

    server.fault = weigh
    sizes = [30, 40, 300, 20, 50, 100, 10] * 6
    paths = []
    for n, size in enumerate(sizes):
        paths.append(tmp_path / f"{n}.jpg")
        paths[-1].write_bytes(bytes(size))
    assert [v.status for v in score_many(server.url, paths, batch_size=1, max_in_flight=8)] == ["ok"] * len(sizes)
    assert 50 < max(peaks) <= 100


@pytest.mark.parametrize("kind", [MemoryBudget, AsyncMemoryBudget])
def test_large_image_is_not_passed_by_small_ones_for_ever(kind: type[MemoryBudget] | type[AsyncMemoryBudget]) -> None:
    async def run_async(budget: AsyncMemoryBudget) -> list[str]:
        order: list[str] = []

        async def spend(name: str, size: int) -> None:
            async with budget.reserve(size):
                order.append(name)
                await asyncio.sleep(0)

        async with budget.reserve(6):
            tasks = [asyncio.create_task(spend(*each)) for each in (("large", 11), ("small", 1), ("small", 1))]
            await asyncio.sleep(0)
            assert not order
        await asyncio.gather(*tasks)
        return order

    def run(budget: MemoryBudget) -> list[str]:
        order: list[str] = []

        def spend(name: str, size: int) -> None:
            with budget.reserve(size):
                order.append(name)

        with ThreadPoolExecutor(3) as pool:
            with budget.reserve(6):
                pool.submit(spend, "large", 11)
                time.sleep(0.5)
                small = [pool.submit(spend, "small", 1) for _ in range(2)]
                time.sleep(0.5)
                assert not order
            for each in small:
                each.result(30)
        return order

    order = asyncio.run(run_async(AsyncMemoryBudget(10))) if kind is AsyncMemoryBudget else run(MemoryBudget(10))
    assert order == ["large", "small", "small"]


@settings(max_examples=25, deadline=None)
@given(
    images=st.lists(st.sampled_from([b"0.1", b"0.9", b"status:empty_image", b"", "missing.jpg"]), max_size=40),
    batch_size=st.integers(1, 9),
    max_in_flight=st.integers(1, 5),
)
def test_every_item_gets_its_verdict_in_order(images: list[Any], batch_size: int, max_in_flight: int) -> None:
    expected = {b"0.1": "real", b"0.9": "fake", b"": "uncertain"}
    with serving(7) as server:
        verdicts = score_many_blocking(server.url, images, batch_size=batch_size, max_in_flight=max_in_flight)
    assert [v.verdict for v in verdicts] == [expected.get(image) for image in images]
    assert all(size <= min(7, batch_size) for size in server.batches)


def test_threads_share_a_client(server: FakeTriton) -> None:
    with DetectorClient(server.url) as client, ThreadPoolExecutor(8) as pool:
        scores = pool.map(lambda n: client.score(b"%.1f" % (n % 10 / 10)).score, range(200))
        assert list(scores) == [n % 10 / 10 for n in range(200)]


# failures that pass


@pytest.mark.parametrize("code", RETRYABLE)
def test_failure_that_may_pass_is_retried(server: FakeTriton, score_many: Scorer, code: str) -> None:
    server.fault = fail_times(1, grpc.StatusCode[code])
    assert scores_of(score_many(server.url, [b"0.1", b"0.2"])) == [0.1, 0.2]
    assert server.calls == 2


@pytest.mark.parametrize("code", FINAL)
def test_failure_that_stays_is_not_retried(server: FakeTriton, client: DetectorClient, code: str) -> None:
    server.fault = fail_times(99, grpc.StatusCode[code], "the reason")
    with pytest.raises(RequestFailedError, match="the reason") as caught:
        client.score(b"0.1")
    assert caught.value.code == code
    assert server.calls == 1


def test_hanging_request_is_sent_again_after_its_deadline(server: FakeTriton, score_many: Scorer) -> None:
    faults = iter([hang(30)])
    server.fault = lambda request, context: next(faults, hang(0))(request, context)
    assert scores_of(score_many(server.url, [b"0.1"], timeout=0.5)) == [0.1]


@pytest.mark.parametrize("dying", [hang(60), fail_times(10**6, grpc.StatusCode.INTERNAL)], ids=["hangs", "fails"])
def test_nothing_is_lost_over_a_restart(server: FakeTriton, score_many: Scorer, dying: Any) -> None:
    """A step dies, its requests hang or fail, the whole server goes, and comes back on the same port."""

    def disaster() -> None:
        while len(server.batches) < 10:
            time.sleep(0.01)
        server.fault = dying
        time.sleep(0.5)
        server.stop()
        time.sleep(2)
        server.fault = hang(0)
        server.start()

    server.fault = hang(0.01)
    images = [b"%.1f" % (n % 11 / 10) for n in range(300)]
    saboteur = threading.Thread(target=disaster)
    saboteur.start()
    verdicts = score_many(server.url, images, batch_size=5, max_in_flight=4)
    saboteur.join()
    assert scores_of(verdicts) == [float(image) for image in images]


def test_default_retries_outlast_the_restart_of_a_server() -> None:
    balancer = Balancer([Address("gone:1", "gone:1")], 4)
    policy = RetryPolicy(balancer, state := RequestState(), DetectorClient()._settings.retries, 600)
    total = 0.0
    error = ServerUnavailableError("gone")
    while True:
        server = balancer.pick(state)
        assert server is not None
        with suppress(ServerUnavailableError), balancer.request(server, state, 600, scores=True):
            raise error
        if not policy.goes_on(error):
            break
        total += policy.pause()
    assert 45 < total < 90


def test_client_finds_a_restarted_server_at_once(server: FakeTriton) -> None:
    with DetectorClient(server.url, retries=0) as client:
        client.score(b"0.1")
        server.stop()
        for _ in range(30):  # by itself gRPC would now wait for many seconds between two attempts
            with pytest.raises(ServerUnavailableError):
                client.score(b"0.1")
            time.sleep(0.1)
        server.start()
        started = time.monotonic()
        client.wait_ready(10)
        assert time.monotonic() - started < 3


# failures that stay


def test_failed_request_gets_rows_and_the_rest_goes_on(server: FakeTriton, score_many: Scorer) -> None:
    def refuse_poison(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        if b"poison" in request.raw_input_contents[0]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no poison")

    server.fault = refuse_poison
    verdicts = score_many(server.url, [b"0.1", b"0.2", b"poison", b"0.4", b"0.5", b"0.6"], batch_size=2)
    assert [v.status for v in verdicts] == ["ok", "ok", "request_failed", "ok", "ok", "ok"]
    assert "no poison" in (verdicts[2].error or "")


def test_absent_server_is_named_with_the_fix(score_many: Scorer) -> None:
    url = FakeTriton().url
    with pytest.raises(ServerUnavailableError, match=rf"no server answers at {url} \(.*\); start one with") as caught:
        score_many(url, [b"0.1"], retries=1)
    assert "--url HOST:PORT" in str(caught.value)


def _refusal() -> str | None:
    controller = AdmissionController(max_images=1, max_bytes=1)
    controller.admit(1, images=1, size=1, now=0.0)
    return controller.admit(2, images=8, size=8, now=0.0)


@pytest.mark.parametrize(
    "detail",
    [
        "Exceeds maximum queue size",
        "in ensemble 'deepfake_detector', Exceeds maximum queue size",
        f"in ensemble 'deepfake_detector', {_refusal()}",
    ],
)
def test_server_that_turns_a_request_away_is_overloaded(server: FakeTriton, detail: str) -> None:
    server.fault = fail_times(1, grpc.StatusCode.UNAVAILABLE, detail)
    with DetectorClient(server.url, retries=0) as client, pytest.raises(ServerOverloadedError, match="is overloaded"):
        client.score(b"0.1")


def test_host_whose_name_speaks_of_a_queue_is_absent_and_not_overloaded(score_many: Scorer) -> None:
    with pytest.raises(ServerUnavailableError, match=r"no server answers at no-queue\.invalid:1") as caught:
        score_many("no-queue.invalid:1", [b"0.1"], retries=1, timeout=60)
    assert not isinstance(caught.value, ServerOverloadedError)


def test_server_that_stays_away_ends_the_run_after_the_verdicts_before_it(server: FakeTriton) -> None:
    with DetectorClient(server.url, retries=1, batch_size=1, max_in_flight=1) as client:
        verdicts = client.score_many([b"0.1"] * 100)
        assert next(verdicts).score == 0.1
        server.stop()
        with pytest.raises(ServerUnavailableError):
            list(verdicts)
        server.start()


def test_passed_deadline_names_the_limit_and_the_fix(server: FakeTriton) -> None:
    server.fault = hang(30)
    with (
        DetectorClient(server.url, timeout=0.2, retries=0) as client,
        pytest.raises(RequestFailedError, match=r"within 0\.2 s; .* longer timeout") as caught,
    ):
        client.score(b"0.1")
    assert caught.value.code == "DEADLINE_EXCEEDED"


def drop_score(outputs: dict[str, np.ndarray]) -> None:
    del outputs["SCORE"]


def shorten_status(outputs: dict[str, np.ndarray]) -> None:
    outputs["STATUS"] = outputs["STATUS"][:1]


def widen_score(outputs: dict[str, np.ndarray]) -> None:
    outputs["SCORE"] = outputs["SCORE"].astype(np.float64)


def forget_score(outputs: dict[str, np.ndarray]) -> None:
    outputs["SCORE"][:] = np.nan


@pytest.mark.parametrize(
    ("garble", "message"),
    [
        (drop_score, "SCORE is missing"),
        (shorten_status, r"STATUS .* is object \[1, 1\], not object \[2, 1\]"),
        (widen_score, "SCORE .* is float64"),
        (forget_score, "ok but gives no score"),
    ],
)
def test_answer_against_the_contract_is_a_failed_request(
    server: FakeTriton, score_many: Scorer, garble: Any, message: str
) -> None:
    server.garble = garble
    verdicts = score_many(server.url, [b"0.1", b"0.2"])
    assert [v.status for v in verdicts] == ["request_failed"] * 2
    assert re.search(message, verdicts[0].error or "")


def test_answer_without_bytes_is_a_failed_request(server: FakeTriton, client: DetectorClient) -> None:
    def empty(request: Any, context: Any) -> pb.ModelInferResponse:
        response = FakeTriton._detect(server, request, context)
        response.raw_output_contents[0] = b""
        return response

    server._detect = empty  # type: ignore[method-assign]
    with pytest.raises(InvalidResponseError, match="output SCORE of the server is damaged"):
        client.score(b"0.1")


@pytest.mark.parametrize("value", ["http://localhost:8000", "localhost", "localhost:", ":8001", "a b:1", "host:80:90"])
def test_address_that_is_no_host_and_port_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        DetectorClient(value)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"retries": -1}, {"max_in_flight": 0}, {"batch_size": 0}])
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        AsyncDetectorClient(**options)


# leaving early


FIRST_AND_OTHERS = [b"0.1", *[b"0.9"] * 50]


def for_all_but_the_first(fault: Fault) -> Fault:
    return lambda request, context: fault(request, context) if b"0.9" in request.raw_input_contents[0] else None


def test_leaving_early_cancels_what_is_in_flight(server: FakeTriton) -> None:
    server.fault = for_all_but_the_first(hang(60))
    started = time.monotonic()
    with DetectorClient(server.url, batch_size=1) as client:
        with closing(client.score_many(FIRST_AND_OTHERS)) as verdicts:
            assert next(verdicts).score == 0.1
        assert client.server_info().version == "2.51.0"  # the client itself goes on
    assert time.monotonic() - started < 5


def test_leaving_early_ends_a_wait_for_the_next_try(server: FakeTriton) -> None:
    server.fault = for_all_but_the_first(fail_times(10**6, grpc.StatusCode.INTERNAL))
    with DetectorClient(server.url, batch_size=1) as client, closing(client.score_many(FIRST_AND_OTHERS)) as verdicts:
        next(verdicts)
        time.sleep(3)  # retries are now some seconds apart
        started = time.monotonic()
    assert time.monotonic() - started < 1


def test_asyncio_leaving_early_cancels_what_is_in_flight(server: FakeTriton) -> None:
    server.fault = for_all_but_the_first(hang(60))

    async def run() -> None:
        async with (
            AsyncDetectorClient(server.url, batch_size=1) as client,
            aclosing(client.score_many(FIRST_AND_OTHERS)) as verdicts,
        ):
            assert (await anext(verdicts)).score == 0.1

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < 5


def test_iterators_beside_each_other_do_not_mix(client: DetectorClient) -> None:
    pairs = zip(client.score_many([b"0.1"] * 50), client.score_many([b"0.9"] * 50), strict=True)
    assert {(a.score, b.score) for a, b in islice(pairs, 50)} == {(0.1, 0.9)}


# the server itself


def test_server_info_gives_version_and_limit(client: DetectorClient, server: FakeTriton) -> None:
    server.max_batch_size = 5
    assert client.server_info() == ServerInfo("triton", "2.51.0", "deepfake_detector", 5)


def test_unknown_model_is_named(server: FakeTriton, score_many: Scorer) -> None:
    with pytest.raises(RequestFailedError, match="has no model 'nothing'"):
        score_many(server.url, [b"0.1"], model="nothing")


def test_provenance_says_untrained(client: DetectorClient, server: FakeTriton) -> None:
    assert client.provenance() is None
    server.provenance = untrained()
    provenance = client.provenance()
    assert provenance is not None
    assert provenance.untrained is True
    assert provenance.document["precision"] == "fp32"


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"untrained": "no"}', "null"])
def test_damaged_provenance_is_an_error(client: DetectorClient, server: FakeTriton, text: str) -> None:
    server.provenance = text
    with pytest.raises(InvalidResponseError, match="provenance"):
        client.provenance()


def test_asyncio_client_has_the_same_face(server: FakeTriton) -> None:
    async def run() -> None:
        server.provenance = untrained()
        async with AsyncDetectorClient(server.url) as client:
            await client.wait_ready(5)
            assert await client.server_info() == ServerInfo("triton", "2.51.0", "deepfake_detector", 32)
            assert await client.provenance() == Provenance(True, json.loads(untrained()))
            server.provenance = None
            assert await client.provenance() is None
            assert (await client.score(b"0.6", face_box=(1, 2, 3, 4))).verdict == "fake"
            with pytest.raises(FileNotFoundError):
                await client.score("missing.jpg")

    asyncio.run(run())
    public = {name for name in dir(DetectorClient) if not name.startswith("_")}
    assert public == {name for name in dir(AsyncDetectorClient) if not name.startswith("_")}


@pytest.mark.parametrize("fault", [hang(60), fail_times(10**6, grpc.StatusCode.INTERNAL)], ids=["hangs", "fails"])
def test_ready_server_with_a_dead_step_is_not_ready(client: DetectorClient, server: FakeTriton, fault: Any) -> None:
    server.fault = fault
    with pytest.raises(ServerUnavailableError, match=r"was not ready within 1 s"):
        client.wait_ready(1)


def test_asyncio_wait_ready_gives_up_in_time() -> None:
    async def run() -> None:
        async with AsyncDetectorClient(FakeTriton().url) as client:
            with pytest.raises(ServerUnavailableError, match="was not ready within 1 s: no server answers"):
                await client.wait_ready(1)

    asyncio.run(run())


def test_server_that_scores_nothing_is_not_ready(client: DetectorClient, server: FakeTriton) -> None:
    server.garble = lambda outputs: outputs["STATUS"].fill(b"non_finite_logits")
    with pytest.raises(ServerUnavailableError, match="answers a test image with 'non_finite_logits'"):
        client.wait_ready(1)


def test_wait_ready_waits_for_a_server_that_starts_late() -> None:
    server = FakeTriton()
    starter = threading.Timer(1, server.start)
    starter.start()
    with DetectorClient(server.url) as client:
        client.wait_ready(15)
    starter.join()
    server.stop()


def test_wait_ready_tells_of_a_wrong_model_at_once(server: FakeTriton) -> None:
    with DetectorClient(server.url, model="nothing") as client, pytest.raises(RequestFailedError, match="no model"):
        client.wait_ready(60)
