"""What a decoding process gives up before it looks at untrusted bytes."""

import contextlib
import ctypes
import os
import resource

_PR_SET_NO_NEW_PRIVS = 38  # from linux/prctl.h
_NOBODY = 65534
_ACCOUNT_BYTES = 1 << 16  # What the decoders may write about an image.


def give_up_rights() -> None:
    """Keeps this process from opening files or sockets, starting others, or writing more than a few lines.

    Where it runs as root and may, it becomes nobody.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    if os.getuid() == 0:
        # In a container whose root lacks the capability, or whose users do not include nobody, it stays that root.
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    last = os.dup(null)
    os.close(last)
    os.close(null)
    for limit, value in (
        # Two are left to take, for the shared memory of the image in hand and its mapping.
        (resource.RLIMIT_NOFILE, max(null, last) + 1),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, _ACCOUNT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
