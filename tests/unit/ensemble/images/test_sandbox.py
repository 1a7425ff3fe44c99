"""What a process that decodes may still do, by its own attempts."""

import errno
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.images import sandbox
from ensemble.images.sandbox import can_filter, warn_without_filter

ATTEMPTS = """
import ctypes, errno, fcntl, json, os, resource, signal, socket, sys, time
from ensemble.images.sandbox import give_up_rights

folder = sys.argv[1]
report = os.dup(1)
if os.getuid() == 0:  # what is attempted on a process of the same user is what counts
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
victim = os.fork()
if victim == 0:
    os.close(report); os.close(1)
    time.sleep(600)
libc = ctypes.CDLL(None, use_errno=True)
here, there, handle = socket.socket(), socket.socket(), os.pidfd_open(victim)
old, new = os.path.join(folder, "old"), os.path.join(folder, "new")

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

attempts = {
    "read a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "look at a file": lambda: os.stat("/etc/passwd"),
    "write a file": lambda: os.open(new, os.O_WRONLY | os.O_CREAT),
    "list a folder": lambda: os.listdir(folder),
    "unlink": lambda: os.unlink(old),
    "rename": lambda: os.rename(old, new),
    "link": lambda: os.link(old, new),
    "symlink": lambda: os.symlink(old, new),
    "mkdir": lambda: os.mkdir(new),
    "chmod": lambda: os.chmod(old, 0o777),
    "make a socket": socket.socket,
    "make a pair of sockets": socket.socketpair,
    "connect": lambda: here.connect(("127.0.0.1", 1)),
    "bind": lambda: there.bind(("127.0.0.1", 0)),
    "listen": lambda: there.listen(),
    "fork": os.fork,
    "execute": lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),
    "kill": lambda: os.kill(victim, signal.SIGKILL),
    "kill by a descriptor": lambda: signal.pidfd_send_signal(handle, signal.SIGKILL),
    "open a process": lambda: os.pidfd_open(victim),
    "kill by what a descriptor sends": lambda: fcntl.fcntl(here, fcntl.F_SETOWN, victim),
    "ptrace": lambda: call("ptrace", 16, victim, 0, 0),
    "read a memory": lambda: call("process_vm_readv", victim, None, 0, None, 0, 0),
    "write a memory": lambda: call("process_vm_writev", victim, None, 0, None, 0, 0),
    "limit another": lambda: resource.prlimit(victim, resource.RLIMIT_CPU, (0, 0)),
    "slow another": lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
    "mount": lambda: call("mount", b"none", folder.encode(), b"tmpfs", 0, None),
    "a filter of its own": lambda: call("prctl", 22, 2, 0, 0, 0),
    "anonymous files": lambda: os.memfd_create("x"),
}
give_up_rights()
found = {}
for name, attempt in attempts.items():
    try:
        attempt()
        found[name] = "allowed"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
os.write(report, json.dumps([victim, found]).encode())
os._exit(0)
"""

needs_filter = pytest.mark.skipif(not can_filter(), reason="this kernel filters no system calls")


@needs_filter
def test_all_that_no_decoder_needs_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "old").write_text("kept")
    (tmp_path / "old").chmod(0o666)
    command = [sys.executable, "-c", ATTEMPTS, str(tmp_path)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    victim, found = json.loads(done.stdout)
    os.kill(victim, 9)  # it was not ended
    assert set(found.values()) == {"EPERM"}, found
    assert [file.name for file in tmp_path.iterdir()] == ["old"]


def test_a_machine_without_a_filter_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not can_filter()
    warn_without_filter()
    assert "does not filter system calls" in capfd.readouterr().err


ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
NUMBERS = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
"""Where Linux's headers have the calls' numbers, in /usr/include."""
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
ELSEWHERE = 0x40000003  # 32-bit x86, which a 64-bit process may call as well


def answer(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter of a machine says to a call: its steps done one by one, as the kernel does them."""
    own, place = MACHINES[machine]
    steps = list(sandbox._filter(own, place))
    data = {0: number, 4: architecture or own, **{16 + 8 * n: value for n, value in enumerate(arguments)}}
    position = loaded = 0
    while True:
        code, holds, else_, value = steps[position]
        position += 1
        if code == 0x20:
            loaded = data.get(value, 0)
        elif code == 0x15:
            position += holds if loaded == value else else_
        else:
            assert code == 0x06
            return value


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_lets_through_what_is_listed_and_nothing_else(machine: str) -> None:
    place = MACHINES[machine][1]
    listed = {numbers[place] for numbers in sandbox._CALLS.values()}
    some = {numbers[place]: (argument, values) for numbers, argument, values in sandbox._CALLS_WITH.values()}
    for number in range(600):
        if number in some:
            argument, values = some[number]
            for value in range(1100):
                arguments = [99, 99, 99]
                arguments[argument] = value
                assert answer(machine, number, *arguments) == (ALLOW if value in values else REFUSE), (number, value)
        else:
            assert answer(machine, number) == (ALLOW if number in listed else REFUSE), number
        assert answer(machine, number, architecture=ELSEWHERE) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_s_numbers_are_those_of_linux(machine: str) -> None:
    place = MACHINES[machine][1]
    given = {name: numbers[place] for name, numbers in sandbox._CALLS.items()}
    given |= {name: numbers[place] for name, (numbers, _, _) in sandbox._CALLS_WITH.items()}
    given["seccomp"] = sandbox._SECCOMP[place]
    assert len(set(given.values())) == len(given)
    header = Path("/usr/include") / NUMBERS[machine]
    if not header.exists():
        pytest.skip("needs Linux's headers (Debian: linux-libc-dev)")
    known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    assert given == {name: int(known[name]) for name in given}


@pytest.mark.parametrize(
    ("failures", "filters", "flags"),
    [
        ({}, True, 4),
        ({4: errno.EINVAL}, True, 0),  # before Linux 4.17 there was no such flag
        ({4: errno.ENOSYS, 0: errno.ENOSYS}, False, None),
        ({4: errno.EINVAL, 0: errno.EINVAL}, False, None),
    ],
)
def test_a_kernel_is_asked_what_it_filters(
    failures: dict[int, int], filters: bool, flags: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sandbox, "_seccomp", lambda flags, address: failures.get(flags, errno.EFAULT))
    assert can_filter() == filters
    assert sandbox._flags() == flags


def test_a_filter_that_is_not_taken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker would look at untrusted bytes with all its rights."""
    taken = [errno.EFAULT, errno.EACCES]
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sandbox, "_seccomp", lambda flags, address: taken.pop(0))
    with pytest.raises(OSError, match="the filter of system calls was not taken"):
        sandbox._filter_calls()
