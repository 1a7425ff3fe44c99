"""One tritonserver process with the stubs it starts: launch it, watch it, end all of it."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import grpc  # type: ignore[import-untyped]
import psutil

from server import access
from server.defaults import DRAIN_SECONDS, fixed_options
from server.supervision.stop import Stop

SHARED_MEMORY = Path("/dev/shm")
"""Where the server and its stubs exchange tensors."""

LIFELINE = Path(__file__).with_name("lifeline.py")
STUB_PROGRAM = "triton_python_backend_stub"
_STUB_LOST = re.compile(r"Stub process .*is not healthy")
LOG_LEVELS = {  # our name → what tritonserver calls it; each shows those before it too
    "error": ("--log-info=false", "--log-warning=false"),
    "warning": ("--log-info=false",),
    "info": (),
    "verbose": ("--log-verbose=1",),
}
PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h
HARMLESS_ERRORS = ("CudaDriverHelper has not been initialized", "CUDA driver version is insufficient")  # without a GPU
KILL_AFTER = 3.0  # seconds that tritonserver gets beyond the time it grants its own requests
_LOG_HEADER = re.compile(r"^[IWEFV]\d{4} \d\d:\d\d:\d\d")


class Installation(Protocol):
    """A tritonserver on this machine.

    Attributes:
        tritonserver: The program.
        backends: Its backend directory.
        caches: Its cache directory.
        environment: The environment variables that it and its stubs need.
    """

    @property
    def tritonserver(self) -> Path: ...
    @property
    def backends(self) -> Path: ...
    @property
    def caches(self) -> Path: ...
    @property
    def environment(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class Options:
    """What to serve, and where.

    Attributes:
        repository: The model repository.
        host: Address to listen on.
        ports: Port by name: `grpc`, `http`, `metrics`.
        config_name: Of the models' named configurations; empty for their default ones.
        log_level: A key of LOG_LEVELS.
        drain_seconds: How long requests in flight may take to finish when the server is asked to stop.
        extra: Further options for tritonserver, as they are.
        http_inference: Whether inference over HTTP is open to everybody.
        key: Opens what is closed by default; another one for each start.
        credentials: With what the launcher's own requests pass a gRPC port that wants TLS; None: they go over HTTP.
    """

    repository: Path
    host: str
    ports: dict[str, int]
    config_name: str = ""
    log_level: str = "info"
    drain_seconds: int = DRAIN_SECONDS
    extra: tuple[str, ...] = ()
    http_inference: bool = False
    key: str = field(default_factory=access.new_key, repr=False)
    credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)

    @property
    def words(self) -> list[str]:
        """The further options, and those that close what is not needed."""
        closing = access.closing_options(self.extra, self.key, http_inference=self.http_inference)
        return [*closing, *self.extra]

    @property
    def probes_http(self) -> bool:
        """Whether the launcher's own requests go over HTTP: where gRPC wants certificates it lacks, or is not there."""
        return (access.uses_tls(self.extra) and self.credentials is None) or not access.is_on(
            "--allow-grpc", self.extra, default=True
        )

    @property
    def hosts(self) -> dict[str, str]:
        """The address for each port. HTTP, which has no TLS, is for this machine alone where gRPC is secured."""
        secured = access.is_secured(self.extra)
        return {name: "127.0.0.1" if name == "http" and secured else self.host for name in self.ports}


class TritonProcess:
    """A running tritonserver.

    It leads a process group of its own, so that Ctrl-C on the terminal reaches the supervisor alone, and so that
    stubs can be found and killed after their parent has died.
    """

    def __init__(
        self,
        installation: Installation,
        options: Options,
        show: Callable[[str], None],
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            installation: Where tritonserver is.
            options: What to serve.
            show: Called with each line of the server's log, from another thread.
            variables: Further environment variables.
        """
        # A prefix that no other server has: after a kill, what bears it is ours to remove.
        self._memory_prefix = f"deepfake_detector_{os.getpid()}_{uuid.uuid4().hex[:8]}_"
        self._drain_seconds = options.drain_seconds
        self._recent: deque[str] = deque(maxlen=500)
        self._show = show
        command = [
            sys.executable,
            str(LIFELINE),
            str(os.getpid()),
            *arguments(installation, options, self._memory_prefix),
        ]
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**installation.environment, **(variables or {})},
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._popen.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of tritonserver, and of its group."""
        return self._popen.pid

    def exit_status(self) -> str | None:
        """How tritonserver ended, in words; None while it runs."""
        code = self._popen.poll()
        if code is None:
            return None
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def has_crashed(self) -> bool:
        """Whether a signal ended tritonserver."""
        return (self._popen.poll() or 0) < 0

    def stubs(self) -> list[psutil.Process]:
        """The Python backend's stubs, one per instance of a Python or ONNX model."""
        try:
            children = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child for child in children if _is_stub(child)]

    def stop(self, force: Stop) -> bool:
        """Let requests in flight finish, end the server, and leave nothing behind.

        Args:
            force: When set, the server is killed at once.

        Returns:
            Whether it ended by itself; otherwise it was killed.
        """
        self._popen.terminate()
        deadline = time.monotonic() + self._drain_seconds + KILL_AFTER
        while self._popen.poll() is None and time.monotonic() < deadline and not force.is_set():
            time.sleep(0.05)
        in_time = self._popen.poll() is not None
        self.kill()
        return in_time

    def kill(self) -> None:
        """End the server and its stubs now, and remove their shared memory."""
        with contextlib.suppress(ProcessLookupError):  # all of the group has ended already
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        deadline = time.monotonic() + 5
        while _reap(self.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._reader.join(timeout=5)
        for region in SHARED_MEMORY.glob(f"{self._memory_prefix}*"):
            region.unlink(missing_ok=True)

    def error_lines(self) -> list[str]:
        """The server's recent error messages, whole: for saying why it did not start."""
        return error_lines(list(self._recent))

    def _read_log(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._recent.append(line.rstrip("\n"))
                self._show(line.rstrip("\n"))


def arguments(installation: Installation, options: Options, memory_prefix: str) -> list[str]:
    """tritonserver's command line."""
    command = [
        str(installation.tritonserver),
        f"--model-repository={options.repository}",
        f"--backend-directory={installation.backends}",
        f"--cache-directory={installation.caches}",
        # Heeds what configurations say about resources that instances share; without such it limits nothing.
        "--rate-limit=execution_count",
        f"--backend-config=python,shm-region-prefix-name={memory_prefix}",
        *fixed_options(options.drain_seconds),
    ]
    for name, port in options.ports.items():
        command += [f"--{name}-address={options.hosts[name]}", f"--{name}-port={port}"]
    if options.config_name:
        command.append(f"--model-config-name={options.config_name}")
    return [*command, *LOG_LEVELS[options.log_level], *options.words]


def error_lines(lines: list[str]) -> list[str]:
    """The error messages of a tritonserver log, with the lines that continue them, each message once."""
    kept: list[str] = []
    seen: set[str] = set()
    keeping = False
    for line in lines:
        if _LOG_HEADER.match(line):
            message = line.split("] ", 1)[-1]
            harmless = any(text in message for text in HARMLESS_ERRORS)
            keeping = line[0] in "EF" and message not in seen and not harmless
            seen.add(message)
        elif line.startswith(("error:", "|", "+")):
            keeping = line.startswith("error:")
        if keeping and line.strip():
            kept.append(line)
    return kept


def has_lost_stub(lines: Iterable[str]) -> bool:
    """Whether a stub died, or a busy machine kept one from giving a sign of life for a second, as Triton tells it."""
    return any(_STUB_LOST.search(line) for line in lines)


def _is_stub(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return bool(command) and Path(command[0]).name == STUB_PROGRAM


def has_ended(process: psutil.Process) -> bool:
    """Whether a process is gone, or dead and not yet reaped by its parent."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def adopt_orphans() -> None:
    """Make this process the parent of stubs whose server was killed, so that they can be reaped.

    Without it they stay zombies for ever in a container whose first process does not reap them.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _reap(group: int) -> bool:
    """Collect those of the group's dead that are our children; returns whether there is more to come."""
    try:
        while os.waitpid(-group, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:  # none of our children is left in it; a server that still runs may have some
        return any(_lives_in(process, group) for process in psutil.process_iter())
    return True


def _lives_in(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.Error):
        return False
