"""Items become batches: full ones, what there is where the source stands still, and no further ahead than one."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from deepfake_client.bulk.batcher import Batcher, abatching, batching
from deepfake_client.images.items import Item

from tests.waiting import PATIENCE


def names(items: list[Item]) -> list[bytes | None]:
    return [item.data for item in items]


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def batcher(events: list[str]) -> Batcher:
    return Batcher(3, on_batch=lambda: events.append("batch"), on_room=lambda: events.append("room"))


def test_a_batch_goes_when_it_is_full(batcher: Batcher, events: list[str]) -> None:
    for data in (b"a", b"b"):
        batcher.add(data)
        assert batcher.take() == []
    assert events == []
    batcher.add(b"c")
    assert events == ["batch"]
    assert batcher.full
    assert names(batcher.take()) == [b"a", b"b", b"c"]
    assert events == ["batch", "room"]
    assert not batcher.full
    assert batcher.take() == []


def test_what_is_let_go_of_goes_once_and_the_next_batch_is_full_again(batcher: Batcher) -> None:
    batcher.flush()  # there is nothing yet
    batcher.add(b"a")
    assert batcher.take() == []
    batcher.flush()
    assert names(batcher.take()) == [b"a"]
    batcher.add(b"b")
    assert batcher.take() == []


def test_the_rest_goes_at_the_end_and_the_source_s_error_is_told(batcher: Batcher, events: list[str]) -> None:
    batcher.add(b"a")
    batcher.check()
    batcher.end(ValueError("the source broke"))
    assert events == ["batch"]
    assert not batcher.exhausted
    assert names(batcher.take()) == [b"a"]
    assert batcher.exhausted
    with pytest.raises(ValueError, match="the source broke"):
        batcher.check()


def test_a_source_is_read_no_further_than_a_batch_and_is_done_with_when_it_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deepfake_client.bulk.batcher._LAST_ITEM_SECONDS", PATIENCE)
    before = set(threading.enumerate())
    full, taken = threading.Event(), list[bytes]()

    def source() -> Iterator[bytes]:
        for number in range(100):
            taken.append(b"%d" % number)
            yield taken[-1]

    with batching(source(), 2, full.set) as batcher:
        for first in (0, 2):
            assert full.wait(PATIENCE)
            full.clear()
            assert len(taken) == first + 2
            assert names(batcher.take()) == [b"%d" % first, b"%d" % (first + 1)]
        assert full.wait(PATIENCE)
    assert len(taken) == 6
    assert not [each for each in set(threading.enumerate()) - before if each.name == "deepfake-client-source"]


def test_room_that_was_made_before_is_none_for_a_full_batch() -> None:
    full, gate, taken = threading.Event(), threading.Event(), list[int]()

    def source() -> Iterator[bytes]:
        for number in range(100):
            if number == 1:
                gate.wait(PATIENCE)
            taken.append(number)
            yield b"x"

    with batching(source(), 2, full.set) as batcher:
        while not batcher.take():
            batcher.flush()
        gate.set()
        assert full.wait(PATIENCE)
        time.sleep(0.05)
        assert taken == [0, 1, 2]


def test_the_error_of_a_source_comes_after_its_items() -> None:
    ended = threading.Event()

    def source() -> Iterator[bytes]:
        yield b"a"
        raise OSError("gone")

    with batching(source(), 2, ended.set) as batcher:
        assert ended.wait(PATIENCE)
        assert names(batcher.take()) == [b"a"]
        with pytest.raises(OSError, match="gone"):
            batcher.check()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_the_same_holds_for_asyncio(asynchronous: bool) -> None:
    taken = list[bytes]()

    def source() -> Iterator[bytes]:
        for number in range(100):
            taken.append(b"%d" % number)
            yield taken[-1]

    async def asource() -> AsyncIterator[bytes]:
        for item in source():
            yield item

    async def run() -> None:
        full = asyncio.Event()
        async with abatching(asource() if asynchronous else source(), 2, full.set) as batcher:
            for first in (0, 2):
                await full.wait()
                full.clear()
                await asyncio.sleep(0)
                assert len(taken) == first + 2
                assert names(batcher.take()) == [b"%d" % first, b"%d" % (first + 1)]
            await full.wait()
        assert len(taken) == 6
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
