"""Who is over the limit is turned away at the door: the count, and the real server under four times what it can do."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as aio
from deepfake_client import DetectorClient
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from ensemble.admission import Admission
from tests.conftest import Server, start_server
from tests.golden import BOXES, GOLDEN, ROWS

LIMIT = 32


def test_who_comes_to_an_empty_server_is_let_in() -> None:
    assert Admission(limit=8).admit(32, now=0.0) == 32


def test_over_the_limit_is_turned_away_until_tickets_are_done() -> None:
    admission = Admission(limit=8)
    assert admission.admit(6, 0.0) == 6
    assert admission.admit(2, 0.0) == 8
    assert admission.admit(1, 0.0) is None
    admission.done(6, 1.0)
    assert admission.admit(1, 1.0) == 9
    assert admission.inside == 3


def test_who_left_without_a_report_is_counted_out_with_the_next_who_does() -> None:
    admission = Admission(limit=8)
    admission.admit(4, 0.0)
    ticket = admission.admit(4, 0.0)
    assert ticket is not None
    admission.done(ticket, 1.0)
    assert admission.inside == 0


def test_when_all_inside_hung_up_one_request_is_let_in_after_a_while() -> None:
    admission = Admission(limit=8)
    admission.admit(8, 0.0)
    assert admission.admit(1, 9.0) is None
    ticket = admission.admit(1, 10.5)
    assert ticket == 9
    assert admission.admit(1, 10.6) is None  # only one at a time
    admission.done(ticket, 11.0)
    assert admission.inside == 0


def test_a_slow_network_s_silence_is_no_sign() -> None:
    admission = Admission(limit=8)
    admission.admit(4, 0.0)
    admission.admit(4, 0.0)
    admission.done(4, 100.0)  # a batch takes 100 s here
    admission.admit(4, 100.0)
    assert admission.admit(1, 290.0) is None


@given(
    st.integers(1, 64),
    st.lists(st.tuples(st.integers(1, 32), st.integers(0, 3), st.floats(0, 1)), max_size=60),
)
def test_never_more_inside_than_the_limit_and_tickets_never_go_back(
    limit: int, events: list[tuple[int, int, float]]
) -> None:
    admission, now, last = Admission(limit), 0.0, 0
    for count, left, seconds in events:
        now += seconds / 100  # the patience of ten seconds never runs out
        before = admission.inside
        ticket = admission.admit(count, now)
        if ticket is None:
            assert 0 < before <= admission.inside
            assert before + count > limit
        else:
            assert ticket == last + count
            last = ticket
        assert admission.inside <= max(limit, 32)
        admission.done(last - admission.inside + min(left, admission.inside), now)
        assert 0 <= admission.inside <= last


@pytest.fixture(scope="module")
def small_door(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("door")
    shutil.copytree(tiny_repository, folder / "models")
    config = folder / "models" / "preprocess" / "config.pbtxt"
    text = config.read_text()
    assert '"max_pending" value { string_value: "256" }' in text
    config.write_text(text.replace('"256" }', f'"{LIMIT}" }}', 1))
    server = start_server(folder / "models", folder / "log")
    yield server
    assert server.stop() == 0


async def ask(client: aio.InferenceServerClient, image: bytes, batch: int, timeout: float) -> str:
    tensor = InferInput("IMAGE", [batch, 1], "BYTES")

    tensor.set_data_from_numpy(np.array([[image]] * batch, np.object_))
    try:
        await client.infer("deepfake_detector", [tensor], client_timeout=timeout)
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    return "ok"


@pytest.mark.server
@pytest.mark.slow
def test_overload_is_refused_at_once_and_the_server_recovers_at_once(small_door: Server) -> None:
    image = (GOLDEN / "images" / "00_face.png").read_bytes()

    async def flood() -> tuple[list[str], float]:
        async with aio.InferenceServerClient(small_door.url) as client:
            answers = await asyncio.gather(*(ask(client, image, 8, 60) for _ in range(60)))
            started = time.monotonic()
            assert await ask(client, image, 8, 60) == "ok"
            return answers, time.monotonic() - started

    answers, recovery = asyncio.run(flood())
    kinds = Counter(answer.partition(":")[0] for answer in answers)
    assert set(kinds) == {"ok", "StatusCode.UNAVAILABLE"}
    assert kinds["ok"] >= LIMIT // 8
    assert all(f"limit of {LIMIT}" in answer for answer in answers if answer != "ok")
    assert recovery < 10
    # Nobody stays behind: whoever was refused is not waited for.
    with DetectorClient(small_door.url, batch_size=16, max_in_flight=16) as client:
        items = [(GOLDEN / "images" / row["image"], BOXES[row["image"]]) for row in ROWS] * 8
        assert [verdict.score for verdict in client.score_many(items)] == [row["vote"] for row in ROWS] * 8


@pytest.mark.server
@pytest.mark.slow
def test_clients_that_hang_up_do_not_close_the_door(small_door: Server) -> None:
    image = (GOLDEN / "images" / "00_face.png").read_bytes()

    async def hang_up() -> None:
        async with aio.InferenceServerClient(small_door.url) as client:
            await asyncio.gather(*(ask(client, image, 8, 0.02) for _ in range(40)))

    asyncio.run(hang_up())
    with DetectorClient(small_door.url, timeout=60) as client:
        assert client.score(GOLDEN / "images" / "00_face.png").ok
