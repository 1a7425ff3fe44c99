"""Steps in processes of their own, each with a limit of time; what each has found is on disk at once.

A process for each step, since a fault of a kernel spoils the GPU for the process that met it, and since a compiler that
hangs can only be ended with its process. They are forked: so torch is imported once.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.common.result import Figure

Item = TypeVar("Item")

_FORK = multiprocessing.get_context("fork")

GRACE_SECONDS = 5.0
"""That a step gets beyond its time to see by itself that it is over."""


@dataclass(frozen=True)
class Detail:
    """What a step found that is no figure to compare.

    Attributes:
        name: Later steps find it by this name in `Context.known`.
        value: JSON.
    """

    name: str
    value: Any


@dataclass(frozen=True)
class Context:
    """What a step is given.

    Attributes:
        device: `cuda`, or `cpu` for a dry run.
        preset: Size of the networks.
        folder: For its files; gigabytes at the giant size.
        deadline: When it has to be over, on `time.monotonic`.
        known: Details that earlier steps found.
    """

    device: str
    preset: str
    folder: Path
    deadline: float
    known: Mapping[str, Any]

    @property
    def dry(self) -> bool:
        """Whether there is no GPU."""
        return self.device == "cpu"

    def some(self, of: Sequence[Item]) -> Sequence[Item]:
        """All of them; in a dry run, the first."""
        return of[:1] if self.dry else of

    def batches(self, of: Sequence[int]) -> Sequence[int]:
        """All of them; in a dry run, a batch of one image."""
        return (1,) if self.dry else of

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()


class NotHereError(Exception):
    """A step cannot be run here; the message says what is missing."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: Of the step.
        tells: What it finds, for people.
        module: Of this package; its function `run` takes a `Context` and yields `Figure` and `Detail` as it finds them.
            It is imported in the step's own process.
        function: Of the module.
        seconds: The most that it may take.
    """

    name: str
    tells: str
    module: str
    function: str
    seconds: float

    def load(self) -> Callable[[Context], Iterator[Figure | Detail]]:
        """Import it.

        Raises:
            ImportError: A package that it needs is not here.
        """
        return getattr(importlib.import_module(f"benchmarks.gpu_check.{self.module}"), self.function)  # type: ignore[no-any-return]


@dataclass
class Outcome:
    """What came of one step.

    Attributes:
        status: `done`, `not here: …`, `stopped: …` or `failed: …`.
        seconds: That it took.
        figures: What it measured.
        details: What else it found.
    """

    status: str = "running"
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def run_step(step: Step, context: Context, on_found: Callable[[Outcome], None]) -> Outcome:
    """Run a step in a process of its own.

    Args:
        step: The step.
        context: What it is given; it is ended some seconds after the deadline.
        on_found: Called with what has been found so far after each finding.
    """
    outcome = Outcome()
    started = time.monotonic()
    log = context.folder / f"{step.name}.log"
    reader, writer = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_work, args=(step, context, writer, log))
    process.start()
    writer.close()
    try:
        while reader.poll(max(0.0, context.seconds_left + GRACE_SECONDS)):
            try:
                kind, value = reader.recv()
            except EOFError:
                process.join()
                if outcome.status == "running":
                    outcome.status = f"failed: {_last_line(log) or f'exit code {process.exitcode}'}"
                break
            if kind == "status":
                outcome.status = value
            elif isinstance(value, Figure):
                outcome.figures.append(value)
            else:
                outcome.details[value.name] = value.value
            outcome.seconds = round(time.monotonic() - started, 1)
            on_found(outcome)
        else:
            outcome.status = f"stopped: it took more than {time.monotonic() - started:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)  # what it started ends with it
        process.join()
        reader.close()
    outcome.seconds = round(time.monotonic() - started, 1)
    return outcome


def _work(step: Step, context: Context, writer: Connection, log: Path) -> None:
    """In the child: what it prints goes to its log, of which the last line of a fault is told."""
    os.setpgid(0, 0)
    sys.stdout = sys.stderr = log.open("w", encoding="utf-8", buffering=1)
    for descriptor in (1, 2):  # of libraries, and of processes that it starts
        os.dup2(sys.stdout.fileno(), descriptor)
    try:
        for found in step.load()(context):
            writer.send(("found", found))
            if context.seconds_left < 0:
                writer.send(("status", "stopped: its time was over"))
                return
    except (ImportError, NotHereError) as error:
        writer.send(("status", f"not here: {error}"))
        return
    writer.send(("status", "done"))


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
