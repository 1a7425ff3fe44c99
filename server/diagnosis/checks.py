"""What a start needs of any machine, each check with its finding and its fix.

The launcher refuses on the first finding that is wrong; `doctor` shows all of them. What the stand-in for NVIDIA's
container needs besides is in `server.standin.checks`.
"""

import shutil
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

from server.errors import RepositoryError
from server.findings import Finding, Level
from server.repository import (
    EXPORT_HINT,
    describe_face_detector,
    describe_framing,
    describe_weights,
    missing_parts,
    read_models,
)
from server.supervision.process import SHARED_MEMORY

SHARED_MEMORY_NEEDED = 256 * 2**20  # bytes: seven stubs and full batches of pixels in flight, with room to spare


def check_shared_memory() -> Finding:
    """Room in /dev/shm, through which the server and its stubs exchange tensors."""
    fix = "give the container more, such as `docker run --shm-size=1g`, or remove stale files from /dev/shm"
    if not SHARED_MEMORY.is_dir():
        return Finding("shared memory", Level.WRONG, f"{SHARED_MEMORY} does not exist", fix)
    usage = shutil.disk_usage(SHARED_MEMORY)
    detail = f"{SHARED_MEMORY}: {usage.free / 2**20:,.0f} MiB free of {usage.total / 2**20:,.0f} MiB"
    if usage.free < SHARED_MEMORY_NEEDED // 8:
        return Finding("shared memory", Level.WRONG, f"{detail}; {SHARED_MEMORY_NEEDED // 2**20} MiB are needed", fix)
    if usage.free < SHARED_MEMORY_NEEDED:
        return Finding("shared memory", Level.WARNING, f"{detail}; {SHARED_MEMORY_NEEDED // 2**20} MiB are better", fix)
    return Finding("shared memory", Level.OK, detail)


def check_ports(host: str, ports: dict[str, int]) -> list[Finding]:
    """The ports differ from each other and are free.

    Args:
        host: The address to listen on.
        ports: Port by name, such as `grpc`.
    """
    findings = []
    names_of: dict[int, list[str]] = {}
    for name, port in ports.items():
        names_of.setdefault(port, []).append(name)
    for port, names in names_of.items():
        subject = f"port {port}"
        fix = f"choose another with --{names[-1]}-port"
        if len(names) > 1:
            findings.append(Finding(subject, Level.WRONG, f"{' and '.join(names)} have the same port {port}", fix))
        elif (reason := _port_in_use(host, port)) is None:
            findings.append(Finding(subject, Level.OK, f"free on {host} for {names[0]}"))
        else:
            findings.append(Finding(subject, Level.WRONG, f"{names[0]} port {port} on {host} {reason}", fix))
    return findings


def _port_in_use(host: str, port: int) -> str | None:
    """Why a server cannot listen there; None when it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            # As servers do it: a port whose last connections are still closing counts as free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        holder = _listener(port)
        return f"is taken by {holder}" if holder else f"cannot be listened on ({error.strerror or error})"
    return None


def _listener(port: int) -> str | None:
    """The process that listens on a port, in words; None when no process does."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    return "a process of another user"
                process = psutil.Process(connection.pid)
                return f"{process.name()} (process {connection.pid}: {' '.join(process.cmdline())[:100]})"
    except psutil.Error:
        return "a process that this user may not see"
    return None


def check_repository(repository: Path, config_name: str, served: Collection[str]) -> Iterator[Finding]:
    """The models' configurations parse, their files are there, and which weights they hold.

    Args:
        repository: The model repository.
        config_name: Of the models' named configurations; empty for their default ones.
        served: The backends that the server has.
    """
    try:
        models = read_models(repository, config_name)
    except RepositoryError as error:
        yield Finding("repository", Level.WRONG, str(error), error.fix)
        return
    foreign = sorted({f"{model.backend} ({model.name})" for model in models if model.backend not in {"", *served}})
    if foreign:
        yield Finding(
            "repository",
            Level.WRONG,
            f"this server has no backend {', '.join(foreign)}, only {', '.join(served)}",
            "serve these in NVIDIA's container (`make engines` builds TensorRT engines, and "
            "`make serve-gpu CONFIG=tensorrt` serves them), or leave --model-config-name out",
        )
        return
    missing = missing_parts(models, repository)
    if missing:
        yield Finding("repository", Level.WRONG, "; ".join(missing), EXPORT_HINT.format(repository=repository))
        return
    yield Finding("repository", Level.OK, f"{repository}: {', '.join(model.name for model in models)}")
    if framing := describe_framing(repository):
        yield Finding("framing", Level.OK, framing)
    if detector := describe_face_detector(repository):
        yield Finding("face detector", Level.OK, detector)
    weights, trained = describe_weights(repository)
    fix = "" if trained else "export trained checkpoints: `make export WEIGHTS=dir`"
    yield Finding("weights", Level.OK if trained else Level.WARNING, weights, fix)
