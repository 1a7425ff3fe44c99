"""Decoding in expendable processes: untrusted bytes meet OpenCV's decoders nowhere else.

    decoders = Decoders()
    pixels = decoders.decode(read_header(data))

File and pixels travel through anonymous shared memory: a piece that each worker keeps, or one of its own for a large
image. It is made here and sealed, so that no worker can shrink it under us, and gone with the last process that has it.
"""

import contextlib
import fcntl
import mmap
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ensemble import status
from ensemble.images.errors import ImageError
from ensemble.images.framing import RgbImage
from ensemble.images.headers import Header
from ensemble.images.protocol import ANSWER, DESK_BYTES, JOB, LONGEST_MESSAGE, PID

MEMORY = 256 << 20
"""Bytes that decoding any image may take, …"""

MEMORY_PER_PIXEL = 32
"""… and bytes for each of its pixels: a progressive JPEG takes half of it."""

SECONDS = 5.0
"""Processor time that decoding any image may take, …"""

SECONDS_PER_PIXEL = 5e-7
"""… and for each of its pixels: about ten times what the slowest kind takes."""

TIMEOUT_FACTOR = 20
"""A worker that has not answered after so many times its processor time hangs; under load it may wait for its turn."""

IMAGES_PER_WORKER = 1000
"""Then another takes its place: what one image may have left behind in a worker does not stay."""

_ALIGNMENT = 64
_JOB_SOCKET = (socket.AF_UNIX, socket.SOCK_SEQPACKET)


@dataclass
class _Worker:
    jobs: socket.socket
    desk: mmap.mmap
    pid: int
    images: int = 0


class Decoders:
    """A small pool of processes that decode images; it refills itself.

    Threads may share it; each call holds one process. Nothing is started before the first image.

    Args:
        count: Processes; as many as there are processors unless given.
    """

    def __init__(self, count: int | None = None) -> None:
        self._lock = threading.Lock()
        self._template: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        # A place without a process is None. The process used last goes first: its memory is in the caches.
        self._places: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(count or os.cpu_count() or 1):
            self._places.put(None)

    def decode(self, header: Header) -> RgbImage:
        """The pixels of a file's first image.

        Returns:
            uint8 [height, width, 3], RGB, read-only; height and width as the header has them or, where the file asks
            for a rotation, the other way round.

        Raises:
            ImageError: The file is damaged; or it ended the process that decoded it, or took more memory or time than
                an image of its size may. Nothing else is lost then.
            OSError: No process could be started: this machine lacks memory or processes.
        """
        worker = self._places.get()
        try:
            if worker is not None:
                begun = time.monotonic()
                try:
                    return _decode(worker, header)
                except _WorkerLostError as lost:
                    worker = None
                    if not lost.hung and time.monotonic() - begun >= _seconds(header):  # It has had its time.
                        raise
                    # Perhaps not by this image: another process may tell.
            worker = self._fork()
            return _decode(worker, header)
        except _WorkerLostError as lost:
            worker = None
            raise ImageError(status.UNREADABLE_IMAGE, f"{lost}; re-encode the image") from lost
        finally:
            if worker is not None and worker.images >= IMAGES_PER_WORKER:
                worker.jobs.close()
                worker = None
            self._places.put(worker)

    def close(self) -> None:
        """Ends the processes; another call of `decode` would start new ones."""
        with self._lock:
            idle = [self._places.get() for _ in range(self._places.qsize())]
            for worker in idle:
                if worker is not None:
                    worker.jobs.close()
                self._places.put(None)
            self._end_template()

    def _fork(self) -> _Worker:
        with self._lock:
            try:
                return self._forked()
            except OSError:  # The template was killed: by the kernel where memory is short, for example.
                self._end_template()
                return self._forked()

    def _forked(self) -> _Worker:
        if self._template is None:
            self._template = _start_template()
        _, control = self._template
        ours, theirs = socket.socketpair(*_JOB_SOCKET)
        with theirs, _shared_memory(DESK_BYTES) as desk:
            try:
                socket.send_fds(control, [b"w"], [theirs.fileno(), desk])
                mapped = mmap.mmap(desk, DESK_BYTES)
                answer = control.recv(PID.size)
                if not answer:
                    raise ConnectionResetError("the process that starts decoders has ended")
            except OSError:
                ours.close()
                raise
        return _Worker(ours, mapped, *PID.unpack(answer))

    def _end_template(self) -> None:
        if self._template is not None:
            process, control = self._template
            control.close()
            process.kill()
            process.wait()
            self._template = None


class _WorkerLostError(Exception):
    """A worker did not answer.

    Attributes:
        hung: It is still there, and did nothing for long; else it has ended.
    """

    def __init__(self, message: str, *, hung: bool = False) -> None:
        super().__init__(message)
        self.hung = hung


def _start_template() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(*_JOB_SOCKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "ensemble.images.worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # No threads: they would not survive a fork.
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            },
        )
    return process, ours


def _decode(worker: _Worker, header: Header) -> RgbImage:
    pixels = header.width * header.height
    offset = -(-len(header.still) // _ALIGNMENT) * _ALIGNMENT
    capacity = 3 * pixels
    memory = MEMORY + MEMORY_PER_PIXEL * pixels + 2 * offset
    seconds = _seconds(header)
    canvas = (0, 0, 0, 0) if header.canvas is None else (header.width, header.height, *header.canvas)
    job = JOB.pack(len(header.still), offset, capacity, memory, seconds, *canvas, header.canvas is not None)
    worker.images += 1
    if offset + capacity <= DESK_BYTES:
        worker.desk[: len(header.still)] = header.still
        shape = _ask(worker, job, [], TIMEOUT_FACTOR * seconds)
        copied = _pixels(worker.desk, offset, shape, header).copy()
        copied.setflags(write=False)
        return copied
    with _shared_memory(offset + capacity) as shared:
        os.pwrite(shared, header.still, 0)
        shape = _ask(worker, job, [shared], TIMEOUT_FACTOR * seconds)
        mapped = mmap.mmap(shared, offset + capacity, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
    return _pixels(mapped, offset, shape, header)


def _seconds(header: Header) -> float:
    """Processor time that decoding an image may take."""
    return SECONDS + SECONDS_PER_PIXEL * header.width * header.height


def _pixels(shared: mmap.mmap, offset: int, shape: tuple[int, int], header: Header) -> RgbImage:
    if shape not in ((header.height, header.width), (header.width, header.height)):
        raise ImageError(status.UNREADABLE_IMAGE, f"the decoder finds {shape[1]}×{shape[0]} pixels")
    return np.frombuffer(shared, np.uint8, 3 * shape[0] * shape[1], offset).reshape(*shape, 3)


@contextlib.contextmanager
def _shared_memory(size: int) -> Iterator[int]:
    """Anonymous shared memory whose size stays as it is."""
    shared = os.memfd_create("image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(shared, size)
        fcntl.fcntl(shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        yield shared
    finally:
        os.close(shared)


def _ask(worker: _Worker, job: bytes, shared: list[int], timeout: float) -> tuple[int, int]:
    """Height and width of the image that the worker decoded."""
    worker.jobs.settimeout(timeout)
    try:
        if shared:
            socket.send_fds(worker.jobs, [job], shared)
        else:
            worker.jobs.send(job)
        answer = worker.jobs.recv(ANSWER.size + LONGEST_MESSAGE)
    except TimeoutError as error:
        os.kill(worker.pid, signal.SIGKILL)
        worker.jobs.close()
        raise _WorkerLostError(f"the decoder hung on the image for {timeout:.0f} s", hung=True) from error
    except OSError as error:
        worker.jobs.close()
        raise _WorkerLostError(f"the decoder is gone: {error}") from error
    if len(answer) < ANSWER.size:
        worker.jobs.close()
        raise _WorkerLostError("the image ended the decoder, or took more memory or time than one of its size may")
    height, width = ANSWER.unpack_from(answer)
    if not height:
        code, _, message = answer[ANSWER.size :].decode(errors="replace").partition("\0")
        raise ImageError(code, message)
    return height, width
