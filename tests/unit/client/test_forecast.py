"""What a run would take, from what a probe measured; energy, where it can be read."""

import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from deepfake_client import DetectorClient
from deepfake_client.cli.commands import main
from deepfake_client.cli.group import NO_IMAGES
from deepfake_client.cli.output.energy import meters
from deepfake_client.cli.output.forecast import Forecast, Rate, _draw
from deepfake_client.images.items import Item

from tests.fakes.triton import FakeTriton, serving

FULL = Rate(100, 10.0, {"processors": 500.0}, {}, {}, [9.0, 10.0, 11.0])
EARLY = Rate(200, 10.0, {"processors": 500.0}, {"local_facial": 180}, {}, [19.0, 20.0, 21.0])


def test_hours_energy_and_savings_follow_from_the_probes() -> None:
    found = Forecast(360_000, 2, FULL, EARLY)
    document = json.loads(json.dumps(found.to_dict()))
    assert document["full"]["hours"] == pytest.approx(10)
    assert document["verdict_only"]["hours"] == pytest.approx(5)
    assert document["full"]["kwh"]["processors"] == pytest.approx(0.5)
    text = found.text("unused")
    assert "360000 images, and 2 videos" in text
    assert "all streams: 10 h, 10 images/s" in text
    assert "0.5 kWh of the processors" in text
    assert "saves 50% of the time: not needed is local_facial for 90% of the images" in text


def test_what_cannot_be_read_or_saved_is_said() -> None:
    nothing = Rate(100, 10.0, {}, {})
    found = Forecast(10, 0, nothing, nothing)
    assert found.to_dict()["full"]["kwh"] is None
    assert "energy unknown (no meter)" in found.text("no meter")
    assert "saves no time beyond noise: not needed is no stream for any of the images" in found.text("no meter")


@pytest.mark.parametrize(
    ("rounds", "left_out", "saves"),
    [
        ([12.0, 12.5, 13.0], {"local_facial": 50}, True),
        ([10.5, 12.5, 15.0], {"local_facial": 50}, False),
        ([12.0, 12.5, 13.0], {}, False),
    ],
    ids=["faster in every round", "within what rounds differ by", "no stream left out"],
)
def test_a_saving_is_one_beyond_noise(rounds: list[float], left_out: dict[str, int], saves: bool) -> None:
    found = Forecast(1000, 0, FULL, Rate(125, 10.0, {}, left_out, {}, rounds))
    assert found.saves == (pytest.approx(0.2) if saves else None)
    assert ("saves 20% of the time" in found.text("")) is saves
    assert ("saves no time beyond noise" in found.text("")) is not saves


def test_images_that_fail_are_no_throughput_and_are_told() -> None:
    """They take their time, and are taken to be as frequent in the whole run."""
    half = Rate(50, 10.0, {"processors": 500.0}, {}, {"unreadable_file": 40, "empty_image": 10}, [5.0, 5.0, 5.0])
    found = Forecast(360_000, 0, half, half)
    assert found.to_dict()["full"]["images_per_second"] == pytest.approx(5)
    assert found.to_dict()["full"]["hours"] == pytest.approx(10)
    assert found.to_dict()["full"]["kwh"]["processors"] == pytest.approx(0.5)
    assert "50.0% of the images could not be scored: most often unreadable_file (80% of these)" in found.text("")


def run_forecast(server: FakeTriton, monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> Result:
    monkeypatch.setattr("deepfake_client.cli.output.forecast.PROBE_SECONDS", 0.6)
    # A clock by which each image takes some hundredths of a second, however busy this machine is.
    looks = count()
    clock = SimpleNamespace(monotonic=lambda: next(looks) / 100)
    monkeypatch.setattr("deepfake_client.cli.output.forecast.time", clock)
    # The fake has no ensemble for verdicts alone.
    monkeypatch.setattr(DetectorClient, "deciding", lambda self, threshold: self)
    return CliRunner().invoke(main, ["score", "--url", server.url, "--forecast", *map(str, arguments)])


def test_the_probes_ask_past_the_answers_that_a_server_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.jpg").write_bytes(b"0.3")
    (tmp_path / "1.jpg").write_bytes(b"status:empty_image")
    fresh = list[bool]()
    with serving() as server:
        server.fault = lambda request, context: fresh.append(request.parameters["fresh"].bool_param)
        result = run_forecast(server, monkeypatch, tmp_path, "--format", "jsonl")
    assert result.exit_code == 0, result.output
    assert len(fresh) > 6
    assert all(fresh)
    found = json.loads(result.stdout.splitlines()[-1])
    for probe in (found["full"]["probe"], found["verdict_only"]["probe"]):
        assert abs(probe["images"] - probe["failed"]["empty_image"]) <= 3, "half of the images are empty"


def test_a_client_sends_fresh_only_where_it_is_asked_to() -> None:
    kept = list[bool]()
    with serving() as server:
        server.fault = lambda request, context: kept.append("fresh" not in request.parameters)
        with DetectorClient(server.url) as client:
            client.score(b"0.3")
        with DetectorClient(server.url, fresh=True) as client:
            client.score(b"0.3")
    assert kept == [True, False]


@pytest.mark.parametrize("status", ["unreadable_file", "unreadable_image"])
def test_where_no_image_is_scored_there_is_no_forecast(
    status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number}.jpg" for number in range(2000 if status == "unreadable_file" else 3)]
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    for path in paths if status == "unreadable_image" else ():
        path.write_bytes(b"status:unreadable_image")
    with serving() as server:
        result = run_forecast(server, monkeypatch, "--list", tmp_path / "list.txt")
    assert result.exit_code == NO_IMAGES
    assert f"could be scored, most often {status} (100% of these), " in result.stderr
    assert "images/s" not in result.output


def test_the_sample_is_of_all_images_and_of_no_video(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake_client.cli.output.forecast._SAMPLE", 50)
    items = [Item(f"{n}.jpg") for n in range(1000)] + [Item("clip.mp4")]
    images, videos, sample = _draw(iter(items))
    assert (images, videos, len(set(sample))) == (1000, 1, 50)
    assert 300 < sum(int(str(item.path).removesuffix(".jpg")) for item in sample) / 50 < 700


def test_the_counters_of_all_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    assert "processors" not in meters(tmp_path)
    for name, microjoules in (("intel-rapl:0", "2000000"), ("intel-rapl:1", "500000"), ("intel-rapl:0:0", "9")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")
    assert meters(tmp_path)["processors"]() == pytest.approx(2.5)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    assert meters(tmp_path)["processors"]() == pytest.approx(0.5)
