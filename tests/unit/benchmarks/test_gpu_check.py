"""`make gpu-check`: steps that fail, hang or lack something lose nothing of the others; the whole as a dry run."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from benchmarks.common.result import Figure, Result, read
from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import runner
from benchmarks.gpu_check.forms import HALVES, Served
from benchmarks.gpu_check.found import nvidia_smi
from benchmarks.gpu_check.runner import Context, Detail, NotHereError, Outcome, Step, run_step
from benchmarks.gpu_check.steps import STEPS
from benchmarks.gpu_check.torch_steps import parity_figures, random_pixels
from ensemble.streams import STREAMS
from networks.seeded import seeded_stream
from tests.golden import ROOT
from tests.waiting import PATIENCE, wait_for

Found = Iterator[Figure | Detail]


@dataclass(frozen=True)
class Local(Step):
    """A step whose function is at hand."""

    work: Callable[[Context], Found] = lambda context: iter(())

    def load(self) -> Callable[[Context], Found]:
        return self.work


def run(tmp_path: Path, work: Callable[[Context], Found], seconds: float = PATIENCE) -> tuple[Outcome, list[int]]:
    """What came of a step, and how much was found at each report."""
    reports: list[int] = []
    context = Context("cpu", "tiny", tmp_path, time.monotonic() + seconds, {"known": 1})
    step = Local("step", "", "", "", seconds, work)
    return run_step(step, context, lambda outcome: reports.append(len(outcome.details))), reports


def test_what_a_step_finds_is_told_at_once(tmp_path: Path) -> None:
    def work(context: Context) -> Found:
        yield Detail("one", context.known["known"])
        yield Figure({"a": 1}, "speed", "m/s", "higher", [1.0, 2.0])
        yield Detail("two", 2)

    outcome, reports = run(tmp_path, work)
    assert (outcome.status, outcome.details) == ("done", {"one": 1, "two": 2})
    assert outcome.figures == [Figure({"a": 1}, "speed", "m/s", "higher", [1.0, 2.0])]
    assert reports == [1, 1, 2, 2]


def test_a_step_that_fails_keeps_what_it_found_and_says_why(tmp_path: Path) -> None:
    def work(context: Context) -> Found:
        yield Detail("one", 1)
        raise RuntimeError("an illegal memory access")

    outcome, _ = run(tmp_path, work)
    assert outcome.status == "failed: RuntimeError: an illegal memory access"
    assert outcome.details == {"one": 1}


def test_a_step_that_dies_is_a_failure(tmp_path: Path) -> None:
    def work(context: Context) -> Found:
        yield Detail("one", 1)
        os.kill(os.getpid(), signal.SIGKILL)

    outcome, _ = run(tmp_path, work)
    assert outcome.status == "failed: exit code -9"
    assert outcome.details == {"one": 1}


def test_what_is_missing_is_no_failure(tmp_path: Path) -> None:
    def work(context: Context) -> Found:
        raise NotHereError("no TensorRT")
        yield

    assert run(tmp_path, work)[0].status == "not here: no TensorRT"


def test_a_step_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.0)
    reported: list[Outcome] = []

    class Impatient(Context):
        """Has time until something was found, and none from then on."""

        @property
        def seconds_left(self) -> float:
            return 0.0 if reported else PATIENCE

    def work(context: Context) -> Found:
        child = subprocess.Popen(["sleep", "600"])
        yield Detail("child", child.pid)
        time.sleep(600)

    context = Impatient("cpu", "tiny", tmp_path, 0.0, {})
    outcome = run_step(Local("step", "", "", "", 0.0, work), context, reported.append)
    assert re.fullmatch(r"stopped: it took more than \d+ s", outcome.status)
    pid = outcome.details["child"]
    wait_for(lambda: not _is_running(pid))


def test_a_step_stops_by_itself_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", PATIENCE)

    def work(context: Context) -> Found:
        for number in range(10_000):
            yield Detail(str(number), number)
            time.sleep(0.05)

    outcome, _ = run(tmp_path, work, seconds=1)
    assert outcome.status == "stopped: its time was over"
    assert "0" in outcome.details


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_run_leaves_a_valid_record_of_what_is_done(tmp_path: Path) -> None:
    output = tmp_path / "record.json"
    arguments = [sys.executable, "-m", "benchmarks.gpu_check", "--dry", "--output", str(output)]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    first = process.stdout.readline()
    process.kill()
    process.communicate()
    assert first.startswith("found: done")
    result = read(output)
    assert result.details["steps"]["found"]["status"] == "done"
    assert result.details["packages"]["torch"] == torch.__version__


def test_the_streams_in_16_bits_give_nearly_what_they_give_in_single() -> None:
    for stream in STREAMS:
        network = seeded_stream(stream, "tiny", "cpu")
        pixels = random_pixels(stream.pixels, 2, "cpu")
        with torch.inference_mode():
            expected = network(pixels)[0]
            fused = Served(seeded_stream(stream, "tiny", "cpu"), "fp32")(pixels)
            torch.testing.assert_close(fused, expected, atol=1e-4, rtol=1e-4)
            for precision, dtype in HALVES.items():
                served = Served(seeded_stream(stream, "tiny", "cpu"), precision)
                types = {each.dtype for each in served.parameters()}
                assert types == {dtype, torch.float32}
                changes = list(parity_figures("torch", stream.name, precision, expected, served(pixels)))
                assert 0 < changes[0].median < 0.05


def test_an_overflow_is_the_largest_change() -> None:
    expected, actual = torch.tensor([[0.0, 1.0]]), torch.tensor([[float("nan"), 1.0]])
    largest, changed = parity_figures("torch", "global_texture", "fp16", expected, actual)
    assert largest.rounds == [1.0]
    assert changed.rounds == [1.0]


def test_without_a_gpu_the_dry_run_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "nvidia_smi", lambda: None)
    assert command.main(["--output", "never.json"]) == 2
    assert "make gpu-check DRY=1" in capsys.readouterr().err


def test_a_dry_run_does_not_take_the_place_of_what_a_gpu_told() -> None:
    told, dry = command._parse([]).output, command._parse(["--dry"]).output
    assert told == Path("benchmarks/results/gpu_check.json")
    assert dry.parts[0] == "build", "not in the records of the repository"
    assert command._parse(["--dry", "--output", "x.json"]).output == Path("x.json")


def test_the_driver_is_asked_for_the_first_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 9.0, 580.1, 143771 MiB, 1980 MHz, 700.00 W'\necho other\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = nvidia_smi()
    assert found
    assert (found["name"], found["driver_version"]) == ("NVIDIA H200", "580.1")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_it_but_the_gpu_as_a_dry_run(tmp_path: Path) -> None:
    output = tmp_path / "record.json"
    made = subprocess.run(
        ["scripts/gpu-check", "--dry", "--minutes", "30", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    result = read(output)
    statuses = {name: step["status"] for name, step in result.details["steps"].items()}
    assert list(statuses) == [step.name for step in STEPS]
    need_a_gpu = {"tensorrt", "graphs", "served"}
    assert {name for name, status in statuses.items() if status.startswith("not here")} == need_a_gpu
    assert {status for name, status in statuses.items() if name not in need_a_gpu} == {"done"}
    assert set(result.details["ceilings"]) == set(HALVES)
    assert result.details["goal"]["goal"] is None
    assert _median(result, metric="throughput", what="all three", way="torch compiled") > 0
    assert _median(result, metric="share of the ceiling", what="all three", way="torch") > 0
    assert _median(result, metric="largest change of a probability", runtime="onnxruntime") < 0.02
    assert sum(result.details["profile torch"]["share by kind"].values()) == pytest.approx(1, abs=0.01)


def _median(result: Result, **labels: str) -> float:
    return max(figure.median for figure in result.select(**labels))
