"""Fetch tritonserver from PyPI and lay it out; the second time there is nothing to do.

The wheels are unpacked into folders of their own with `pip install --no-deps --target`: installed the ordinary
way, nvidia-pytriton would pin NumPy, protobuf and tritonclient of the whole environment.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from server.errors import InstallError
from server.standin.layout import (
    PYTHON_VERSION,
    PYTRITON,
    STUB_VERSIONS,
    TRITONCLIENT,
    Layout,
    expected_stamp,
    own_libpython,
    stand_ins,
)
from server.standin.patches import CANCELLATION, MESSAGE_SIZE, apply, is_applied

_SCRIPT = """#!/bin/sh
# Written by `python -m server install`: {program} with the libraries that it was built with.
root=$(dirname "$(dirname "$(readlink -f "$0")")")
LD_LIBRARY_PATH="{libraries}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
export LD_LIBRARY_PATH
exec "$root/{program}" "$@"
"""


def install(layout: Layout, say: Callable[[str], None]) -> bool:
    """Bring a layout into its complete state.

    Whatever is already right is kept: after an interrupted install only what is missing is done again.

    Args:
        layout: Where to install.
        say: Called with one line for each thing done.

    Returns:
        Whether anything had to be done.

    Raises:
        InstallError: A wheel cannot be fetched, or what was laid out does not run.
    """
    if not layout.problems():
        return False
    if PYTHON_VERSION not in STUB_VERSIONS:
        raise InstallError(
            f"Python {PYTHON_VERSION}: {PYTRITON} serves Python models for {', '.join(STUB_VERSIONS)} only; "
            "make the virtual environment with one of these"
        )
    layout.root.mkdir(parents=True, exist_ok=True)
    with (layout.root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second install waits for the first, and then finds its work done
        if not layout.problems():
            return False
        _bring_up(layout, say)
    return True


def _bring_up(layout: Layout, say: Callable[[str], None]) -> None:
    for requirement, target, needed in (
        (PYTRITON, layout.pytriton, (layout.wheel_program, layout.wheel_stub, layout.wheel_core)),
        (TRITONCLIENT, layout.tritonclient, (layout.wheel_perf_analyzer,)),
    ):
        if not all(path.exists() for path in needed):
            say(f"fetching {requirement} into {target}")
            with _beside(target) as staging:
                _pip_install(requirement, staging)
    for patch, source, target in (
        (CANCELLATION, layout.wheel_core, layout.core),
        (MESSAGE_SIZE, layout.wheel_program, layout.program),
    ):
        if not is_applied(patch, target):
            say(f"patching {patch.subject} in {target}")
            apply(patch, source, target)
    say(f"laying out {layout.server}")
    _write_script(layout.tritonserver, layout.program, layout, layout.library_path())
    perf_libraries = layout.server / "lib-perf_analyzer"
    _write_script(layout.perf_analyzer, layout.wheel_perf_analyzer, layout, str(perf_libraries))
    with _beside(layout.server) as staging:
        _lay_out(layout, staging)
    _prove(layout)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that replaces it when the block ends well, and vanishes when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}-*"):  # of an install that was killed
        shutil.rmtree(leftover)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        staging.chmod(0o755)
        yield staging
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _pip_install(requirement: str, target: Path) -> None:
    locked = (Path(__file__).parent / "wheels.txt").read_text().replace("\\\n", "").splitlines()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as chosen:
        chosen.write(next(line for line in locked if line.startswith(f"{requirement} ")))
        chosen.flush()
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--no-warn-script-location", "--target", str(target)]
        command += ["--require-hashes", "--requirement", chosen.name]
        outcome = subprocess.run(command, stdout=sys.stderr, check=False)
    if outcome.returncode != 0:
        raise InstallError(
            f"pip could not fetch {requirement} (exit code {outcome.returncode}; its output is above). It needs "
            "x86-64 Linux with glibc 2.35 or later, and a package index that answers; `python -m ensurepip` brings "
            "pip where the environment has none"
        )


def _write_script(script: Path, program: Path, layout: Layout, library_path: str) -> None:
    """A shell script that starts `program` with its libraries, wherever the folder is moved to."""
    text = _SCRIPT.format(
        program=program.relative_to(layout.root),
        libraries=":".join(f"$root/{Path(part).relative_to(layout.root)}" for part in library_path.split(":")),
    )
    script.parent.mkdir(exist_ok=True)
    staging = script.with_name(f".{script.name}-{os.getpid()}")
    staging.write_text(text)
    staging.chmod(0o755)
    staging.rename(script)


def _lay_out(layout: Layout, staging: Path) -> None:
    # tritonserver refuses a backend library that is a link out of its folder, so these two are copies; the folder
    # of our own backend may be a link, and then a new checkout needs no new install.
    python = staging / "backends" / "python"
    shutil.copytree(layout.wheel_server / "backends" / "python", python)
    (python / layout.stub.name).write_bytes(layout.wheel_stub.read_bytes())
    (python / layout.stub.name).chmod(0o755)
    for backend in stand_ins():
        _link(staging / "backends" / backend.name, backend)
    shutil.copytree(layout.wheel_server / "caches", staging / "caches")

    (staging / "lib").mkdir()
    libpython = own_libpython()
    if libpython is not None:
        # The interpreter's own, so that the stub does not run on another build of the same Python version.
        (staging / "lib" / libpython.name).symlink_to(libpython)
    perf_libraries = staging / "lib-perf_analyzer"
    perf_libraries.mkdir()
    for name, pattern in (("libb64.so.0d", "libb64-*.so.0d"), ("libcudart.so.12", "libcudart-*.so.12*")):
        found = next(layout.wheel_libraries.glob(pattern), None)
        if found is None:
            raise InstallError(f"{layout.wheel_libraries} holds no {pattern}; remove {layout.pytriton} and run again")
        _link(perf_libraries / name, found)
    (staging / layout.stamp.name).write_text(json.dumps(expected_stamp(), indent=2) + "\n")


def _link(link: Path, target: Path) -> None:
    # Relative, and the staging folder lies as deep as the final one: the link survives the move.
    link.symlink_to(os.path.relpath(target, link.parent))


def _prove(layout: Layout) -> None:
    """Start both programs once.

    Raises:
        InstallError: One of them does not start.
    """
    for program in (layout.tritonserver, layout.perf_analyzer):
        # --help makes both print their usage, tritonserver with exit code 1.
        outcome = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
        if "usage" not in (outcome.stdout + outcome.stderr).lower():
            last = (outcome.stderr.strip() or f"exit code {outcome.returncode}").splitlines()[-1]
            raise InstallError(f"{program} does not start: {last}")
    problems = layout.problems()
    if problems:
        raise InstallError("the install is incomplete: " + "; ".join(problems))
