"""Operating points in the client: read from the server, applied to verdicts, refused in plain words."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from deepfake_client import (
    AsyncDetectorClient,
    Calibration,
    DetectorClient,
    InvalidResponseError,
    OperatingPoint,
    Verdict,
)
from deepfake_client.cli import main
from tritonclient.grpc import service_pb2 as pb

from ensemble.calibration_file import echo_of
from tests.fakes.triton import FakeTriton
from tests.unit.ensemble.test_calibration_file import CALIBRATION, POINT


class CalibratedTriton(FakeTriton):
    """A server whose voter says what its vote was calibrated with; None: a voter that says nothing."""

    echo: str | None = echo_of(CALIBRATION.to_text())

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        if request.name != "voter":
            return super().ModelConfig(request, context)
        response = pb.ModelConfigResponse()
        if self.echo is not None:
            response.config.parameters["CALIBRATION"].string_value = self.echo
        return response


@pytest.fixture
def server() -> Iterator[CalibratedTriton]:
    server = CalibratedTriton()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, score in (("low.jpg", 0.6), ("edge.jpg", POINT.threshold), ("high.jpg", 0.8)):
        (tmp_path / name).write_bytes(str(score).encode())
    (tmp_path / "broken.jpg").write_bytes(b"status:unreadable_image")
    return tmp_path


def score(server: FakeTriton, *arguments: Any) -> Result:
    return CliRunner().invoke(main, ["score", *map(str, arguments), "--url", server.url])


def test_both_clients_read_what_is_in_force(server: CalibratedTriton) -> None:
    async def ask() -> Any:
        async with AsyncDetectorClient(server.url) as client:
            return await client.calibration()

    with DetectorClient(server.url) as client:
        calibration = client.calibration()
        assert calibration == asyncio.run(ask())
        assert calibration.document == json.loads(CALIBRATION.to_text())
        assert calibration.operating_points == (OperatingPoint(0.01, 0.75, (0.0, 0.03125)),)
        server.echo = "paper"
        assert client.calibration().document is None
        server.echo = None
        assert client.calibration() is None
        server.echo = '{"operating_points": [{"far": "?"}]}'
        with pytest.raises(InvalidResponseError, match="calibration is not understood"):
            client.calibration()


def test_an_operating_point_decides_by_probability() -> None:
    point = OperatingPoint(0.01, 0.75, (0.0, 0.1))
    for probability, expected in ((0.7, "real"), (0.75, "real"), (0.7500001, "fake")):
        assert point.apply(Verdict("a", "ok", 0.5, probability)).verdict == expected
    assert point.apply(Verdict("a", "empty_image")).verdict is None


def test_score_applies_the_operating_point_and_says_so(server: CalibratedTriton, photos: Path) -> None:
    result = score(server, photos, "--operating-point", "far=0.01")
    rows = {Path(row["path"]).stem: row["verdict"] for row in map(json.loads, result.stdout.splitlines())}
    assert rows == {"low": "real", "edge": "real", "high": "fake", "broken": None}
    assert "far=0.01: fake above a probability of 0.75 (false alarms expected: 0.00% to 3.12%)" in result.stderr
    assert "2 real, 1 fake" in result.stderr
    without = score(server, photos)
    assert [json.loads(line)["verdict"] for line in without.stdout.splitlines()].count("fake") == 3


@pytest.mark.parametrize(
    ("echo", "option", "message"),
    [
        (CalibratedTriton.echo, "far=0.02", "no operating point far=0.02; it has far=0.01"),
        ("paper", "far=0.01", "has no operating points; make some with `python -m forensics calibrate`"),
        (None, "far=0.01", "does not say which operating points"),
        ("paper", "0.01", "must be far= and a false-alarm rate from 0 to 1, such as far=0.01"),
        ("paper", "far=2", "must be far="),
        ("paper", "far=nan", "must be far="),
        ("paper", "tpr=0.5", "must be far="),
    ],
)
def test_what_the_server_does_not_have_is_a_wrong_command_line(
    server: CalibratedTriton, photos: Path, tmp_path: Path, echo: str | None, option: str, message: str
) -> None:
    server.echo = echo
    output = tmp_path / "old.csv"
    output.write_text("old")
    result = score(server, photos, "--operating-point", option, "--output", output)
    assert result.exit_code == 2
    assert message in result.stderr
    assert output.read_text() == "old"


def test_info_says_which_vote_is_in_force(server: CalibratedTriton) -> None:
    def info() -> str:
        return CliRunner().invoke(main, ["info", "--url", server.url]).stdout

    assert "calibrated 2026-01-02T03:04:05+00:00; operating points: far=0.01" in info()
    server.echo = "paper"
    assert "the published method's own; no operating points" in info()
    server.echo = None
    assert "unknown: the server does not say" in info()


def test_rows_of_another_calibration_are_not_gone_on_with(server: CalibratedTriton, photos: Path) -> None:
    output = photos / "scores.csv"
    assert score(server, photos, "-o", output).exit_code == 1
    assert "4 rows from before: going on" in score(server, photos, "-o", output).stderr
    server.echo = "paper"
    assert "other calibration" in score(server, photos, "-o", output).stderr
    server.echo = echo_of(CALIBRATION.to_text())
    assert "other operating point" in score(server, photos, "-o", output, "--operating-point", "far=0.01").stderr


def test_an_operating_point_is_that_of_the_rate_and_of_no_other() -> None:
    points = tuple(OperatingPoint(far, 0.5, (0.0, 1.0)) for far in (0.01, 0.1))
    assert Calibration(None, points).operating_point(0.1) is points[1]
    for far in (0.001, 0.05, 0.5):
        with pytest.raises(LookupError, match=r"it has far=0\.01, far=0\.1"):
            Calibration(None, points).operating_point(far)
