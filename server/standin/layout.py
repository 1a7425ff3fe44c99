"""Where tritonserver lies on this machine, and whether it is all there."""

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from server.standin.environment import server_environment
from server.standin.patches import MAX_MESSAGE_BYTES

PYTRITON = "nvidia-pytriton==0.7.0"  # holds tritonserver 2.51.0, the release 24.10
TRITONCLIENT = "tritonclient==2.50.0"  # the last wheel whose perf_analyzer runs with glibc 2.35
TRITON_VERSION = "2.51.0 (release 24.10)"
INSTALL_COMMAND = "python -m server install"

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
STUB_VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
BACKENDS = Path(__file__).resolve().parent / "backends"
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Layout:
    """The folder `.triton`: two unpacked wheels, and beside them what tritonserver expects to find.

    Attributes:
        root: The folder; it need not exist.
    """

    root: Path

    @property
    def pytriton(self) -> Path:
        """The unpacked nvidia-pytriton wheel."""
        return self.root / "wheels" / PYTRITON.replace("==", "-")

    @property
    def tritonclient(self) -> Path:
        """The unpacked manylinux wheel of tritonclient, which holds perf_analyzer."""
        return self.root / "wheels" / TRITONCLIENT.replace("==", "-")

    @property
    def wheel_server(self) -> Path:
        """The server's own files inside the wheel."""
        return self.pytriton / "pytriton" / "tritonserver"

    @property
    def wheel_program(self) -> Path:
        """The tritonserver program, inside the wheel."""
        return self.wheel_server / "bin" / "tritonserver"

    @property
    def wheel_libraries(self) -> Path:
        """The shared libraries that came with the server."""
        return self.pytriton / "nvidia_pytriton.libs"

    @property
    def wheel_core(self) -> Path:
        """tritonserver's own library, inside the wheel."""
        return self.wheel_libraries / "libtritonserver-717102f0.so"

    @property
    def core(self) -> Path:
        """The patched copy of that library, where the program looks for it first."""
        return self.wheel_server / "lib" / self.wheel_core.name

    @property
    def program(self) -> Path:
        """The patched copy of the program; it looks for its libraries from where it lies."""
        return self.wheel_server / "patched" / "tritonserver"

    @property
    def wheel_stub(self) -> Path:
        """The Python backend's stub for this Python version, inside the wheel."""
        return self.wheel_server / "python_backend_stubs" / PYTHON_VERSION / "triton_python_backend_stub"

    @property
    def wheel_perf_analyzer(self) -> Path:
        """The perf_analyzer program, inside the wheel."""
        return self.tritonclient / "bin" / "perf_analyzer"

    @property
    def server(self) -> Path:
        """The folder with `bin`, `backends`, `caches` and `lib`."""
        return self.root / "server"

    @property
    def tritonserver(self) -> Path:
        """The program to start: a script that sets the library path."""
        return self.root / "bin" / "tritonserver"

    @property
    def perf_analyzer(self) -> Path:
        """NVIDIA's load generator: a script that sets the library path."""
        return self.root / "bin" / "perf_analyzer"

    @property
    def backends(self) -> Path:
        """tritonserver's backend directory."""
        return self.server / "backends"

    @property
    def stub(self) -> Path:
        """The Python backend's stub that tritonserver will start."""
        return self.backends / "python" / "triton_python_backend_stub"

    @property
    def libraries(self) -> Path:
        """Links to libraries under the names that the server looks for."""
        return self.server / "lib"

    @property
    def stamp(self) -> Path:
        """Written last by the install: what was laid out."""
        return self.server / "installed.json"

    @property
    def caches(self) -> Path:
        """tritonserver's cache directory."""
        return self.server / "caches"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that tritonserver and its stubs need."""
        return server_environment()

    def library_path(self) -> str:
        """LD_LIBRARY_PATH under which the server and its stubs run."""
        return f"{self.libraries}:{self.wheel_libraries}"

    def problems(self) -> list[str]:
        """What keeps this layout from being complete, one line each; empty when all is there."""
        needed = (
            self.wheel_program,
            self.wheel_libraries,
            self.core,
            self.program,
            self.wheel_perf_analyzer,
            self.tritonserver,
            self.perf_analyzer,
            self.stub,
            self.backends / "python" / "libtriton_python.so",
            *(self.backends / folder.name / "model.py" for folder in stand_ins()),
            self.caches / "local" / "libtritoncache_local.so",
        )
        problems = [f"{path} is missing" for path in needed if not path.exists()]
        if self.libraries.is_dir():
            problems += [f"{link} points to nothing" for link in self.libraries.rglob("*") if not link.exists()]
        if not problems and self.read_stamp() != expected_stamp():
            problems.append(f"{self.stamp} says {self.read_stamp()}, wanted {expected_stamp()}")
        return problems

    def read_stamp(self) -> object:
        """What the last complete install laid out; None when there was none or its note is unreadable."""
        try:
            return json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return None


def stand_ins() -> list[Path]:
    """The folders of this package's own backends."""
    return sorted(path.parent for path in BACKENDS.glob("*/model.py"))


def expected_stamp() -> dict[str, object]:
    """What an install of today lays out for the running Python."""
    return {
        "server": PYTRITON,
        "perf_analyzer": TRITONCLIENT,
        "python": PYTHON_VERSION,
        "max_message_bytes": MAX_MESSAGE_BYTES,
    }


def default_layout() -> Layout:
    """The layout of this checkout: its folder `.triton/`."""
    return Layout(CHECKOUT / ".triton")


def own_libpython() -> Path | None:
    """The running interpreter's own shared library; None when it was built without one."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    folders = (sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix) / "lib")
    candidates = (Path(folder) / name for folder in folders if folder and ".so" in name)
    return next((path for path in candidates if path.exists()), None)


def missing_libraries(program: Path, library_path: str) -> list[str]:
    """Names of the shared libraries that the loader cannot find for a program.

    Raises:
        OSError: `ldd` cannot be run.
    """
    environment = os.environ | {"LD_LIBRARY_PATH": library_path}
    listing = subprocess.run(["ldd", program], env=environment, capture_output=True, text=True, check=False).stdout
    return [line.split()[0] for line in listing.splitlines() if line.rstrip().endswith("not found")]
