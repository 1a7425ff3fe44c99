"""What the stand-in for NVIDIA's container needs of this machine, each check with its finding and its fix."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
import sysconfig
from collections.abc import Iterator

from server.findings import Finding, Level, check_import
from server.nvidia_smi import DriverError, query_gpus
from server.standin.environment import has_cuda_provider
from server.standin.layout import (
    INSTALL_COMMAND,
    PYTHON_VERSION,
    STUB_VERSIONS,
    TRITON_VERSION,
    Layout,
    missing_libraries,
    own_libpython,
)

MINIMUM_GLIBC = (2, 35)
SERVED_BACKENDS = ("python", "onnxruntime", "openvino")


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
    return check_import("onnxruntime", code, f'{sys.executable} -m pip install "onnxruntime>=1.28,<1.33"')


def check_openvino() -> Finding:
    """OpenVINO can be imported; whether it computes in bfloat16 on this processor."""
    code = (
        "import openvino as o; c = o.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'); "
        "print(o.__version__.partition('-')[0], 'with' if 'BF16' in c else 'without', 'bfloat16 on this processor')"
    )
    return check_import("openvino", code, f'{sys.executable} -m pip install "openvino>=2026.2,<2027"')


def check_opencv() -> Finding:
    """OpenCV can be imported: the preparing steps use it."""
    fix = f'{sys.executable} -m pip install "opencv-python-headless>=4.11,<4.12"'
    return check_import("opencv", "import cv2; print(cv2.__version__)", fix)


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


def check_gpu() -> Finding:
    """Whether NVIDIA's driver shows a GPU; the ensemble runs without one."""
    try:
        lines = query_gpus("name", "memory.total", "driver_version")
    except DriverError as error:
        return Finding("gpu", Level.WARNING, str(error), "reinstall NVIDIA's driver")
    if lines is None:
        return Finding("gpu", Level.OK, "none (no nvidia-smi): the models run on the CPU")
    gpus = "; ".join(lines)
    if not has_cuda_provider():
        pip = f"{sys.executable} -m pip"
        fix = f"{pip} uninstall onnxruntime; {pip} install 'onnxruntime-gpu[cuda,cudnn]'"
        return Finding(
            "gpu", Level.WARNING, f"{gpus}: not used, this ONNX Runtime has no CUDA; the models run on the CPU", fix
        )
    return Finding("gpu", Level.OK, gpus)


def needs(layout: Layout) -> Iterator[Finding]:
    """Everything the stand-in needs before a start, cheapest check first."""
    yield from (check_platform(), check_python(), check_numpy(), check_packages())
    yield from (check_layout(layout), check_libpython(layout))
