"""`python -m forensics calibrate` through the real server: fit, install, serve, apply."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from deepfake_client import STREAM_NAMES, DetectorClient
from deepfake_client.cli import main as client_main
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from ensemble.calibration import Isotonic, OperatingPoint, Platt, Temperature, Vote
from ensemble.calibration_file import Calibration, echo_of, parse_calibration
from forensics.__main__ import main
from forensics.calibrate.install import install_calibration, with_parameters
from forensics.common.errors import ForensicsError
from server.standin.layout import Layout
from tests.backends import start
from tests.conftest import Server, start_server
from tests.golden import BOXES, IMAGES, ROOT
from tests.photographs import write_photographs

CONFIG = ROOT / "model_repository" / "voter" / "config.pbtxt"
VOTE = Vote((Temperature(0.25), Platt(2.0, -0.5), Isotonic((0.1, 0.6), (0.0, 1.0))), (1.0, 3.0, 4.0), 0.05)


def calibrate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, arguments)])


def copy_repository(repository: Path, folder: Path) -> Path:
    return Path(shutil.copytree(repository, folder, ignore=shutil.ignore_patterns("__pycache__")))


def calibration_for(repository: Path) -> Calibration:
    streams = json.loads((repository / "provenance" / "1" / "provenance.json").read_text())["streams"]
    point = OperatingPoint(0.1, 0.5, (0.25, 0.75), 0.1, (0.0, 0.5), 0.5, (0.25, 0.75))
    checkpoints = {name: each["sha256"] for name, each in streams.items()}
    return Calibration("2026-01-02T03:04:05+00:00", True, 100, 100, checkpoints, VOTE, (point,))


@pytest.fixture(scope="module")
def calibrated(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second server, with a calibration installed."""
    folder = tmp_path_factory.mktemp("calibrated")
    repository = copy_repository(tiny_repository, folder / "models")
    install_calibration(repository, calibration_for(repository).to_text())
    running = start_server(repository, folder / "log")
    yield running
    running.stop()


@pytest.mark.server
def test_small_data_keep_the_papers_vote_and_give_operating_points(
    server: Server, tiny_repository: Path, tmp_path: Path
) -> None:
    data = write_photographs(tmp_path / "data", 48)
    repository = copy_repository(tiny_repository, tmp_path / "models")
    output = tmp_path / "out"
    options = ["--url", server.url, "--output", output, "--resamples", 100, "--far", 0.1, "--far", 0.01]
    done = calibrate(data, *options, "--install", repository)
    assert done.exit_code == 0, done.stderr
    assert "UNTRAINED" in done.stderr
    said = " ".join(done.stdout.split())
    assert "No operating point far=0.01: 100 real images are needed, 24 are there." in said
    assert "No groups are named, so every image is taken as independent" in said
    assert "too small to change anything (24 real and 24 fake images, at least 50 of each are needed)" in said

    text = (output / "calibration.json").read_text()
    calibration = parse_calibration(text)
    assert calibration.untrained
    assert (calibration.real, calibration.fake) == (24, 24)
    rows = [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()[1:]]
    real = [row["probability"] for row in rows if "/real/" in row["path"]]
    (point,) = calibration.operating_points
    assert point.threshold in real
    assert sum(value > point.threshold for value in real) / 24 == point.false_alarm_rate <= 0.1
    assert json.loads((output / "calibration-report.json").read_text())["calibration"] == json.loads(text)
    page = (output / "calibration.html").read_text()
    assert "Operating points" in page
    assert "not supported" in page
    assert "the paper&#39;s vote" in page
    assert "UNTRAINED" in page

    assert (repository / "voter" / "1" / "calibration.json").read_text() == text
    config = text_format.Parse((repository / "voter" / "config.pbtxt").read_text(), pb.ModelConfig())
    assert config.parameters["calibration_file"].string_value == "calibration.json"
    assert config.parameters["CALIBRATION"].string_value == echo_of(text)

    again = calibrate(data, *options)
    assert "48 of 48 images were scored before" in again.stderr
    assert json.loads((output / "calibration.json").read_text()) | {"created": ""} == json.loads(text) | {"created": ""}

    groups = {path: f"{path.parent.name}-{number % 3}" for number, path in enumerate(sorted(data.rglob("*.jpg")))}
    lines = [f"{path.relative_to(data)},{path.parent.name},{group}" for path, group in groups.items()]
    (data / "labels.csv").write_text("\n".join(["path,label,group", *lines]))
    grouped = calibrate(data / "labels.csv", *options)
    assert grouped.exit_code == 0, grouped.stderr
    assert "48 of 48 images were scored before" in grouped.stderr
    said = " ".join(grouped.stdout.split())
    assert "24 real images are of 3 groups; 24 fake images are of 3 groups" in said
    assert "No operating point far=0.1: 10 real groups are needed, 3 are there. On groups left out" in said
    assert "too small to change anything (3 real and 3 fake groups, at least 50 of each are needed)" in said
    assert parse_calibration((output / "calibration.json").read_text()).operating_points == ()
    report = json.loads((output / "calibration-report.json").read_text())
    assert report["groups"] == {"named": True, "real": 3, "fake": 3, "independent_real": 3, "independent_fake": 3}
    assert [(each["far"], each["needed"], each["supported"]) for each in report["support"]] == [
        (0.01, 100, False),
        (0.1, 10, False),
    ]
    assert all("not supported by these data" in each["reason"] for each in report["support"])


@pytest.mark.server
def test_the_voter_gives_the_calibrated_vote_and_tells_clients(server: Server, calibrated: Server) -> None:
    items = [(path, BOXES[path.name]) for path in IMAGES]
    with DetectorClient(server.url) as plain, DetectorClient(calibrated.url) as other:
        raw, mapped = list(plain.score_many(items)), list(other.score_many(items))
        assert plain.calibration().document is None
        calibration = other.calibration()
    probabilities = np.array([[each.streams[n].probability for n in STREAM_NAMES] for each in raw], np.float32)
    expected = VOTE.score(probabilities)
    np.testing.assert_allclose([each.score for each in mapped], expected.score, atol=1e-6)
    np.testing.assert_allclose([each.probability for each in mapped], expected.probability, atol=1e-4)
    for index, name in enumerate(STREAM_NAMES):
        found = [each.streams[name].probability for each in mapped]
        np.testing.assert_allclose(found, expected.stream_probabilities[:, index], atol=1e-4)
        np.testing.assert_allclose([e.streams[name].vote for e in mapped], expected.stream_votes[:, index], atol=1e-6)
    assert calibration.document == json.loads(calibration_for(calibrated.repository).to_text())
    assert calibration.operating_point(0.1).threshold == 0.5


@pytest.mark.server
def test_operating_point_is_applied_and_no_calibration_is_fitted_on_another(calibrated: Server, tmp_path: Path) -> None:
    command = ["score", str(IMAGES[0].parent), "--operating-point", "far=0.1", "--url", calibrated.url]
    done = CliRunner().invoke(client_main, command)
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(IMAGES)
    assert all(row["verdict"] == ("fake" if row["probability"] > 0.5 else "real") for row in rows)
    data = write_photographs(tmp_path / "data", 16)
    refused = calibrate(data, "--url", calibrated.url, "--output", tmp_path / "out")
    assert refused.exit_code == 1
    assert "has a calibration in force" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.server
@pytest.mark.slow
def test_a_server_does_not_start_with_a_calibration_that_is_missing(tiny_repository: Path, tmp_path: Path) -> None:
    repository = copy_repository(tiny_repository, tmp_path / "models")
    install_calibration(repository, calibration_for(repository).to_text()).unlink()
    with pytest.raises(RuntimeError, match="a calibration cannot be read"):
        start_server(repository, tmp_path / "log")


@pytest.mark.server
@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"map": {"kind": "isotonic", "x": [0.1, 0.6], "y": [0.0, 1.0]}}, ""),
        ({"map": {"kind": "isotonic", "x": [0.1, 0.6], "y": [1.0, 0.0]}}, "must have rising x and y that never fall"),
        ({"map": {"kind": "platt", "slope": -2.0, "intercept": 0.0}}, "slope is -2.0; it must lie in"),
        ({"weight": -1.0}, "weight is -1.0; it must lie in"),
    ],
    ids=["rising", "falling line", "falling slope", "falling weight"],
)
def test_the_step_that_decides_early_loads_with_a_rising_vote_alone(
    tiny_repository: Path, layout: Layout, tmp_path: Path, entry: dict[str, Any], told: str
) -> None:
    """A vote that falls where a stream's probability rises is bounded by nothing, so no verdict could be early."""
    repository = copy_repository(tiny_repository, tmp_path / "models")
    document = json.loads(calibration_for(repository).to_text())
    document["streams"]["semantic_fusion"] |= entry
    install_calibration(repository, calibration_for(repository).to_text()).write_text(text := json.dumps(document))
    config = repository / "voter" / "config.pbtxt"
    config.write_text(with_parameters(config.read_text(), {"CALIBRATION": echo_of(text)}))
    log: list[str] = []
    alone = ("--model-control-mode=explicit", "--load-model=decision")
    process, client = start(layout, repository, log, *alone)
    try:
        loaded = process.exit_status() is None and client.is_model_ready("decision")
        assert loaded == (not told), log
        assert not told or any("decision" in line and told in line for line in log), log
    finally:
        client.close()
        process.kill()


def test_installing_changes_the_two_parameters_and_nothing_else() -> None:
    before = CONFIG.read_text()
    awkward = 'a "quoted" \\ back\\slash\nand a line'
    after = with_parameters(before, {"CALIBRATION": awkward})
    assert text_format.Parse(after, pb.ModelConfig()).parameters["CALIBRATION"].string_value == awkward
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == 1
    assert with_parameters(after, {"CALIBRATION": "paper"}) == before


def test_a_voter_without_the_parameter_is_told(tmp_path: Path) -> None:
    with pytest.raises(ForensicsError, match="must have this line once, and has it 0 times"):
        with_parameters('name: "voter"', {"CALIBRATION": "x"})
    with pytest.raises(ForensicsError, match=r"config\.pbtxt is not there"):
        install_calibration(tmp_path, "{}")


def test_a_calibration_of_other_weights_is_not_installed(tmp_path: Path) -> None:
    voter, provenance = tmp_path / "voter", tmp_path / "provenance" / "1"
    (voter / "1").mkdir(parents=True)
    provenance.mkdir(parents=True)
    (voter / "config.pbtxt").write_text(CONFIG.read_text())
    streams = {name: {"sha256": "another"} for name in STREAM_NAMES}
    (provenance / "provenance.json").write_text(json.dumps({"streams": streams}))
    checkpoints = dict.fromkeys(STREAM_NAMES, "fitted")
    text = Calibration("2026-01-02", False, 100, 100, checkpoints, VOTE, ()).to_text()
    with pytest.raises(ForensicsError, match=r"not installed: .*fitted on other checkpoints"):
        install_calibration(tmp_path, text)
    assert (voter / "config.pbtxt").read_text() == CONFIG.read_text()
    assert list((voter / "1").iterdir()) == []
