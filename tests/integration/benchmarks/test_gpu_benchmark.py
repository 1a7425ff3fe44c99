"""`python -m benchmarks.gpu`: its arithmetic, and all of it but the GPU as a dry run."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import click
import pytest
from click.testing import CliRunner
from deepfake_client import StreamVerdict, Verdict

from benchmarks.common.machine import Circumstances, circumstances
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.arithmetic import peak_of, tflop_per_image
from benchmarks.gpu.load import Level, counters, step_means
from benchmarks.gpu.parity import compare, variants
from benchmarks.gpu.sampling import Gpu, Sampler
from benchmarks.gpu.server import CONTAINER, STAND_IN, Endpoint, container_command, require_gpu, runtimes
from ensemble.images import Limits, read_image
from ensemble.streams import STREAMS
from tests.conftest import Server
from tests.golden import ROOT, ROWS

GOLDEN = ROOT / "tests" / "golden" / "images"


def test_an_image_costs_what_is_published() -> None:
    assert tflop_per_image("giant") == pytest.approx(0.76 + 0.76 + 0.60 + 0.16, rel=0.01)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 790),
        ("NVIDIA H100 80GB HBM3", 790),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40", None),
        ("NVIDIA RTX A1000", None),
        ("Quadro K2000", None),
    ],
)
def test_peaks_are_found_by_name(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_engines_are_measured_where_all_are_there_and_the_server_runs_them(tmp_path: Path) -> None:
    for stream in STREAMS:
        assert runtimes(tmp_path, CONTAINER) == ["onnxruntime"]
        (tmp_path / stream.name / "1").mkdir(parents=True)
        (tmp_path / stream.name / "1" / "model.plan").touch()
    assert runtimes(tmp_path, CONTAINER) == ["onnxruntime", "tensorrt"]
    assert runtimes(tmp_path, STAND_IN) == ["onnxruntime"]


def test_the_container_listens_on_loopback_and_only_reads_the_models(tmp_path: Path) -> None:
    command = container_command(tmp_path, "tensorrt", "name", 3)
    published = [word for before, word in pairwise(command) if before == "--publish"]
    assert published
    assert all(word.startswith("127.0.0.1:") for word in published)
    assert f"{tmp_path}:/models:ro" in command
    assert command[-1] == "--model-config-name=tensorrt"
    assert ("--gpus", "device=3") in pairwise(command)


def test_steps_are_the_means_of_what_was_gained() -> None:
    metrics = {
        "request_success": (10, 14),
        "count": (10, 18),
        "exec_count": (5, 7),
        "queue_duration_us": (0, 8000),
        "compute_input_duration_us": (0, 400),
        "compute_infer_duration_us": (0, 3200),
        "compute_output_duration_us": (0, 400),
    }
    before, after = ({(name, "voter"): float(values[i]) for name, values in metrics.items()} for i in (0, 1))
    assert step_means(before, after) == {"voter": {"batch": 4.0, "queue_ms": 2.0, "compute_ms": 1.0}}
    assert step_means(after, after) == {}


def test_counters_of_gpus_are_added_up() -> None:
    text = (
        "# HELP nv_inference_count Number of inferences\n"
        'nv_inference_count{gpu_uuid="GPU-1",model="global_texture",version="1"} 5\n'
        'nv_inference_count{gpu_uuid="GPU-2",model="global_texture",version="1"} 7\n'
        'nv_inference_count{model="voter",version="1"} 12\n'
    )
    assert counters(text) == {("count", "global_texture"): 12.0, ("count", "voter"): 12.0}


def test_rates_count_what_was_scored() -> None:
    assert Level(8, images=100, failed=3, seconds=4.0, latency_ms={}, steps={}).images_per_second == 25.0


def verdict(probability: float, vote: float) -> Verdict:
    streams = {stream.name: StreamVerdict(probability, vote) for stream in STREAMS}
    return Verdict(path=None, status="ok", score=vote, probability=probability, streams=streams)


def test_parity_tells_differences_and_changed_votes() -> None:
    expected = [verdict(0.449, 0.4), verdict(0.2, 0.2)]
    result = compare(expected, [verdict(0.451, 0.5), verdict(0.2, 0.2)])
    assert result["images"] == 2
    for part in (result["ensemble"], *result["streams"].values()):
        assert part["largest"] == pytest.approx(0.002)
        assert part["votes_changed"] == 0.5
    assert compare(expected, expected)["ensemble"]["largest"] == 0


def test_variants_are_different_images_that_can_be_read() -> None:
    items = [((GOLDEN / row["image"]).read_bytes(), row["box"]) for row in ROWS]
    made = variants(items, 40)
    assert made[: len(items)] == items
    assert len({image for image, _ in made}) == 40
    assert all(read_image(image, Limits()).any() for image, _ in made)


def test_samples_are_averaged_and_the_most_memory_kept() -> None:
    """A library of NVIDIA's that answers as the real one does, which needs a GPU."""
    used = iter([3, 7] + [5] * 1000)
    library = SimpleNamespace(
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=50),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=next(used)),
        nvmlDeviceGetPowerUsage=lambda handle: 400_000,
    )
    with Sampler(Gpu("a GPU", "1", 10, library, None)) as sampler:
        while len(sampler._samples) < 3:
            time.sleep(0.01)
    assert sampler.summary() == {"utilisation": 0.5, "memory_peak_bytes": 7.0, "power_watts": 400.0}
    with Sampler(None) as nothing:
        pass
    assert nothing.summary() is None


def test_without_a_gpu_the_command_says_how_to_try_it_dry() -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
        pytest.skip("this machine has a GPU")
    except pynvml.NVMLError:
        result = CliRunner().invoke(main, [])
    assert result.exit_code == 1
    assert "--device cpu" in result.output


@pytest.mark.parametrize("failing", ["tensorrt", "onnxruntime"])
def test_a_runtime_that_fails_leaves_the_figures_of_the_other(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "gpu.json"
    events = []

    def begin(module: str) -> Circumstances:
        events.append("circumstances")
        return circumstances(module)

    def export(*_: object) -> Path:
        events.append("export")
        return tmp_path

    @contextmanager
    def serving(repository: Path, server: str, runtime: str, index: int) -> Iterator[Endpoint]:
        events.append(f"{runtime} after {list(json.loads(output.read_text())['setups']) if output.exists() else []}")
        if runtime == failing:
            raise click.ClickException("the container did not serve")
        yield Endpoint("localhost:1", "http://localhost:1")

    level = asdict(
        Level(1, images=4, failed=0, seconds=2.0, latency_ms=dict.fromkeys(("p50", "p95", "p99"), 1.0), steps={})
    )
    client = MagicMock()
    client.return_value.__enter__.return_value.server_info.return_value.version = "2.51.0"
    replacements = {
        "circumstances": begin,
        "_repository": export,
        "runtimes": lambda *_: ["onnxruntime", "tensorrt"],
        "serving": serving,
        "DetectorClient": client,
        "_measure": lambda *_: [level | {"images_per_second": 2.0, "gpu": None}],
        "verdicts": lambda *_: [],
    }
    for name, replacement in replacements.items():
        monkeypatch.setattr(f"benchmarks.gpu.__main__.{name}", replacement)
    done = CliRunner().invoke(main, ["--device", "cpu", "--parity-images", "0", "--output", str(output)])
    assert done.exit_code == 1
    assert f"not measured: {failing}" in done.output
    result = json.loads(output.read_text())
    (measured,) = {"onnxruntime", "tensorrt"} - {failing}
    assert list(result["setups"]) == [measured]
    assert result["setups"][measured]["levels"][0]["images_per_second"] == 2
    assert result["failures"] == {failing: "the container did not serve"}
    assert result["versions"]["tritonserver"] == "2.51.0"
    # When it began, and the load before it; and a result after each runtime.
    assert events[0] == "circumstances"
    assert events[-1] == ("tensorrt after ['onnxruntime']" if failing == "tensorrt" else "tensorrt after []")


@pytest.mark.server
def test_a_server_on_the_processor_is_not_measured_as_a_gpu(server: Server) -> None:
    with pytest.raises(click.ClickException, match="runs global_texture on the processor"):
        require_gpu(server.url)


@pytest.mark.server
@pytest.mark.slow
def test_a_dry_run_measures_everything_but_the_gpu(tmp_path: Path) -> None:
    output = tmp_path / "results" / "gpu.json"
    options = ["--device", "cpu", "--preset", "tiny", "--seconds", "1", "--parity-images", "10", "--peak", "100"]
    levels = ["--in-flight", "1", "--in-flight", "4"]
    command = [sys.executable, "-m", "benchmarks.gpu", *options, *levels, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(output.read_text())
    setup = result["setups"]["onnxruntime"]
    assert [level["in_flight"] for level in setup["levels"]] == [1, 4]
    for level in setup["levels"]:
        assert level["images"] >= level["in_flight"]
        assert level["failed"] == 0
        assert 0 < level["latency_ms"]["p50"] <= level["latency_ms"]["p95"] <= level["latency_ms"]["p99"]
        assert level["share_of_peak"] == pytest.approx(level["images_per_second"] * tflop_per_image("tiny") / 100)
        steps = {"preprocess", "face_crop", "voter", *(stream.name for stream in STREAMS)}
        assert set(level["steps"]) == steps | {"provenance"}  # which every client asks once
        assert level["gpu"] is None
    assert setup["parity"]["images"] == 10
    assert setup["parity"]["ensemble"] == {"largest": 0.0, "p99_9": 0.0, "votes_changed": 0.0}
    assert not result["failures"]
    assert {"command", "date", "commit", "machine", "versions", "peak_tflops", "goal"} <= set(result)
