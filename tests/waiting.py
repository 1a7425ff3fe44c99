"""Waiting for what another process does in its own time: a fixed pause would be too short on a busy machine."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds in which what is to happen has happened, on a busy machine too."""


def wait_for(what: Callable[[], T | None], seconds: float = PATIENCE, hint: Callable[[], object] = lambda: "") -> T:
    """Returns the first true answer of `what`.

    Raises:
        AssertionError: None came in time; `hint` says what was there instead.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := what():
            return result
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {hint()}")
