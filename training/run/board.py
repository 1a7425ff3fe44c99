"""Scalars for TensorBoard, written in this thread: the library's writer ends in one of its own where a disk is full."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

_SUMMARY: Any = scalar  # not typed


class Board:
    """One file of events.

    Args:
        folder: Of TensorBoard's files; each call of the command adds one.
        done: Updates already made: what earlier files hold of later ones is no longer shown.

    Raises:
        OSError: It cannot be written; so do all of its methods but `close`.
    """

    def __init__(self, folder: Path, done: int) -> None:
        folder.mkdir(exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time_ns()}").open("wb")
        try:
            self._records = RecordWriter(self._file)
            self._write(Event(file_version="brain.Event:2"))
            self._write(Event(step=done, session_log=SessionLog(status=SessionLog.START)))
        except OSError:
            self.close()
            raise

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the scalars of one update, by name."""
        for name, value in values.items():
            self._write(Event(step=step, summary=_SUMMARY(name, value)))

    def close(self) -> None:
        """Closes the file; what a full disk did not take is lost."""
        with suppress(OSError):
            self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()
