"""`make bench` from end to end: the real server, perf_analyzer and every way, at their smallest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks.baselines.runtime import Runtime, open_session, runtime_of
from benchmarks.common.result import read
from benchmarks.common.serving import export
from benchmarks.comparison.goals import COMPARISONS
from benchmarks.load.sweep import CLOSED, OPEN, PERCENTILES
from ensemble.streams import STREAMS

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_runtimes_are_told_by_the_configuration_and_agree() -> None:
    openvino = ModelConfig(name="global_texture", backend="openvino")
    assert runtime_of(ModelConfig(backend="onnxruntime"), bfloat16=True) == Runtime("onnxruntime")
    asking = ModelConfig(backend="openvino")
    asking.parameters["HINT_BF16"].string_value = "YES"
    assert runtime_of(asking, bfloat16=True) == Runtime("openvino", "bf16")
    assert runtime_of(asking, bfloat16=False) == Runtime("openvino", "f32")
    assert runtime_of(openvino, bfloat16=True) == Runtime("openvino", "f32")
    with pytest.raises(ValueError, match="'tensorrt'"):
        runtime_of(ModelConfig(name="global_texture", backend="tensorrt"), bfloat16=True)
    pytest.importorskip("openvino")
    repository = export("tiny")
    pixels = np.random.default_rng(0).integers(0, 256, (3, STREAMS[0].pixels, STREAMS[0].pixels, 3), np.uint8)
    ours, theirs = (
        open_session(repository, STREAMS[0], each)(pixels)
        for each in (Runtime("onnxruntime"), runtime_of(openvino, bfloat16=True))
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True, timeout=880
    )


@pytest.mark.timeout(900)  # on a machine that may be busy
def test_a_quick_run_measures_compares_and_reports(tmp_path: Path) -> None:
    options = ["--preset", "tiny", "--quick", "--rounds", "1", "--seconds", "0.2", "--output", str(tmp_path)]
    done = run("benchmarks", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    result = read(tmp_path / "result.json")

    assert [each.name for each in result.ratios] == [each.name for each in COMPARISONS]
    assert all(0.01 < each.value < 100 for each in result.ratios)
    assert all(distance < 1e-4 for distance in result.details["tiny"]["largest_difference_of_a_probability"].values())
    assert all(value > 0 for figure in result.figures for value in figure.rounds)
    for load in (CLOSED, OPEN):
        for throughput in result.select(load=load, metric="throughput"):
            p50, p95, p99 = (result.select(**{**throughput.labels, "metric": name})[0].median for name in PERCENTILES)
            assert p50 <= p95 <= p99
    single = result.select(load=CLOSED, concurrency=1, metric="throughput")[0]
    median, slowest = (result.select(load=CLOSED, concurrency=1, metric=name)[0] for name in ("p50", "p99"))
    # With one in flight, throughput and latency are the same thing: the clock of the one vouches for the other. Of the
    # few requests one may take far longer than the median, and a request of the launcher's may be counted with them.
    assert single.median * median.median < 2
    assert single.median * slowest.median > 0.4
    for load in result.details["tiny"]["loads"]:
        assert sum(step["share"] for step in load["steps"]) == pytest.approx(1)
        assert len(load["steps"]) == 6

    for word in ("ensemble / one process", "client / perf_analyzer", "met"):
        assert word in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "ensemble / authors" in page
    assert "http" not in page.partition("<body>")[2]
    assert (tmp_path / "tiny-latency.png").read_bytes().startswith(b"\x89PNG")

    same = run("benchmarks", "compare", str(tmp_path), str(tmp_path))
    assert same.returncode == 0, same.stdout + same.stderr
    assert "too few rounds" in same.stdout


@pytest.mark.timeout(900)
def test_an_overload_is_survived_and_reported(tmp_path: Path) -> None:
    output = tmp_path / "overload.json"
    done = run("benchmarks.overload", "--seconds", "2", "--recovery-timeout", "300", "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    details = json.loads(output.read_text())["details"]
    assert details["sent"] == details["answered"] + sum(each["count"] for each in details["errors"])
    assert details["sent_a_second"] > 2 * details["capacity"]
    assert details["recovered_seconds"] is not None


@pytest.mark.heavy
def test_a_soak_watches_memory(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    done = run("benchmarks.soak", "--minutes", "0.1", "--in-flight", "4", "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    details = json.loads(output.read_text())["details"]
    assert details["images"] >= details["requests"] > 0
    assert len(details["memory_mib"]["minutes"]) == len(details["memory_mib"]["server"]) >= 2
    assert min(details["memory_mib"]["server"]) > 100
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_a_failover_loses_nothing_that_the_command_line_writes(tmp_path: Path) -> None:
    output = tmp_path / "failover.json"
    done = run("benchmarks.failover", "--images", "2000", "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(output.read_text())
    assert result["rows"] == result["images"] == 2000
    assert (result["missing"], result["doubled"], result["wrong"], result["in_order"]) == (0, 0, 0, True)
    assert result["different_verdicts"] > 1000
    assert min(result["victim"]["requests_before_kill"], result["victim"]["requests_after_return"]) > 0
