"""What a run would take, from what a probe measured; energy, where it can be read."""

import json
from pathlib import Path

import pytest
from deepfake_client.cli.output.energy import meters
from deepfake_client.cli.output.forecast import Forecast, Rate, _draw
from deepfake_client.images.items import Item

FULL = Rate(100, 10.0, {"processors": 500.0}, {})
EARLY = Rate(200, 10.0, {"processors": 500.0}, {"local_facial": 180})


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
    assert "saves no time: not needed is no stream for any of the images" in found.text("no meter")


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
