"""What a decoding process gives up before it looks at untrusted bytes."""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterator

_NOBODY = 65534
_ACCOUNT_BYTES = 1 << 16  # What the decoders may write about an image.

PR_SET_PDEATHSIG = 1  # from linux/prctl.h, as the next
_PR_SET_NO_NEW_PRIVS = 38
_SET_FILTER = 1  # SECCOMP_SET_MODE_FILTER; this, the flag and the answers are from linux/seccomp.h
_NO_MITIGATION = 4  # SECCOMP_FILTER_FLAG_SPEC_ALLOW: before Linux 5.16 a filter made processors cautious, and slow
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_LOAD, _IF_EQUAL, _ANSWER = 0x20, 0x15, 0x06  # of 32 bits: BPF_LD, BPF_JMP | BPF_JEQ, BPF_RET; from linux/bpf_common.h
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # where struct seccomp_data has them

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""By `platform.machine`: AUDIT_ARCH of linux/audit.h, and the place of its numbers below."""

_SECCOMP = (317, 277)
"""The call that takes a filter."""

_CALLS = {  # by how often a decoder needs them
    "read": (0, 63),
    "write": (1, 64),
    "writev": (20, 66),
    "pread64": (17, 67),
    "lseek": (8, 62),
    "ftruncate": (77, 46),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "brk": (12, 214),
    "close": (3, 57),
    "fstat": (5, 80),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "setitimer": (38, 103),
    "futex": (202, 98),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getuid": (102, 174),  # these four never fail, as their callers believe
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""The system calls that a decoding process may make, with their numbers. All others are refused: those that open files
or sockets, start processes or threads, send signals, or look into other processes."""

_CALLS_WITH = {
    "fcntl": ((72, 25), 1, (1, 3, 1030)),  # F_GETFD, F_GETFL, F_DUPFD_CLOEXEC; F_SETOWN would send signals
    "prctl": ((157, 167), 0, (PR_SET_PDEATHSIG,)),
    "prlimit64": ((302, 261), 0, (0,)),  # of this process alone
}
"""Those that it may make with some values of one argument: their numbers, the argument's place, and these values."""


def give_up_rights() -> None:
    """Keeps this process from opening files or sockets, reaching others, or writing more than a few lines.

    Where it runs as root and may, it becomes nobody. Where `can_filter` is False, limits are all that holds it.
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
    if can_filter():
        _filter_calls()


def can_filter() -> bool:
    """Whether this machine's kernel filters system calls (seccomp), and their numbers are known here."""
    return platform.machine() in _ARCHITECTURES and _flags() is not None


def warn_without_filter() -> None:
    """Says on standard error, for the log, that nothing but limits will hold what this process forks off."""
    if not can_filter():
        print(
            "deepfake-detector: this kernel does not filter system calls (seccomp), so limits and another user alone "
            "hold the processes that decode; run it on Linux with seccomp, on x86_64 or aarch64",
            file=sys.stderr,
        )


def _filter_calls() -> None:
    """Refuses this process all system calls but those above, for good.

    Raises:
        OSError: The kernel does not take the filter.
    """
    steps = b"".join(struct.pack("=HBBI", *step) for step in _filter(*_ARCHITECTURES[platform.machine()]))
    program = ctypes.create_string_buffer(steps)
    # struct sock_fprog: the number of steps, and where they are.
    header = ctypes.create_string_buffer(struct.pack("@HP", len(steps) // 8, ctypes.addressof(program)))
    if failure := _seccomp(_flags() or 0, ctypes.addressof(header)):
        raise OSError(failure, "the filter of system calls was not taken")


def _flags() -> int | None:
    """With what a filter is given; None where the kernel takes none. One that does looks for it, which is nowhere."""
    return next((flags for flags in (_NO_MITIGATION, 0) if _seccomp(flags, 0) == errno.EFAULT), None)


def _filter(architecture: int, place: int) -> Iterator[tuple[int, int, int, int]]:
    """The filter's steps: what to do, the steps to pass over where a comparison holds and where not, and the value."""
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _IF_EQUAL, 1, 0, architecture
    yield _ANSWER, 0, 0, _KILL  # numbers of another architecture mean other calls
    yield _LOAD, 0, 0, _NUMBER
    for numbers in _CALLS.values():
        yield _IF_EQUAL, 0, 1, numbers[place]
        yield _ANSWER, 0, 0, _ALLOW
    for numbers, argument, values in _CALLS_WITH.values():
        yield _IF_EQUAL, 0, 2 + 2 * len(values), numbers[place]
        yield _LOAD, 0, 0, _ARGUMENTS + 8 * argument  # its lower half: these arguments have 32 bits
        for value in values:
            yield _IF_EQUAL, 0, 1, value
            yield _ANSWER, 0, 0, _ALLOW
        yield _ANSWER, 0, 0, _REFUSE
    yield _ANSWER, 0, 0, _REFUSE


def _seccomp(flags: int, address: int) -> int:
    """Gives the kernel a filter; the error number, 0 where there is none."""
    _, place = _ARCHITECTURES[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = map(ctypes.c_ulong, (_SECCOMP[place], _SET_FILTER, flags, address))
    return ctypes.get_errno() if libc.syscall(*arguments) else 0
