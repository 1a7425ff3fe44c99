"""What the tests of the client share: a server that only speaks Triton's protocol."""

from collections.abc import Iterator

import pytest

from tests.fakes.triton import FakeTriton, serving
from tests.waiting import PATIENCE


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    """In the place of the real one, which has tests of its own."""
    with serving() as server:
        yield server


@pytest.fixture
def whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that a busy machine holds up does not stand still: only full batches and the last one are sent."""
    for module in ("client", "aio"):
        monkeypatch.setattr(f"deepfake_client.{module}.STALL_SECONDS", PATIENCE)
