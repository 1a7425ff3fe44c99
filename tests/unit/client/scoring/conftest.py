"""A client of the server that only speaks the protocol, and both ways to ask about many images."""

from collections.abc import Iterator

import pytest
from deepfake_client import DetectorClient

from tests.fakes.triton import FakeTriton
from tests.unit.client.scoring.asking import Scorer, score_many_asyncio, score_many_blocking
from tests.waiting import PATIENCE


@pytest.fixture(autouse=True)
def _patient(whole_batches: None) -> None:
    """A busy machine changes no batches."""


@pytest.fixture
def client(server: FakeTriton) -> Iterator[DetectorClient]:
    with DetectorClient(server.url, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(params=[score_many_blocking, score_many_asyncio], ids=["blocking", "asyncio"])
def score_many(request: pytest.FixtureRequest) -> Scorer:
    return request.param
