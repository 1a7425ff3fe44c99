"""Expendable processes from the side of those who ask: each job has one of its own, forked off from a template.

The template has loaded the decoders and looks at no file; to fork a worker takes it a few milliseconds. A file that
ends its worker, or keeps it busy for ever, costs its own row and nothing else.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from . import protocol
from .limits import SECONDS
from .source import Source, opened

SILENCE_FACTOR = 20
"""A worker that has said nothing for so many times its processor time hangs; under load it may wait for its turn."""

_CONTROL = (socket.AF_UNIX, socket.SOCK_SEQPACKET)

_PROGRAM = """
import sys, types
package = types.ModuleType(sys.argv[1])
package.__path__ = [sys.argv[2]]
sys.modules[sys.argv[1]] = package
__import__(f"{sys.argv[1]}.decoding.worker").decoding.worker.main(int(sys.argv[3]))
"""
"""The template without the rest of the package: gRPC takes a second to load, and must not be forked."""


class WorkerLostError(Exception):
    """A worker ended, or hung, before its job was done."""


def ask(job: Mapping[str, Any], source: Source) -> Generator[protocol.Answer, None, None]:
    """What a worker answers to a job, one after the other, until it has ended; it waits where nobody takes an answer.

    Args:
        job: See `worker.JOBS`.
        source: What it is about.

    Raises:
        OSError: The source cannot be opened, or this machine lacks memory or processes.
        WorkerLostError: The source ended the worker, or took more memory or time than any may.
    """
    with opened(source) as (descriptor, offset, size):
        connection, pid = _TEMPLATE.fork({**job, "offset": offset, "size": size}, descriptor)
    with connection:
        connection.settimeout(SILENCE_FACTOR * SECONDS)
        while True:
            try:
                answer = protocol.receive(connection)
            except TimeoutError as error:  # it still has the connection, so that the number is still its own
                os.kill(pid, signal.SIGKILL)
                raise WorkerLostError(f"decoding hung for {SILENCE_FACTOR * SECONDS:.0f} s") from error
            except ValueError as error:
                raise WorkerLostError(f"the decoder gave nonsense: {error}") from error
            if answer is None:
                raise WorkerLostError("the file ended the decoder, or took more memory or time than any may")
            about, _ = answer
            if "end" in about:
                return
            if "alive" not in about:
                yield answer


class _Template:
    """The process that workers are forked off from; started when it is first needed, and again where it was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        self._running: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def fork(self, job: Mapping[str, Any], descriptor: int) -> tuple[socket.socket, int]:
        """A worker on its job: the connection to it, and its process id."""
        with self._lock:
            try:
                return self._forked(job, descriptor)
            except OSError:  # the template was killed, by the kernel where memory is short, for example
                self.close()
                return self._forked(job, descriptor)

    def close(self) -> None:
        """Ends the template; another call of `fork` would start a new one."""
        if self._running is not None and self._owner == os.getpid():
            process, control = self._running
            control.close()
            process.kill()
            process.wait()
        self._running = None

    def _forked(self, job: Mapping[str, Any], descriptor: int) -> tuple[socket.socket, int]:
        if self._running is None or self._owner != os.getpid():  # a forked process has a template of its own
            self._running, self._owner = _started(), os.getpid()
        _, control = self._running
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(control, [json.dumps(job).encode()], [theirs.fileno(), descriptor])
                answer = control.recv(protocol.PID.size)
                if not answer:
                    raise ConnectionResetError("the process that starts decoders has ended")
            except OSError:
                ours.close()
                raise
        (pid,) = protocol.PID.unpack(answer)
        return ours, pid


_TEMPLATE = _Template()
atexit.register(_TEMPLATE.close)

_PACKAGE = ((__package__ or "").partition(".")[0], str(Path(__file__).parents[1]))
"""Its name and its folder."""


def _started() -> tuple[subprocess.Popen[bytes], socket.socket]:
    if not sys.platform.startswith("linux"):
        raise OSError("files of others are decoded in processes of their own, which need Linux; run the client there")
    ours, theirs = socket.socketpair(*_CONTROL)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, *_PACKAGE, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # No threads: they would not survive a fork.
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),  # noqa: PTH109
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            },
        )
    return process, ours
