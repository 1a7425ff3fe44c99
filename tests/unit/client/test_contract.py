"""The wire contract has one source, and answers outside it are not believed."""

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from deepfake_client import STATUS_HINTS, STREAM_NAMES, AsyncDetectorClient, DetectorClient, InvalidResponseError
from deepfake_client.contract import contract
from deepfake_client.contract.streams import STREAMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ensemble.contract
from tests.fakes.triton import FakeTriton, fail_times
from tests.golden import ROOT

COPY = ROOT / "client" / "deepfake_client" / "contract"


@pytest.fixture
def client(server: FakeTriton, whole_batches: None) -> Iterator[DetectorClient]:
    with DetectorClient(server.url, retries=2) as client:
        yield client


@pytest.mark.parametrize("name", ["contract.py", "streams.py", "status.py"])
def test_the_client_carries_the_contract_as_it_is(name: str) -> None:
    assert (COPY / name).read_text() == (ROOT / "ensemble" / name).read_text(), "run scripts/contract"


def test_streams_and_statuses_of_the_client_are_those_of_the_contract() -> None:
    assert tuple(stream.name for stream in STREAMS) == STREAM_NAMES
    assert set(STATUS_HINTS) >= contract.STATUSES - {"ok"}


def test_a_refusal_is_told_by_its_code() -> None:
    message = ensemble.contract.refusal(contract.OVERLOADED, "300 images are in the server")
    assert contract.refusal_code(f"in ensemble 'deepfake_detector', {message}") == contract.OVERLOADED
    assert contract.refusal_code(ensemble.contract.refusal(contract.STUCK, "for 60 s")) == contract.STUCK
    assert contract.refusal_code("Exceeds maximum queue size 32") == contract.OVERLOADED
    assert contract.refusal_code("errors resolving OVERLOADED:1: the queue is full: no such host") is None


def garbled(server: FakeTriton, output: str, value: Any) -> None:
    def garble(outputs: dict[str, np.ndarray]) -> None:
        outputs[output][1] = value

    server.garble = garble


@pytest.mark.parametrize(
    ("output", "value"),
    [
        *((name, bad) for name in ("SCORE", "PROBABILITY", "FACE_CONFIDENCE") for bad in (1.01, -0.01, math.inf)),
        *((name, bad) for name in ("SCORE", "PROBABILITY", "STREAM_VOTES") for bad in (math.nan,)),
        ("STREAM_PROBABILITIES", (0.5, 2.0, 0.5)),
        ("STREAM_VOTES", (0.5, -math.inf, 0.5)),
        ("STREAM_PROBABILITIES", (0.5, math.nan, 0.5)),
        ("FACE", (5.0, 5.0, 1.0, 9.0)),
        ("FACE", (1.0, 9.0, 5.0, 9.0)),
        ("FACE", (1.0, math.nan, 5.0, 9.0)),
        ("FACE", (1.0, 1.0, math.inf, 9.0)),
        ("FACE", (-3e38, -3e38, 3e38, 3e38)),
        ("FACE", (1.0, 1.0, 2.0**21 + 1, 9.0)),
        ("SCORE", 0.355),
        ("STREAM_VOTES", (0.5, 0.372, 0.5)),
        ("STATUS", b"splendid"),
        ("STATUS", b""),
        ("STATUS", b"ok\x1b[2J"),
        ("STATUS", b"x" * 100_000),
        ("FACE_SOURCE", b"raw\x1b]0;title\x07"),
        ("FACE_SOURCE", b"r" * 65),
    ],
)
def test_a_row_outside_the_contract_is_not_believed_and_costs_no_other(
    server: FakeTriton, client: DetectorClient, output: str, value: Any
) -> None:
    garbled(server, output, value)
    before, row, after = client.score_many([b"0.1", b"0.2", b"0.3"])
    assert (before.score, after.score) == (0.1, 0.3)
    assert (row.status, row.score, row.verdict) == ("request_failed", None, None)
    assert row.error is not None
    assert len(row.error) < 300
    assert row.error.isprintable()


def test_an_image_that_was_not_scored_has_no_numbers(server: FakeTriton, client: DetectorClient) -> None:
    garbled(server, "STATUS", b"too_many_bytes")
    row = list(client.score_many([b"0.1", b"0.9"]))[1]
    assert (row.status, row.score, row.probability, row.verdict) == ("too_many_bytes", None, None, None)
    assert {(stream.probability, stream.vote) for stream in row.streams.values()} == {(None, None)}
    assert (row.face.box, row.face.confidence) == (None, None)


def test_every_step_of_a_calibrated_vote_is_believed(client: DetectorClient) -> None:
    votes = [step / 100 for step in range(101)]
    assert [verdict.score for verdict in client.score_many([str(vote).encode() for vote in votes])] == votes


@pytest.mark.parametrize(
    ("output", "value"),
    [
        *((name, end) for name in ("SCORE", "PROBABILITY", "FACE_CONFIDENCE") for end in (0.0, 1.0)),
        ("FACE_CONFIDENCE", math.nan),
        ("STREAM_VOTES", (0.0, 1.0, 0.35)),
        ("STREAM_PROBABILITIES", (0.0, 1.0, 0.123456)),
        ("FACE", (-(2.0**21), -(2.0**21), 2.0**21, 2.0**21)),
        ("FACE", (math.nan,) * 4),
        ("FACE_SOURCE", b"r" * 64),
        ("FACE_SOURCE", b"_az09"),
        ("FACE_SOURCE", b""),
    ],
)
def test_what_is_at_the_ends_of_the_contract_is_believed(
    server: FakeTriton, client: DetectorClient, output: str, value: Any
) -> None:
    garbled(server, output, value)
    row = list(client.score_many([b"0.1", b"0.2"]))[1]
    assert (row.status, row.error) == ("ok", None)


def test_an_answer_that_is_larger_than_any_is_not_taken(server: FakeTriton, client: DetectorClient) -> None:
    server.garble = lambda outputs: outputs["FACE_SOURCE"].fill(b"a" * (5 << 20))
    (row,) = client.score_many([b"0.1"])
    assert row.status == "request_failed"
    assert "answers with more than" in (row.error or "")
    with pytest.raises(InvalidResponseError, match="answers with more than"):
        asyncio.run(score_by_asyncio(server.url))


async def score_by_asyncio(url: str) -> None:
    async with AsyncDetectorClient(url) as client:
        await client.score(b"0.1")


@given(values=st.lists(st.floats(width=32), min_size=4, max_size=4))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_that_are_believed_are_within_their_ranges(
    server: FakeTriton, client: DetectorClient, values: list[float]
) -> None:
    garbled(server, "FACE", values)
    face = list(client.score_many([b"0.1", b"0.2"]))[1].face.box
    x1, y1, x2, y2 = face or (0, 0, 1, 1)
    assert x1 < x2
    assert y1 < y2
    assert all(-(2**21) <= value <= 2**21 for value in (x1, y1, x2, y2))


@pytest.mark.parametrize("limit", ["0", "-1", "many", "9" * 30, "1_000"])
def test_a_limit_that_is_none_is_told(server: FakeTriton, client: DetectorClient, limit: str) -> None:
    server.max_bytes = limit
    with pytest.raises(InvalidResponseError, match="max_bytes"):
        list(client.score_many([b"0.1"]))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[1]", '{"untrained": "yes"}', '{"untrained": true, "x": "' + "x" * (1 << 20) + '"}']
)
def test_provenance_that_is_none_is_told(server: FakeTriton, client: DetectorClient, text: str) -> None:
    server.provenance = text
    with pytest.raises(InvalidResponseError, match="provenance"):
        client.provenance()


def test_words_of_a_server_are_bounded_and_printable(server: FakeTriton, client: DetectorClient) -> None:
    server.fault = fail_times(9, grpc.StatusCode.INVALID_ARGUMENT, "\x1b[31m\a" + "bad " * 1000)
    (row,) = client.score_many([b"0.1"])
    assert row.error is not None
    assert row.error.isprintable()
    assert len(row.error) < 3000


@pytest.mark.parametrize(
    "fault",
    [
        "in ensemble 'deepfake_detector', [request id: <id_unknown>] expected 3 inputs but got 2 inputs for model 'x'",
        "in ensemble 'deepfake_detector', unexpected deadlock, at least one output is not set while no more ensemble",
    ],
)
def test_an_ensembles_own_fault_is_retried(server: FakeTriton, client: DetectorClient, fault: str) -> None:
    server.fault = fail_times(2, grpc.StatusCode.INVALID_ARGUMENT, fault)
    assert client.score(b"0.7").score == 0.7
    assert server.calls == 3


def test_a_wrong_number_of_inputs_of_the_request_itself_is_not_retried(
    server: FakeTriton, client: DetectorClient
) -> None:
    server.fault = fail_times(9, grpc.StatusCode.INVALID_ARGUMENT, "expected 2 inputs but got 1 inputs for model 'x'")
    assert [each.status for each in client.score_many([b"0.7"])] == ["request_failed"]
    assert server.calls == 1
