"""`.ci/run` with stand-ins for all that it calls: what cannot be had is skipped and named last, what fails is red."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PROGRAMS = ("prometheus", "java", "nginx", "curl", "chromium", "chromedriver")


def run(folder: Path, *, programs: bool = True, codes: Mapping[str, int]) -> subprocess.CompletedProcess[str]:
    """Run it where the scripts and `make setup SET=tensorrt-check` end with these codes, and all else with 0."""
    for name in (".ci", "scripts", "bin"):
        (folder / name).mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    stand_ins = {f"scripts/{name}": f"exit {codes.get(name, 0)}" for name in ("check", "audit", "reference")}
    made = {"*tensorrt-check": "tensorrt", "check-engines": "engines", "learn*": "learn"}
    made |= {name: name for name in ("test", "docs")}
    cases = "".join(f"{words}) exit {codes.get(name, 0)};; " for words, name in made.items())
    stand_ins["bin/make"] = f'case "$*" in {cases}esac'
    (folder / ".venv").mkdir()
    (folder / ".venv" / ".tensorrt-check").touch()
    stand_ins["bin/id"] = "echo 1000"  # not root: nothing is installed
    stand_ins |= dict.fromkeys((f"bin/{program}" for program in PROGRAMS if programs), "exit 0")
    for path, text in stand_ins.items():
        (folder / path).write_text(f"#!/bin/sh\n{text}\n")
        (folder / path).chmod(0o755)
    for program in ("bash", "dirname", "xargs", "nice"):
        (folder / "bin" / program).symlink_to(str(shutil.which(program)))
    environment = {"PATH": str(folder / "bin")}
    return subprocess.run([folder / ".ci" / "run"], env=environment, capture_output=True, text=True, check=False)


def test_what_was_skipped_is_the_last_line(tmp_path: Path) -> None:
    done = run(tmp_path, programs=False, codes={"audit": 3, "reference": 3, "tensorrt": 1})
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("ci: all that ran is green. Skipped")
    for skipped in ("programs", "TensorRT for RTX", "reference", "audit"):
        assert skipped in last


def test_where_all_ran_the_last_line_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, codes={})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(": nothing")


@pytest.mark.parametrize("failing", ["check", "audit", "reference", "engines", "test", "learn", "docs"])
def test_what_fails_is_not_skipped(failing: str, tmp_path: Path) -> None:
    done = run(tmp_path, codes={failing: 1})
    assert done.returncode != 0
    assert "is green" not in done.stdout
