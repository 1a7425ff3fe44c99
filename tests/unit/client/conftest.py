"""What the tests of the client share: a server that only speaks Triton's protocol."""

from collections.abc import Iterator

import pytest

from tests.fakes.triton import FakeTriton, serving


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    """In the place of the real one, which has tests of its own."""
    with serving() as server:
        yield server
