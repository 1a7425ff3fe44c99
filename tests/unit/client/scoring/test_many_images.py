"""Many images: order, batches, limits and memory, blocking and asyncio alike."""

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from deepfake_client import DetectorClient, InvalidResponseError
from deepfake_client.bulk.memory_budget import BYTES, AsyncMemoryBudget, MemoryBudget
from deepfake_client.images.items import read as read_file
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.fakes.triton import FakeTriton, hang, serving
from tests.unit.client.scoring.asking import Scorer, score_many_asyncio, score_many_blocking, scores_of
from tests.waiting import PATIENCE, wait_for


def test_order_is_kept_whatever_answers_first(server: FakeTriton, score_many: Scorer) -> None:
    server.fault = lambda request, context: time.sleep(random.Random(len(server.batches)).random() * 0.05)
    images = [b"%.1f" % (n % 11 / 10) for n in range(200)]
    verdicts = score_many(server.url, images, batch_size=3, max_in_flight=8)
    assert scores_of(verdicts) == [float(image) for image in images]


def test_in_flight_is_bounded_and_used(server: FakeTriton, score_many: Scorer) -> None:
    end = time.monotonic() + PATIENCE

    def wait_for_the_others(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        while server.peak < 3 and time.monotonic() < end:
            time.sleep(0.01)
        hang(0.05)(request, context)

    server.fault = wait_for_the_others
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


@pytest.mark.parametrize("name", ["client.MemoryBudget", "aio.AsyncMemoryBudget"])
def test_each_server_adds_to_the_bytes_under_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[int] = []

    def budget(most: int) -> None:
        budgets.append(most)
        raise LookupError

    monkeypatch.setattr(f"deepfake_client.{name}", budget)
    score_many = score_many_blocking if name.startswith("client") else score_many_asyncio
    for servers in (1, 3):
        with pytest.raises(LookupError):
            score_many([f"127.0.0.1:{port + 1}" for port in range(servers)], [b"0.1"])
    assert budgets == [BYTES, 3 * BYTES]


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
                wait_for(budget._turn.locked)
                small = [pool.submit(spend, "small", 1) for _ in range(2)]
                time.sleep(0.5)
                assert not order
            for each in small:
                each.result(PATIENCE)
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
