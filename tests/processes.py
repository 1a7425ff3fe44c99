"""Processes that run: a server's, a command's, this one."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil


def living(pid: int) -> dict[psutil.Process, list[str]]:
    """The living descendants of a process, and their command lines; those that decode images come and go meanwhile."""
    lines = {}
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if line := process.cmdline():
                lines[process] = line
    return lines


def opened(pid: int | str = "self") -> list[str]:
    """What a process has open."""
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed since it was listed
            links.append(str(descriptor.readlink()))
    return links


def is_idle(pid: int) -> bool:
    """Whether a process waits for something, and goes on to: between two steps of its work it would not for long."""
    for _ in range(5):
        if psutil.Process(pid).status() != psutil.STATUS_SLEEPING:
            return False
        time.sleep(0.02)
    return True


def stubs(pid: int) -> list[psutil.Process]:
    """The steps of a server."""
    return [process for process, line in living(pid).items() if line[0].endswith("backend_stub")]


def kill_stub(pid: int, model: str) -> None:
    """Kills a model's step, where it lives."""
    for process in stubs(pid):
        with suppress(psutil.NoSuchProcess):
            if f"/{model}/" in " ".join(process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
