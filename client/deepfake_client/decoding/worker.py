"""The program in which files are decoded: a template process, and a worker for each job that it forks off.

Each worker gives up its rights and limits itself before it sees its first byte. Started by processes.py.
"""

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import protocol
from .copies import load_pillow, send_copies
from .frames import load_av, send_frames
from .limits import MEMORY, SECONDS
from .sandbox import PR_SET_PDEATHSIG, give_up_rights, warn_without_filter
from .source import Window

JOBS: Mapping[str, Callable[..., None]] = {"frames": send_frames, "copies": send_copies}
"""What can be asked for, by the job's name."""

_SIGN_SECONDS = 1.0


def main(descriptor: int) -> None:
    """The template: forks a worker for each job that comes in, and answers with its process id.

    Args:
        descriptor: Of the socket that jobs come from; it ends when the other end of that is closed.
    """
    control = socket.socket(fileno=descriptor)
    template = os.getpid()
    load_av()
    load_pillow()
    warn_without_filter()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the affair of those who ask
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, protocol.LONGEST_JOB, 2)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _work(json.loads(message), socket.socket(fileno=descriptors[0]), descriptors[1], template)
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(protocol.PID.pack(pid))


def _work(job: dict[str, Any], connection: socket.socket, descriptor: int, template: int) -> None:
    in_use = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * mmap.PAGESIZE
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)
    give_up_rights()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != template:
        return
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, in_use + MEMORY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # it has all that it needs
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # nobody wants the rest
    last = 0.0

    def progress() -> None:
        nonlocal last
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # SIGPROF ends the process
        if time.monotonic() - last > _SIGN_SECONDS:
            protocol.send(connection, {"alive": True})
            last = time.monotonic()

    progress()
    file = Window(descriptor, job.pop("offset"), job.pop("size"))
    try:
        JOBS[job.pop("job")](file, lambda about, data=b"": protocol.send(connection, about, data), progress, **job)
    except MemoryError:
        return  # as where the system ends it
    protocol.send(connection, {"end": True})
