"""What the benchmarks share: an exported repository, the real server on it, and the circumstances of a run."""

import datetime
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import psutil
from deepfake_client import DetectorClient, ServerUnavailableError

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = sorted((ROOT / "tests" / "golden" / "images").glob("*.png"))
_SOURCES = ("networks", "export", "model_repository")
_PORTS = {"grpc": 18101, "http": 18100, "metrics": 18102}
URL = f"localhost:{_PORTS['grpc']}"
METRICS_URL = f"http://localhost:{_PORTS['metrics']}/metrics"


def export(preset: str, *, retinaface: bool = False) -> Path:
    """A model repository of seeded weights under build/benchmarks, made anew when what it is made from has changed."""
    folder = ROOT / "build" / "benchmarks" / (f"{preset}-retinaface" if retinaface else preset)
    repository = folder / "model_repository"
    made = repository / "provenance" / "1" / "provenance.json"
    sources = [path for folder in _SOURCES for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".pbtxt")]
    if not made.exists() or made.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        if retinaface:
            from networks.retinaface import write_random_retinaface

            (folder / "weights").mkdir(parents=True, exist_ok=True)
            if not (folder / "weights" / "retinaface.h5").exists():
                write_random_retinaface(folder / "weights" / "retinaface.h5")
        options = ["--random-weights", preset, "--weights", str(folder / "weights"), "--repository", str(repository)]
        subprocess.run([sys.executable, "-m", "export", *options], check=True)
    return repository


@contextmanager
def serve(repository: Path) -> Iterator[str]:
    """The real server on a repository, until the end of the block; yields HOST:PORT of its gRPC port.

    Raises:
        click.ClickException: It did not start.
    """
    ports = [word for name, port in _PORTS.items() for word in (f"--{name}-port", str(port))]
    log = repository.parent / "server.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "server", "--model-repository", str(repository), *ports]
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        with DetectorClient(URL) as client:
            while process.poll() is None:
                try:
                    client.wait_ready(timeout=5)
                    break
                except ServerUnavailableError:
                    continue
        if process.poll() is not None:
            raise click.ClickException(f"the server ended with {process.returncode}; its log is {log}")
        yield URL
    finally:
        process.terminate()
        process.wait(60)


def circumstances(module: str) -> dict[str, Any]:
    """What a result must say of itself: command, date, commit, machine and versions."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{_processor()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("numpy", "opencv-python-headless", "onnxruntime")},
            "tritonserver": "2.51.0",
        },
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
