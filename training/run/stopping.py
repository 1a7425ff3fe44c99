"""Being asked to stop: the update that is being made is finished and saved first."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """The signal that asked for it; None as long as there was none."""

    asked: signal.Signals | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """SIGTERM or Ctrl-C asks to stop; the same once more ends the process at once."""
    request = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        request.asked = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
