"""The processes of a server that runs."""

import os
import signal
from contextlib import suppress

import psutil


def living(pid: int) -> dict[psutil.Process, list[str]]:
    """The living descendants of a process, and their command lines; those that decode images come and go meanwhile."""
    lines = {}
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if line := process.cmdline():
                lines[process] = line
    return lines


def stubs(pid: int) -> list[psutil.Process]:
    """The steps of a server."""
    return [process for process, line in living(pid).items() if line[0].endswith("backend_stub")]


def kill_stub(pid: int, model: str) -> None:
    """Kills a model's step, where it lives."""
    for process in stubs(pid):
        with suppress(psutil.NoSuchProcess):
            if f"/{model}/" in " ".join(process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
