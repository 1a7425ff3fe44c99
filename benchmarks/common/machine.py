"""Where and with what a result was measured."""

import datetime
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from server.standin.layout import TRITON_VERSION, TRITONCLIENT

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("onnxruntime", "openvino", "torch", "transformers", "numpy", "opencv-python-headless", "tritonclient")


@dataclass(frozen=True)
class Machine:
    """Attributes:
    processor: Its model name.
    cores: That this process may use.
    memory_gib: Main memory, GiB.
    bfloat16: Whether the processor multiplies bfloat16 by itself, which OpenVINO then does unless told otherwise.
    """

    processor: str
    cores: int
    memory_gib: int
    bfloat16: bool

    def __str__(self) -> str:
        bfloat16 = "bfloat16" if self.bfloat16 else "no bfloat16"
        return f"{self.processor}, {self.cores} cores, {self.memory_gib} GiB, {bfloat16}"


@dataclass(frozen=True)
class Circumstances:
    """Attributes:
    command: That which measured.
    date: When it began, ISO 8601, UTC.
    commit: Of the code.
    dirty: Whether the code had changes beside the commit.
    machine: Where.
    versions: Of what was measured, by package.
    load_average: Processes that wanted to run in the minute before: others that share the cores spoil the figures, and
        favour what has many processes, as a server has.
    """

    command: str
    date: str
    commit: str
    dirty: bool
    machine: Machine
    versions: dict[str, str]
    load_average: float

    @property
    def busy(self) -> bool:
        """Whether others were using more than a quarter of the cores before the run."""
        return self.load_average > self.machine.cores / 4

    @property
    def warnings(self) -> list[str]:
        """What makes the figures worth less, for people."""
        told = []
        if self.busy:
            load = f"load average {self.load_average} before the run"
            told.append(f"The machine was busy ({load}): these figures and ratios mean little.")
        if self.dirty:
            told.append("The code has changes that are not committed: the result says so.")
        return told


def circumstances(module: str) -> Circumstances:
    """Those of this process.

    Args:
        module: What was run with `python -m`.
    """
    return Circumstances(
        command=" ".join([f"python -m {module}", *map(_without_folder, sys.argv[1:])]),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=_git("rev-parse", "--short", "HEAD") or "unknown",
        dirty=bool(_git("status", "--porcelain", "--untracked-files=no")),
        machine=this_machine(),
        versions={
            "tritonserver": TRITON_VERSION,
            # Of the wheel that it is in, which is not the client's: perf_analyzer --version tells none.
            "perf_analyzer": TRITONCLIENT.partition("==")[2],
            "python": platform.python_version(),
            **{package: found for package in _PACKAGES if (found := _version(package))},
        },
        load_average=round(os.getloadavg()[0], 2),
    )


def _without_folder(word: str) -> str:
    """A word of a command; of an absolute path its name: where it lies on this machine tells others nothing."""
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if value.startswith("/") else word


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def this_machine() -> Machine:
    """That which this process runs on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    return Machine(
        processor=facts.get("model name", platform.machine()),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        bfloat16="avx512_bf16" in flags or "amx_bf16" in flags,
    )
