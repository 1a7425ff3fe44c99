"""What the stand-in for NVIDIA's container needs of a machine, the environment that it runs in, how it is laid out."""

import fcntl
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.errors import InstallError
from server.findings import Finding, Level
from server.nvidia_smi import DriverError
from server.standin import checks, environment, install
from server.standin.layout import (
    PYTHON_VERSION,
    Layout,
    default_layout,
    expected_stamp,
    missing_libraries,
    own_libpython,
)
from tests.golden import ROOT


@pytest.mark.parametrize(
    ("system", "machine", "library", "level", "said"),
    [
        ("Linux", "x86_64", "glibc 2.35", Level.OK, "Linux x86_64, glibc 2.35"),
        ("Linux", "x86_64", "glibc 2.36.1", Level.OK, "glibc 2.36.1"),
        ("Linux", "x86_64", "glibc 3.1", Level.OK, "glibc 3.1"),
        ("Linux", "x86_64", "glibc 2.34", Level.WRONG, "glibc 2.34; glibc 2.35 or later is needed"),
        ("Linux", "x86_64", None, Level.WRONG, "unknown ; glibc 2.35 or later"),
        ("Linux", "aarch64", "glibc 2.39", Level.WRONG, "Linux aarch64; tritonserver's wheel is for Linux x86_64"),
        ("Darwin", "x86_64", None, Level.WRONG, "Darwin x86_64; tritonserver's wheel"),
    ],
)
def test_the_platform_is_that_of_the_wheel(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, library: str | None, level: Level, said: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(os, "confstr", lambda name: library)
    finding = checks.check_platform()
    assert (finding.level, bool(finding.fix)) == (level, level is not Level.OK)
    assert said in finding.detail


@pytest.mark.parametrize(("version", "level"), [("3.11", Level.OK), ("3.13", Level.OK), ("3.14", Level.WRONG)])
def test_python_is_one_that_there_is_a_stub_for(monkeypatch: pytest.MonkeyPatch, version: str, level: Level) -> None:
    monkeypatch.setattr(checks, "PYTHON_VERSION", version)
    assert checks.check_python().level is level


@pytest.mark.parametrize(
    ("version", "level"),
    [("1.26.4", Level.OK), ("2.0.0", Level.WRONG), ("2", Level.WRONG), ("10.1", Level.WRONG), (None, Level.WRONG)],
)
def test_numpy_is_of_the_first_generation(monkeypatch: pytest.MonkeyPatch, version: str | None, level: Level) -> None:
    def known(name: str) -> str:
        assert name == "numpy"
        if version is None:
            raise importlib.metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(importlib.metadata, "version", known)
    finding = checks.check_numpy()
    assert finding.level is level
    assert ("numpy>=1.26,<2" in finding.fix) is (level is Level.WRONG)


@pytest.mark.parametrize("gone", [(), ("cv2",), ("onnxruntime", "openvino"), ("openvino",)])
def test_each_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, gone: tuple[str, ...]) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None if name in gone else object())
    finding = checks.check_packages()
    assert finding.level is (Level.WRONG if gone else Level.OK)
    assert finding.detail.startswith(f"{', '.join(gone)}: not in" if gone else "onnxruntime, openvino and cv2 are in")


@pytest.mark.parametrize(
    ("gpus", "cuda", "level", "said"),
    [
        (None, False, Level.OK, "none (no nvidia-smi)"),
        (DriverError("it hangs"), True, Level.WARNING, "it hangs"),
        (["H200, 1 MiB, 5", "L4, 2 MiB, 5"], True, Level.OK, "H200, 1 MiB, 5; L4, 2 MiB, 5"),
        (["H200, 1 MiB, 5"], False, Level.WARNING, "H200, 1 MiB, 5: not used, this ONNX Runtime has no CUDA"),
    ],
)
def test_a_gpu_is_used_by_an_onnx_runtime_that_can(
    monkeypatch: pytest.MonkeyPatch, gpus: Any, cuda: bool, level: Level, said: str
) -> None:
    def query(*fields: str) -> Any:
        assert fields == ("name", "memory.total", "driver_version")
        if isinstance(gpus, Exception):
            raise gpus
        return gpus

    monkeypatch.setattr(checks, "query_gpus", query)
    monkeypatch.setattr(checks, "has_cuda_provider", lambda: cuda)
    finding = checks.check_gpu()
    assert (finding.level, bool(finding.fix)) == (level, level is Level.WARNING)
    assert finding.detail.startswith(said)


@pytest.mark.parametrize(
    ("problems", "said"), [(["a is missing"], "half installed: a is missing"), (["a", "b", "c"], "a (and 2 more)")]
)
def test_what_is_half_installed_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, problems: list[str], said: str
) -> None:
    monkeypatch.setattr(Layout, "problems", lambda _: problems)
    finding = checks.check_layout(Layout(tmp_path))
    assert finding.level is Level.WRONG
    assert finding.detail.endswith(said)
    absent = checks.check_layout(Layout(tmp_path / "gone"))
    assert (absent.level, absent.fix) == (Level.WRONG, "run `python -m server install`")
    monkeypatch.setattr(Layout, "problems", lambda _: [])
    assert checks.check_layout(Layout(tmp_path)).level is Level.OK


@pytest.mark.parametrize(
    ("missing", "level", "detail", "fix"),
    [
        ([], Level.OK, "the stub finds libpython", ""),
        (
            ["libpython3.11.so.1.0", "libx.so"],
            Level.WRONG,
            "libpython3.11.so.1.0, libx.so not found",
            "install it: apt",
        ),
        (["libx.so", "liby.so"], Level.WRONG, "the stub lacks libx.so, liby.so", "install the packages"),
        (OSError("no ldd"), Level.WARNING, "ldd cannot be run (no ldd)", "install ldd"),
    ],
)
def test_the_stub_s_libraries_are_looked_for_where_it_will_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: Any, level: Level, detail: str, fix: str
) -> None:
    layout, asked = Layout(tmp_path), list[Any]()
    layout.stub.parent.mkdir(parents=True)
    layout.stub.touch()

    def look(*given: Any) -> list[str]:
        asked.append(given)
        if isinstance(missing, Exception):
            raise missing
        return missing

    monkeypatch.setattr(checks, "missing_libraries", look)
    finding = checks.check_libpython(layout)
    assert finding.level is level
    assert detail in finding.detail
    assert finding.fix.startswith(fix)
    assert bool(finding.fix) is (level is not Level.OK)
    assert asked == [(layout.stub, f"{layout.server / 'lib'}:{layout.wheel_libraries}")]


@pytest.mark.parametrize(("own", "level"), [(Path("/usr/lib/libpython.so"), Level.OK), (None, Level.WARNING)])
def test_before_the_install_the_interpreter_s_own_library_is_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: Path | None, level: Level
) -> None:
    monkeypatch.setattr(checks, "own_libpython", lambda: own)
    assert checks.check_libpython(Layout(tmp_path)).level is level


def test_before_a_start_all_of_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["platform", "python", "numpy", "packages", "layout", "libpython"]
    asked: list[tuple[Any, ...]] = []
    for name in names:
        found = lambda *given, name=name: asked.append(given) or Finding(name, Level.OK, "")  # noqa: E731
        monkeypatch.setattr(checks, f"check_{name}", found)
    layout: Any = "layout"
    assert [each.subject for each in checks.needs(layout)] == names
    assert asked == [(), (), (), (), ("layout",), ("layout",)]


def test_the_loader_s_list_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (ldd := tmp_path / "ldd").write_text(
        '#!/bin/sh\necho "\tlibc.so.6 => /lib/libc.so.6 (0x1)"\necho "\tlibx.so => not found"\n'
        'echo "\t$LD_LIBRARY_PATH => not found"\necho "\tlibnot found.so => /lib/y (0x2)"\n'
    )
    ldd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert missing_libraries(Path("program"), "/a:/b") == ["libx.so", "/a:/b"]


# the environment


@pytest.mark.parametrize("known", [None, "8"])
def test_memory_goes_back_to_the_system_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, known: str | None
) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if known:
        monkeypatch.setenv("MALLOC_ARENA_MAX", known)
    monkeypatch.setenv("OF_THE_USER", "1")
    found = environment.server_environment()
    assert (found["MALLOC_ARENA_MAX"], found["OF_THE_USER"]) == (known or "2", "1")
    monkeypatch.delenv("PATH")
    assert environment.server_environment()["PATH"] == f"{Path(sys.executable).parent}:{os.defpath}"


@pytest.mark.parametrize("there", [True, False])
def test_cuda_is_judged_without_an_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool) -> None:
    (tmp_path / "two" / "capi").mkdir(parents=True)
    if there:
        (tmp_path / "two" / "capi" / "libonnxruntime_providers_cuda.so").touch()
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    spec = SimpleNamespace(submodule_search_locations=folders)
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: spec if name == "onnxruntime" else None)
    assert environment.has_cuda_provider() is there
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda _: None)
    assert environment.has_cuda_provider() is False


# the layout and the install


def test_what_is_laid_out_is_this_checkout_s() -> None:
    assert default_layout().root == ROOT / ".triton"
    library = own_libpython()
    assert library is None or (library.exists() and PYTHON_VERSION in library.name)


@pytest.fixture
def laid_out(tmp_path: Path) -> Layout:
    """A layout in which everything that is looked for is there."""
    layout = Layout(tmp_path / ".triton")
    for _ in range(30):
        missing = [Path(line.removesuffix(" is missing")) for line in layout.problems() if line.endswith(" is missing")]
        for path in missing:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    layout.stamp.write_text(json.dumps(expected_stamp()))
    assert layout.problems() == []
    return layout


def test_each_part_of_a_layout_is_missed(laid_out: Layout) -> None:
    parts = ("wheel_program", "core", "program", "wheel_perf_analyzer", "tritonserver", "perf_analyzer", "stub")
    for part in parts:
        path: Path = getattr(laid_out, part)
        path.unlink()
        assert laid_out.problems() == [f"{path} is missing"]
        path.touch()
    laid_out.libraries.mkdir()
    (laid_out.libraries / "libpython.so").symlink_to("/nowhere")
    assert laid_out.problems() == [f"{laid_out.libraries / 'libpython.so'} points to nothing"]
    (laid_out.libraries / "libpython.so").unlink()
    laid_out.stamp.write_text("{}")
    assert "says {}, wanted" in laid_out.problems()[0]
    laid_out.stamp.write_text("{")
    assert "says None, wanted" in laid_out.problems()[0]


def test_a_complete_layout_is_left_alone(laid_out: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_bring_up", lambda *_: pytest.fail("it is there"))
    assert install.install(laid_out, print) is False
    assert not (laid_out.root / ".lock").exists()


def test_one_install_at_a_time_and_who_waited_finds_it_done(laid_out: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out.stamp.unlink()
    held: list[bool] = []

    def bring_up(layout: Layout, say: Any) -> None:
        with (layout.root / ".lock").open() as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)

    monkeypatch.setattr(install, "_bring_up", bring_up)
    assert install.install(laid_out, print) is True
    assert held == [True]
    answers: Iterator[list[str]] = iter([["gone"], []])  # before the lock, and with it
    monkeypatch.setattr(Layout, "problems", lambda _: next(answers))
    assert install.install(laid_out, print) is False
    assert held == [True]


def test_a_python_without_a_stub_fetches_nothing(laid_out: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out.stamp.unlink()
    monkeypatch.setattr(install, "PYTHON_VERSION", "3.14")
    with pytest.raises(InstallError, match=r"Python 3\.14: nvidia-pytriton==.* serves Python models for 3\.8"):
        install.install(laid_out, print)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    (target / "old").mkdir(parents=True)
    (tmp_path / ".folder-killed").mkdir()  # of an install that was killed
    (tmp_path / ".other-1").mkdir()

    def fail() -> None:
        with install._beside(target) as staging:
            (staging / "new").mkdir()
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other-1", "folder"]
    assert (target / "old").is_dir()
    with install._beside(target) as staging:
        (staging / "new").mkdir()
        assert (target / "old").is_dir()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert target.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other-1", "folder"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo Usage: me; exit 1", ""),
        ("echo usage >&2", ""),
        ("echo first; echo 'no library' >&2; exit 127", "does not start: no library"),
        ("exit 3", "does not start: exit code 3"),
    ],
)
def test_what_was_laid_out_is_started_once(laid_out: Layout, script: str, said: str) -> None:
    for program in (laid_out.tritonserver, laid_out.perf_analyzer):
        program.write_text("#!/bin/sh\necho usage\n")
        program.chmod(0o755)
    laid_out.perf_analyzer.write_text(f"#!/bin/sh\n{script}\n")
    if said:
        with pytest.raises(InstallError, match=f"perf_analyzer {said}"):
            install._prove(laid_out)
    else:
        install._prove(laid_out)
        laid_out.stub.unlink()
        with pytest.raises(InstallError, match=r"the install is incomplete: .*is missing"):
            install._prove(laid_out)
