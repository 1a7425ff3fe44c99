"""The scripts that set up: a Python that works is found or fetched, or refused with what to do; locks have hashes."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.golden import ROOT

LOCKS = [path for path in sorted((ROOT / "locks").glob("*.txt")) if path.stem != "accepted"]


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder with the ordinary programs and no Python of the range: python3 is 3.13 and cannot make environments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "sed", "dirname", "cat"):
        (folder / name).symlink_to(shutil.which(name) or name)
    program(folder / "python3", 'case "$1" in -c) exit 1;; *) echo "/usr/bin/python3 is Python 3.13";; esac')
    return folder


def find(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "scripts/python"
    return subprocess.run([script], env={"PATH": str(path), **environment}, capture_output=True, text=True, check=False)


def test_the_interpreter_that_is_named_is_taken(path: Path) -> None:
    assert find(path, PYTHON=sys.executable).stdout.strip() == sys.executable


def test_a_later_name_on_the_path_is_found(path: Path) -> None:
    program(path / "python3.11", f'exec {sys.executable} "$@"')
    assert find(path).stdout == "python3.11\n"


def test_an_interpreter_that_is_too_new_is_refused_in_one_line(path: Path) -> None:
    done = find(path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "/usr/bin/python3 is Python 3.13" in line
    assert "make PYTHON=/path/to/python3.12" in line


def test_a_name_that_does_not_serve_is_refused_in_one_line(path: Path) -> None:
    (line,) = find(path, PYTHON="python3").stderr.splitlines()
    assert "PYTHON=python3: /usr/bin/python3 is Python 3.13" in line
    (line,) = find(path, PYTHON="/nowhere/python").stderr.splitlines()
    assert "/nowhere/python does not run" in line


def test_uv_brings_one_where_the_system_has_none(path: Path) -> None:
    log = path.parent / "asked"
    program(path / "uv", f'echo "$@" >>{log}; [ "$2" = install ] || echo {sys.executable}')
    assert find(path).stdout.strip() == sys.executable
    assert log.read_text().splitlines()[0] == "python install --quiet 3.12"


def test_the_range_is_the_same_in_both_distributions() -> None:
    texts = [(ROOT / name).read_text() for name in ("pyproject.toml", "client/pyproject.toml")]
    assert len({tomllib.loads(text)["project"]["requires-python"] for text in texts}) == 1


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_release_that_is_locked_has_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    assert all(re.match(r"^[a-z0-9][\w.-]*(\[[\w,-]+\])?==\S+", line) for line in lines)
    if lock.stem != "torch":  # which build is right depends on the machine: scripts/lock says more
        assert all(re.search(r" --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    assert "://" not in text


def test_sets_agree_on_every_release() -> None:
    releases: dict[str, set[str]] = {}
    for lock in LOCKS:
        if lock.stem == "retinaface":
            continue  # an environment of its own
        found: dict[str, list[str]] = {}
        for name, rest in re.findall(r"^([a-z0-9][\w.-]*)(?:\[[\w,-]+\])?(==[^\\\n]*)", lock.read_text(), re.MULTILINE):
            found.setdefault(name, []).append(rest.strip())
        for name, versions in found.items():
            releases.setdefault(name, set()).add(" ".join(versions))
    assert all(len(versions) == 1 for versions in releases.values()), releases


def test_every_requirement_is_locked() -> None:
    def names(text: str) -> set[str]:
        found = re.findall(r"^([A-Za-z0-9][\w.-]*)", text, re.MULTILINE)
        return {re.sub(r"[-_.]+", "-", name).lower() for name in found}

    wanted: set[str] = set()
    for path in ("pyproject.toml", "client/pyproject.toml"):
        project = tomllib.loads((ROOT / path).read_text())["project"]
        for requirements in (project["dependencies"], *project["optional-dependencies"].values()):
            wanted |= names("\n".join(requirements))
    locked = names("\n".join(lock.read_text() for lock in LOCKS))
    assert wanted - locked == {"deepfake-detector-triton"}, "run make lock"


def test_make_installs_for_the_demo_neither_ray_nor_spark_nor_test_tools() -> None:
    demo = subprocess.run(
        ["make", "--dry-run", "--always-make", "demo"], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    assert "scripts/install export" in demo.stdout
    names = set(re.findall(r"^([a-z0-9][\w.-]*)", (ROOT / "locks/export.txt").read_text(), re.MULTILINE))
    assert not names & {"ray", "pyspark", "pytest", "mypy", "ruff", "hypothesis", "transformers"}
