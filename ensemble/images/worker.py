"""The program in which images are decoded: a template process, and workers that it forks off.

The template has loaded OpenCV and looks at no image; to fork a worker takes it a few milliseconds, so that a file that
ends one costs little. Each worker limits itself before it sees its first byte. Started by ensemble/images/workers.py as
`python -m ensemble.images.worker FD`; it ends when the other end of that socket is closed.
"""

import ctypes
import mmap
import os
import resource
import signal
import socket
import sys

import cv2
import numpy as np

from ensemble import status
from ensemble.images.decoding import decode_still
from ensemble.images.errors import ImageError
from ensemble.images.protocol import ANSWER, DESK_BYTES, JOB, LONGEST_MESSAGE, PID
from ensemble.images.sandbox import PR_SET_PDEATHSIG, give_up_rights, warn_without_filter

_DEBUG = 5  # from opencv2/core/utils/logger.defines.hpp


def main() -> None:
    """The template: forks a worker for each socket that comes in, and answers with its process id."""
    control = socket.socket(fileno=int(sys.argv[1]))
    template = os.getpid()
    cv2.setNumThreads(1)
    warn_without_filter()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's affair.
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            desk = mmap.mmap(descriptors[1], DESK_BYTES)
            os.close(descriptors[1])
            _work(socket.socket(fileno=descriptors[0]), desk, template)
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(PID.pack(pid))


def _work(jobs: socket.socket, desk: mmap.mmap, template: int) -> None:
    """A worker: decodes one image after the other until its socket is closed.

    Args:
        jobs: Where they come from.
        desk: Shared memory for those that bring none of their own.
        template: Process id of the process that it was forked off from.
    """
    account = os.memfd_create("account")
    os.dup2(account, 2)
    cv2.setLogLevel(_DEBUG)  # So libtiff's complaints are heard.
    statistics = os.open("/proc/self/statm", os.O_RDONLY)
    give_up_rights()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != template:
        return

    def heard() -> str:
        length = os.lseek(account, 0, os.SEEK_END)
        if not length:
            return ""
        text = os.pread(account, LONGEST_MESSAGE, 0)
        os.ftruncate(account, 0)
        os.lseek(account, 0, os.SEEK_SET)
        return text.decode(errors="replace")

    while True:
        message, descriptors, _, _ = socket.recv_fds(jobs, JOB.size, 1)
        if not message:
            return
        length, offset, capacity, memory, seconds, *canvas, has_canvas = JOB.unpack(message)
        in_use = int(os.pread(statistics, 100, 0).split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (in_use + memory, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process.
        shared = desk
        if descriptors:
            shared = mmap.mmap(descriptors[0], offset + capacity)
            os.close(descriptors[0])
        heard()  # What an image that failed left behind is not said of this one.
        try:
            image = decode_still(shared[:length], (*canvas,) if has_canvas else None, heard)
            if image.nbytes != capacity:
                raise ImageError(status.UNREADABLE_IMAGE, "the decoder finds another size than the header declares")
            rgb = np.frombuffer(shared, np.uint8, capacity, offset).reshape(image.shape)
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=rgb)
            answer = ANSWER.pack(*image.shape[:2])
            del image, rgb
        except ImageError as error:
            answer = ANSWER.pack(0, 0) + f"{error.status}\0{error}".encode()[:LONGEST_MESSAGE]
        if shared is not desk:
            shared.close()
        signal.setitimer(signal.ITIMER_PROF, 0)
        jobs.send(answer)


if __name__ == "__main__":
    main()
