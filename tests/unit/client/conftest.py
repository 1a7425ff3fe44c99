"""What the tests of the client share: a server that only speaks Triton's protocol."""

from collections.abc import Iterator
from types import SimpleNamespace

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


@pytest.fixture
def patient_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each probe of `wait_ready` has the time that a busy machine may need: else the last has a tenth of a second."""
    for module in ("client", "aio"):
        times = iter([PATIENCE])
        clock = SimpleNamespace(monotonic=lambda times=times: next(times, 0.0))
        monkeypatch.setattr(f"deepfake_client.{module}.time", clock)
