"""What a start needs, each check with its finding and its fix.

The launcher refuses on the first finding that is wrong; `doctor` shows all of them.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import psutil

from server.errors import RepositoryError
from server.layout import (
    INSTALL_COMMAND,
    PYTHON_VERSION,
    STUB_VERSIONS,
    TRITON_VERSION,
    Layout,
    missing_libraries,
    own_libpython,
)
from server.repository import EXPORT_HINT, describe_face_detector, describe_weights, missing_parts, read_models

MINIMUM_GLIBC = (2, 35)
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_NEEDED = 256 * 2**20  # bytes: seven stubs and full batches of pixels in flight, with room to spare
SERVED_BACKENDS = ("", "python", "onnxruntime", "openvino")


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        subject: What was looked at, in a word or two.
        level: How bad it is.
        detail: What was found, with the value.
        fix: How to mend it; empty where there is nothing to mend.
    """

    subject: str
    level: Level
    detail: str
    fix: str = ""


def check_platform() -> Finding:
    """x86-64 Linux with a C library as new as the wheel needs."""
    name = f"{platform.system()} {platform.machine()}"
    fix = "use a machine or container with x86-64 Linux, such as Debian 12 or Ubuntu 22.04, or later"
    if name != "Linux x86_64":
        return Finding("platform", Level.WRONG, f"{name}; tritonserver's wheel is for Linux x86_64", fix)
    library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "unknown").partition(" ")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    needed = ".".join(map(str, MINIMUM_GLIBC))
    if numbers < MINIMUM_GLIBC:
        return Finding("platform", Level.WRONG, f"{name}, {library} {version}; glibc {needed} or later is needed", fix)
    return Finding("platform", Level.OK, f"{name}, glibc {version}")


def check_python() -> Finding:
    """A Python version that the wheel has a stub for."""
    detail = f"Python {platform.python_version()} in {sys.prefix}"
    if PYTHON_VERSION not in STUB_VERSIONS:
        fix = (
            f"make the virtual environment with Python 3.11, 3.12 or 3.13 (stubs exist for {', '.join(STUB_VERSIONS)})"
        )
        return Finding("python", Level.WRONG, f"{detail}: the Python backend has no stub for it", fix)
    return Finding("python", Level.OK, detail)


def check_layout(layout: Layout) -> Finding:
    """tritonserver is laid out completely."""
    problems = layout.problems()
    if not layout.root.exists():
        return Finding("tritonserver", Level.WRONG, f"not installed in {layout.root}", f"run `{INSTALL_COMMAND}`")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Finding(
            "tritonserver",
            Level.WRONG,
            f"half installed: {problems[0]}{more}",
            f"run `{INSTALL_COMMAND}`, which repairs it",
        )
    return Finding("tritonserver", Level.OK, f"{TRITON_VERSION} in {layout.root}")


def check_libpython(layout: Layout) -> Finding:
    """The stub finds libpython and its other shared libraries."""
    name = sysconfig.get_config_var("INSTSONAME") or f"libpython{PYTHON_VERSION}.so"
    if not layout.stub.exists():
        own = own_libpython()
        if own is not None:
            return Finding("libpython", Level.OK, str(own))
        return Finding("libpython", Level.WARNING, "not looked at: there is no stub yet", f"run `{INSTALL_COMMAND}`")
    try:
        missing = missing_libraries(layout.stub, layout.library_path())
    except OSError as error:
        return Finding(
            "libpython", Level.WARNING, f"not looked at: ldd cannot be run ({error})", "install ldd (libc-bin)"
        )
    if any(library.startswith("libpython") for library in missing):
        fix = (
            f"install it: apt install libpython{PYTHON_VERSION} (Debian, Ubuntu), dnf install "
            f"python{PYTHON_VERSION}-libs (Fedora, RHEL), or PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install "
            f"{PYTHON_VERSION}; then run `{INSTALL_COMMAND}`"
        )
        return Finding("libpython", Level.WRONG, f"{', '.join(missing)} not found by the Python backend's stub", fix)
    if missing:
        return Finding(
            "libpython", Level.WRONG, f"the stub lacks {', '.join(missing)}", "install the packages that hold them"
        )
    return Finding("libpython", Level.OK, f"the stub finds {name if '.so' in name else f'libpython{PYTHON_VERSION}'}")


def check_numpy() -> Finding:
    """NumPy 1: the stub of this release returns empty outputs with NumPy 2."""
    fix = f'{sys.executable} -m pip install "numpy>=1.26,<2"'
    try:
        version = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        return Finding("numpy", Level.WRONG, "not installed", fix)
    if int(version.split(".")[0]) >= 2:
        return Finding(
            "numpy", Level.WRONG, f"NumPy {version}: with NumPy 2 the Python backend's outputs come back empty", fix
        )
    return Finding("numpy", Level.OK, f"NumPy {version}")


def check_onnxruntime() -> Finding:
    """ONNX Runtime can be imported; which execution providers it has."""
    code = "import onnxruntime as o; print(o.__version__, *o.get_available_providers())"
    return _import_in_child("onnxruntime", code, f'{sys.executable} -m pip install "onnxruntime>=1.28,<1.33"')


def check_openvino() -> Finding:
    """OpenVINO can be imported; whether it computes in bfloat16 on this processor."""
    code = (
        "import openvino as o; c = o.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'); "
        "print(o.__version__.partition('-')[0], 'with' if 'BF16' in c else 'without', 'bfloat16 on this processor')"
    )
    return _import_in_child("openvino", code, f'{sys.executable} -m pip install "openvino>=2026.2,<2027"')


def check_opencv() -> Finding:
    """OpenCV can be imported: the preparing steps use it."""
    fix = f'{sys.executable} -m pip install "opencv-python-headless>=4.11,<4.12"'
    return _import_in_child("opencv", "import cv2; print(cv2.__version__)", fix)


def _import_in_child(subject: str, code: str, fix: str) -> Finding:
    # In a process of its own: a broken binary package may crash, and a good one takes memory.
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        reason = (outcome.stderr.strip() or f"exit code {outcome.returncode}").splitlines()[-1]
        return Finding(subject, Level.WRONG, f"cannot be imported: {reason}", fix)
    return Finding(subject, Level.OK, outcome.stdout.strip())


def check_packages() -> Finding:
    """The packages that the models need are there, without importing them."""
    missing = [name for name in ("onnxruntime", "openvino", "cv2") if importlib.util.find_spec(name) is None]
    if missing:
        return Finding(
            "packages",
            Level.WRONG,
            f"{', '.join(missing)}: not in {sys.prefix}",
            "run `make setup`, or pip install -e .",
        )
    return Finding("packages", Level.OK, f"onnxruntime, openvino and cv2 are in {sys.prefix}")


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


def has_cuda_provider() -> bool:
    """Whether this environment's ONNX Runtime can run on an NVIDIA GPU, judged without importing it."""
    found = importlib.util.find_spec("onnxruntime")
    folders = found.submodule_search_locations if found else None
    return any(Path(each, "capi", "libonnxruntime_providers_cuda.so").exists() for each in folders or ())


def check_gpu() -> Finding:
    """Whether NVIDIA's driver shows a GPU; the ensemble runs without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("gpu", Level.OK, "none (no nvidia-smi): the models run on the CPU")
    command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return Finding("gpu", Level.WARNING, "nvidia-smi hangs", "reinstall NVIDIA's driver")
    if outcome.returncode != 0:
        reason = (outcome.stdout + outcome.stderr).strip().splitlines()
        return Finding("gpu", Level.WARNING, f"nvidia-smi fails: {reason[:1]}", "reinstall NVIDIA's driver")
    gpus = "; ".join(outcome.stdout.strip().splitlines())
    if not has_cuda_provider():
        pip = f"{sys.executable} -m pip"
        fix = f"{pip} uninstall onnxruntime; {pip} install 'onnxruntime-gpu[cuda,cudnn]'"
        return Finding(
            "gpu", Level.WARNING, f"{gpus}: not used, this ONNX Runtime has no CUDA; the models run on the CPU", fix
        )
    return Finding("gpu", Level.OK, gpus)


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


def check_repository(repository: Path, config_name: str = "") -> Iterator[Finding]:
    """The models' configurations parse, their files are there, and which weights they hold."""
    try:
        models = read_models(repository, config_name)
    except RepositoryError as error:
        yield Finding("repository", Level.WRONG, str(error))
        return
    missing = missing_parts(models, repository)
    if missing:
        yield Finding("repository", Level.WRONG, "; ".join(missing), EXPORT_HINT.format(repository=repository))
        return
    foreign = sorted({f"{model.backend} ({model.name})" for model in models if model.backend not in SERVED_BACKENDS})
    if foreign:
        yield Finding(
            "repository",
            Level.WRONG,
            f"this server has no backend {', '.join(foreign)}, only {', '.join(filter(None, SERVED_BACKENDS))}",
            "serve these in NVIDIA's tritonserver container, or without --model-config-name",
        )
        return
    yield Finding("repository", Level.OK, f"{repository}: {', '.join(model.name for model in models)}")
    if detector := describe_face_detector(repository):
        yield Finding("face detector", Level.OK, detector)
    weights, trained = describe_weights(repository)
    fix = "" if trained else "export trained checkpoints: `make export WEIGHTS=dir`"
    yield Finding("weights", Level.OK if trained else Level.WARNING, weights, fix)


def refusals(layout: Layout, repository: Path, config_name: str, host: str, ports: dict[str, int]) -> Iterator[Finding]:
    """What makes a start pointless, cheapest check first; nothing when the server may be started."""
    findings = [check_platform(), check_python(), *check_ports(host, ports)]
    findings += [*check_repository(repository, config_name), check_numpy(), check_packages()]
    findings += [check_layout(layout), check_libpython(layout), check_shared_memory()]
    return (finding for finding in findings if finding.level is Level.WRONG)
