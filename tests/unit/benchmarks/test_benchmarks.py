"""The benchmarks' parts that need no server."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from deepfake_client import Verdict
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks.__main__ import main
from benchmarks.baselines.authors import Authors
from benchmarks.baselines.runtime import openvino_properties, runtime_of, session_options
from benchmarks.common.machine import ROOT, Circumstances, Machine, circumstances
from benchmarks.common.noise import Interval, chance, corrected, ratio_of_medians
from benchmarks.common.result import Figure, Ratio, Result, ResultError, read, write
from benchmarks.common.serving import counter
from benchmarks.comparison.goals import COMPARISONS, ratios
from benchmarks.comparison.measure import PLAN
from benchmarks.comparison.rounds import SERVER, measure_in_turn
from benchmarks.exporting import Exported, peak_of
from benchmarks.failover import DIFFERENT, Faults, Opinion, find_faults, pieces
from benchmarks.load.perf_analyzer import Latency, Load, parse_latency
from benchmarks.load.statistics import STEPS, Counters, steps
from benchmarks.load.workloads import MAIN, OTHERS, Item, items, write_perf_analyzer_input
from benchmarks.overload import Outcome, errors
from benchmarks.report.changes import IncomparableError, change_table, check_comparable, compare
from benchmarks.report.tables import ratio_table
from benchmarks.soak import SAMPLES, Memory
from ensemble.images import decode
from ensemble.streams import STREAMS, Stream
from ensemble.voting import WEIGHTS
from networks import write_random_weights
from tests.backends import backend_module
from tests.golden import GOLDEN, ROWS

# What perf_analyzer 2.50 wrote with -f and --verbose-csv.
CLOSED_REPORT = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency,Avg latency,\
request/response,response wait
32,25.3397,4,0,0,24083,1554641,58081,2,1076999,1948702,2433278,2437238,1215121,6,1215028
"""
OPEN_REPORT = CLOSED_REPORT.replace("Concurrency", "Request Rate").replace("\n32,", "\n20.5,")

WAYS = ("ensemble", "client", "one process", "authors", "backbones")
MACHINE = Machine("AMD EPYC", 2, 24, True)
BEGUN = Circumstances(
    command="python -m benchmarks",
    date="2026-11-25T02:00:00+00:00",
    commit="abc1234",
    dirty=False,
    machine=MACHINE,
    versions={"numpy": "1.26.4"},
    load_average=0.1,
)


def result_of(**rounds: list[float]) -> Result:
    figures = [
        Figure({"preset": "tiny", "concurrency": 4}, name, "images/s", "lower" if name == "p50" else "higher", values)
        for name, values in rounds.items()
    ]
    return Result("serving", "speed", BEGUN, {"rounds": 4}, figures)


@pytest.mark.parametrize("report", [CLOSED_REPORT, OPEN_REPORT, CLOSED_REPORT + "\nModel,more\nx,1\n"])
def test_latencies_of_perf_analyzer_become_seconds(report: str) -> None:
    assert parse_latency(report) == Latency(mean=1.215121, p50=1.076999, p90=1.948702, p95=2.433278, p99=2.437238)


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ("", "0 rows"),
        (CLOSED_REPORT + CLOSED_REPORT.splitlines()[1] + "\n", "2 rows"),
        (CLOSED_REPORT.replace("Avg latency", "Average"), "lacks a latency .'Avg latency'"),
        (CLOSED_REPORT.replace(",1076999,", ",n/a,"), "lacks a latency"),
    ],
)
def test_another_report_is_refused(report: str, reason: str) -> None:
    with pytest.raises(click.ClickException, match=reason):
        parse_latency(report)


def test_loads_become_options_of_perf_analyzer() -> None:
    assert Load(8, concurrency=4).options() == ["-b8", "--concurrency-range=4"]
    assert Load(1, request_rate=12.5).options()[1:] == [
        "--request-rate-range=12.5:12.5:1",
        "--request-distribution=poisson",
    ]


def test_perf_analyzer_gets_the_images_and_boxes(tmp_path: Path) -> None:
    images = [Item(b"one", (1.0, 2.0, 3.0, 4.0)), Item(b"\xff\x00two", None)]
    write_perf_analyzer_input(tmp_path / "input.json", images)
    first, second = json.loads((tmp_path / "input.json").read_text())["data"]
    assert base64.b64decode(first["IMAGE"]["b64"]) == b"\x03\x00\x00\x00one"
    assert base64.b64decode(second["IMAGE"]["b64"]) == b"\x05\x00\x00\x00\xff\x00two"
    assert first["FACE_BOX"]["content"] == [1, 2, 3, 4]
    assert "FACE_BOX" not in second


def test_workloads_hold_different_images_of_the_kind() -> None:
    for workload in (MAIN, *OTHERS):
        images = items(workload)
        assert len({image.data for image in images}) == len(images) > 4
        assert all(
            image.data.startswith(b"\xff\xd8" if workload.encoding == "jpeg" else b"\x89PNG") for image in images
        )
        assert all((image.box is not None) == (workload.face == "supplied") for image in images)
        assert decode(images[0].data).shape == (256, 256, 3)


def test_steps_share_what_was_computed_between_two_readings() -> None:
    before = {name: Counters(100, 100, 100, 10**9, (1, 2, 3)) for name in STEPS}
    spent = Counters(images=16, requests=4, executions=2, queue=8 * 10**9, parts=(16 * 10**6, 32 * 10**6, 0))
    after = {name: each + spent for name, each in before.items()}
    found = steps([(before, after), (before, after)])
    assert [each.model for each in found] == list(STEPS)
    assert sum(each.share for each in found) == pytest.approx(1)
    assert (found[0].mean_batch, found[0].queue, found[0].input, found[0].infer) == pytest.approx((8, 2, 0.001, 0.002))


def test_steps_that_did_nothing_are_left_out() -> None:
    idle = dict.fromkeys(STEPS, Counters())
    busy = idle | {"voter": Counters(1, 1, 1, 1, (1, 1, 1))}
    assert [each.model for each in steps([(idle, busy)])] == ["voter"]


def test_an_interval_holds_the_ratio_and_shrinks_with_the_noise() -> None:
    steady = ratio_of_medians([10.0, 10.1, 9.9, 10.0], [5.0, 5.05, 4.95, 5.0], paired=True)
    noisy = ratio_of_medians([10.0, 14.0, 6.0, 10.0], [5.0, 4.0, 6.0, 5.0], paired=False)
    assert steady.low <= steady.value <= steady.high
    assert steady.value == pytest.approx(2)
    assert noisy.high - noisy.low > 10 * (steady.high - steady.low)
    assert ratio_of_medians([3.0], [2.0], paired=True).high == 1.5


def test_chances_are_those_of_the_t_test_corrected_for_their_number() -> None:
    assert chance([1, 2, 3, 4], [2, 3, 4, 5]) == pytest.approx(0.3153, abs=1e-4)
    assert chance([1, 2, 3, 4], [1.1, 2.1, 2.9, 3.9]) > 0.5
    assert [chance([1.0] * 4, [value] * 4) for value in (1.0, 2.0)] == [1, 0]
    assert corrected([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert corrected([0.6, 0.7]) == [1, 1]
    assert corrected([]) == []


def test_ratios_have_the_goals_of_their_preset() -> None:
    throughputs = {way: [2.0, 2.0] for each in COMPARISONS for way in (each.over, each.under)} | {"authors": [1.0, 1.1]}
    found = {each.name: each for each in ratios("small", throughputs)}
    assert (found["ensemble / authors"].goal, found["ensemble / authors"].met) == (2.0, False)
    assert (found["ensemble / one process"].goal, found["ensemble / one process"].met) == (0.95, True)
    assert (found["ensemble / backbones"].goal, found["ensemble / backbones"].met) == (None, None)
    assert found["client / perf_analyzer"].met


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.99, 0.96, 1.02, "met"),
        (0.99, 0.95, 1.02, "met"),
        (0.99, 0.90, 1.02, "met, but within noise"),
        (0.94, 0.90, 0.97, "not met, but within noise"),
        (0.94, 0.90, 0.949, "not met"),
        (0.95, 0.95, 0.95, "met"),  # one round
        (0.94, 0.94, 0.94, "not met"),
    ],
)
def test_a_goal_within_the_interval_is_told(value: float, low: float, high: float, verdict: str) -> None:
    ratio = Ratio("a / b", "tiny", value, low, high, 0.95, value >= 0.95)
    assert ratio.verdict == verdict
    assert ratio_table([ratio]).rows[0][-1] == verdict
    assert replace(ratio, goal=None, met=None).verdict == ""


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = replace(result_of(throughput=[1.0, 2.0]), ratios=ratios("tiny", {way: [1.0, 1.5] for way in WAYS}))
    write(tmp_path / "new" / "result.json", result)
    assert read(tmp_path / "new" / "result.json") == result


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 0}', '{"schema": 1}', '{"schema": 1, "circumstances": 3}']
)
def test_what_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ResultError, match=r"x\.json"):
        read(tmp_path / "x.json")


OLD = [10.0, 10.2, 9.9, 10.1]


@pytest.mark.parametrize(
    ("new", "throughput", "latency"),
    [
        ([value * 1.3 for value in OLD], "better", "worse"),
        ([value * 0.7 for value in OLD], "worse", "better"),
        ([value * 1.03 for value in OLD], "same", "same"),  # certain, and too small to matter
        ([10.0, 14.0, 9.0, 13.0], "same", "same"),  # large, and not certain
        ([13.0, 13.1], "unknown", "unknown"),
    ],
)
def test_a_change_is_told_from_noise(new: list[float], throughput: str, latency: str) -> None:
    changes, alone = compare(result_of(throughput=OLD, p50=OLD), result_of(throughput=new, p50=new), 0.05)
    assert [each.verdict for each in changes] == [throughput, latency]
    assert not alone


def simulated(rng: np.random.Generator, factor: float = 1.0) -> Result:
    """As many figures as `make bench` has of one preset, with as much noise; `factor` is on the compared server.

    Throughputs of the comparison have 3 % (the client 8 %), those of the loads 5 %, latencies 5 to 30 % and a long
    tail.
    """
    figures = []
    for way, noise in {"ensemble": 0.03, "client": 0.08, "one process": 0.03, "authors": 0.03}.items():
        faster = factor if way in ("ensemble", "client") else 1.0
        rounds = 50 * faster * np.exp(rng.normal(0, noise, PLAN.rounds))
        figures.append(Figure({"load": "comparison", "way": way}, "throughput", "images/s", "higher", list(rounds)))
    for level in range(13):
        rounds = 50 * np.exp(rng.normal(0, 0.05, PLAN.rounds))
        figures.append(Figure({"concurrency": level}, "throughput", "images/s", "higher", list(rounds)))
        for metric, noise in {"p50": 0.05, "p95": 0.15, "p99": 0.3}.items():
            rounds = 0.1 * np.exp(noise * (rng.exponential(1, PLAN.rounds) - 1))
            figures.append(Figure({"concurrency": level}, metric, "s", "lower", list(rounds)))
    return replace(result_of(), figures=figures)


def alarms(comparisons: int, factor: float) -> float:
    """The share of comparisons with something worse."""
    rng = np.random.default_rng(7)
    pairs = [(simulated(rng), simulated(rng, factor)) for _ in range(comparisons)]
    with patch(
        "benchmarks.report.changes.ratio_of_medians", ratio_without_interval
    ):  # the bootstrap takes the time, and is told only
        return sum(any(each.verdict == "worse" for each in compare(*pair, 0.05)[0]) for pair in pairs) / comparisons


def ratio_without_interval(over: list[float], under: list[float], *, paired: bool) -> Interval:
    value = float(np.median(over) / np.median(under))
    return Interval(value, value, value)


def test_identical_code_is_seldom_called_worse_and_a_fifth_is_seen() -> None:
    assert alarms(200, 1.0) <= 0.05
    assert alarms(100, 0.85) >= 0.95
    assert alarms(100, 0.8) == 1


def test_figures_of_one_result_alone_are_named() -> None:
    changes, alone = compare(result_of(throughput=OLD), result_of(p50=OLD), 0.05)
    assert not changes
    assert alone == ["tiny · concurrency 4 · throughput", "tiny · concurrency 4 · p50"]
    assert not change_table(changes, everything=True).rows


def test_other_machines_are_refused_unless_asked_for() -> None:
    old = result_of(throughput=OLD)
    new = replace(old, circumstances=replace(BEGUN, machine=replace(MACHINE, cores=64), versions={"numpy": "1.26.5"}))
    with pytest.raises(IncomparableError, match=r"2 cores.*64 cores.*--different-machines"):
        check_comparable(old, new, other_machine=False)
    assert check_comparable(old, new, other_machine=True)[1] == "numpy: 1.26.4 → 1.26.5"
    with pytest.raises(IncomparableError, match="'soak'"):
        check_comparable(old, replace(old, benchmark="soak"), other_machine=True)


def test_compare_exits_with_what_it_found(tmp_path: Path) -> None:
    for name, factor in (("old", 1.0), ("faster", 1.5), ("slower", 0.5)):
        write(tmp_path / name / "result.json", result_of(throughput=[value * factor for value in OLD]))
    codes = {
        new: CliRunner().invoke(main, ["compare", str(tmp_path / "old"), str(tmp_path / new)])
        for new in ("old", "faster", "slower")
    }
    assert {name: done.exit_code for name, done in codes.items()} == {"old": 0, "faster": 0, "slower": 1}
    assert "1 worse" in codes["slower"].output
    (tmp_path / "other.json").write_text("{}")
    assert CliRunner().invoke(main, ["compare", str(tmp_path / "old"), str(tmp_path / "other.json")]).exit_code == 2


def test_ways_that_disagree_are_not_compared() -> None:
    class Way:
        def __init__(self, answer: float) -> None:
            self.answer = answer

        def __enter__(self) -> "Way":
            return self

        def __exit__(self, *_: object) -> None: ...

        def measure(self) -> dict[str, float]:
            return {str(self.answer): 1.0}

        def answers(self, images: list[Item]) -> list[float]:
            return [self.answer] * len(images)

    near, far = {SERVER: lambda: Way(0.5), "a": lambda: Way(0.51)}, {SERVER: lambda: Way(0.5), "a": lambda: Way(0.7)}
    found, apart = measure_in_turn(near, 3, together=False, advance=lambda: None)
    assert found == {"0.5": [1.0] * 3, "0.51": [1.0] * 3}
    assert apart["a"] == pytest.approx(0.01)
    with pytest.raises(click.ClickException, match=r"0\.200 apart"):
        measure_in_turn(far, 1, together=True, advance=lambda: None)


def configuration(file: str) -> Any:
    """A model's configuration as a backend is given it."""
    text = (ROOT / "model_repository" / file).read_text()
    message = text_format.Parse(text, ModelConfig())
    return json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True))


SPINNING = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning")
SETTINGS = (
    "intra_op_num_threads",
    "inter_op_num_threads",
    "execution_mode",
    "graph_optimization_level",
    "enable_cpu_mem_arena",
    "enable_mem_pattern",
)


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_baselines_have_the_server_s_options(stream: Stream) -> None:
    with backend_module("onnxruntime") as backend:
        theirs = backend.session_options(configuration(f"{stream.name}/config.pbtxt"))
    ours = session_options()
    assert [getattr(ours, name) for name in SETTINGS] == [getattr(theirs, name) for name in SETTINGS]
    for entry in SPINNING:
        assert ours.get_session_config_entry(entry) == theirs.get_session_config_entry(entry) == "0"


@pytest.mark.parametrize("bfloat16", [True, False])
def test_baselines_have_the_server_s_properties_of_openvino(bfloat16: bool) -> None:
    pytest.importorskip("openvino")
    for stream in STREAMS:
        file = f"{stream.name}/configs/openvino.pbtxt"
        with backend_module("openvino") as backend:
            theirs = backend.properties(configuration(file), bfloat16=bfloat16)
        runtime = runtime_of(json_format.ParseDict(configuration(file), ModelConfig()), bfloat16=bfloat16)
        assert openvino_properties(runtime) == theirs


def test_the_authors_way_gives_the_golden_probabilities(tmp_path: Path) -> None:
    write_random_weights(tmp_path, "tiny")
    images = [Item((GOLDEN / "images" / row["image"]).read_bytes(), tuple(row["box"])) for row in ROWS]
    expected = [
        np.average([row[stream]["prob_fake"] for stream in ("global", "local", "semantic")], weights=WEIGHTS)
        for row in ROWS
    ]
    np.testing.assert_allclose(Authors(tmp_path).score(images), expected, rtol=0, atol=1e-5)


def test_an_export_is_held_to_the_limit_where_its_checkpoint_is_large() -> None:
    def exported(peak: float, checkpoint: float) -> Exported:
        return Exported("global_texture", 1.0, int(peak * 1e9), int(checkpoint * 1e9))

    assert exported(5.9, 4.6).within is True
    assert exported(6.1, 4.6).within is False
    assert exported(0.5, 0.003).within is None


def test_peak_memory_is_the_process_s_own() -> None:
    assert peak_of("Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  500 kB\nVmRSS:\t  400 kB\n") == 500 * 1024
    assert peak_of(Path("/proc/self/status").read_text()) >= psutil.Process().memory_info().rss // 2


def test_errors_of_an_overload_are_told_by_code() -> None:
    refused = [Outcome(0, 0.1 * number, "UNAVAILABLE", True, "full") for number in range(3)]
    first, second = errors([Outcome(0, 9, "INVALID_ARGUMENT", False, "bad"), *refused])
    assert (first["code"], first["count"], first["retryable"], first["message"]) == ("UNAVAILABLE", 3, True, "full")
    assert first["slowest_seconds"] == pytest.approx(0.2)
    assert (second["code"], second["retryable"]) == ("INVALID_ARGUMENT", False)


EXPECTED: dict[str, Opinion] = {f"{number}.png": (0.2, 0.2 + number / 1000) for number in range(21)}
RIGHT = list(EXPECTED.items())


def exchanged(one: slice, other: slice) -> list[tuple[str, Opinion]]:
    """Rows of a run in which two requests got each other's answers: paths stay, verdicts change places."""
    opinions = [opinion for _, opinion in RIGHT]
    opinions[one], opinions[other] = opinions[other], opinions[one]
    return list(zip(EXPECTED, opinions, strict=True))


@pytest.mark.parametrize(
    ("rows", "faults"),
    [
        (RIGHT, Faults(0, 0, 0, True)),
        ([(path, (score, p + 1e-7)) for path, (score, p) in EXPECTED.items() if p], Faults(0, 0, 0, True)),
        (exchanged(slice(0, 7), slice(7, 14)), Faults(0, 0, 14, True)),
        (exchanged(slice(3, 4), slice(4, 5)), Faults(0, 0, 2, True)),
        (RIGHT[:-2], Faults(2, 0, 0, False)),
        ([*RIGHT[:3], *RIGHT[2:]], Faults(0, 1, 0, False)),
        ([*RIGHT[:3], RIGHT[2], *RIGHT[4:]], Faults(1, 1, 0, False)),
        (RIGHT[::-1], Faults(0, 0, 0, False)),
        ([*RIGHT[:-1], ("20.png", (None, None))], Faults(0, 0, 1, True)),
        ([*RIGHT[:-1], ("20.png", (0.3, 0.22))], Faults(0, 0, 1, True)),
        ([*RIGHT, ("other.png", (0.2, 0.2))], Faults(0, 0, 1, False)),
    ],
)
def test_a_failover_that_went_wrong_is_told(rows: list[tuple[str, Opinion]], faults: Faults) -> None:
    assert find_faults(EXPECTED, rows) == faults
    assert faults.none == (faults == Faults(0, 0, 0, True))


def test_requests_of_a_failover_hold_different_images() -> None:
    images = pieces(DIFFERENT)
    assert len({image.data for image in images}) == DIFFERENT
    requests = {tuple(n % DIFFERENT for n in range(start, start + 7)) for start in range(0, 5000, 7)}
    assert len(requests) == len(range(0, 5000, 7))


def test_a_soak_tells_the_verdicts_of_its_images_apart() -> None:
    verdicts = [Verdict(None, "ok", score=each.score, probability=each.probability) for each in SAMPLES]
    for number, sample in enumerate(SAMPLES):
        assert [sample.has(verdict) for verdict in verdicts] == [number == n for n in range(len(SAMPLES))]
    assert not SAMPLES[0].has(Verdict(None, "failed"))


def test_counters_are_read_of_one_model_or_of_all(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.write_text('# HELP a_b\na_b{model="x",version="1"} 3\na_b{model="y",version="1"} 4\na_bc{model="x"} 9\n')
    assert [counter(metrics.as_uri(), "a_b", model) for model in ("x", "y", "z", "")] == [3, 4, 0, 7]


def test_growth_of_memory_leaves_the_start_out() -> None:
    warming_up = [100.0] * 2 + [200.0] * 18
    assert Memory().growth(warming_up) == 1
    assert Memory().growth([100.0 + 10 * number for number in range(20)]) > 2


def test_what_spoils_the_figures_is_told() -> None:
    assert not BEGUN.warnings
    assert replace(BEGUN, load_average=0.5).warnings == []
    (busy, changed) = replace(BEGUN, load_average=0.51, dirty=True).warnings
    assert "load average 0.51" in busy
    assert "not committed" in changed


def test_a_command_is_recorded_without_the_folders_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "/srv/models", "--output=/srv/new.json", "--only", "results/old.json"])
    assert (
        circumstances("benchmarks").command == "python -m benchmarks models --output=new.json --only results/old.json"
    )


def test_circumstances_say_what_ran_where() -> None:
    found = circumstances("benchmarks")
    assert found.command.startswith("python -m benchmarks")
    assert found.versions["perf_analyzer"] == "2.50.0"
    assert {"tritonserver", "onnxruntime", "torch", "numpy", "python"} <= found.versions.keys()
    assert found.machine.cores >= 1
