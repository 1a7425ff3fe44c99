"""What float16 does to probabilities and votes: the measures, and the command that prints them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from ensemble.streams import GLOBAL_TEXTURE, STREAMS
from export import precision
from export.half import study as half_study
from export.half.study import Change, measure_change, random_pixels, whole_image_pixels
from export.precision import main
from tests.golden import IMAGES


def logits_of(probabilities: list[float]) -> np.ndarray:  # type: ignore[type-arg]
    """Logits with these probabilities of fake."""
    values = np.array(probabilities, np.float64)
    return np.stack([np.zeros_like(values), np.log(values / (1 - values))], axis=1).astype(np.float32)


def test_change_counts_votes_not_only_differences() -> None:
    change = measure_change(logits_of([0.24, 0.449, 0.6, 0.9]), logits_of([0.22, 0.451, 0.6, 0.9]))
    assert change.images == 4
    assert change.largest == pytest.approx(0.02, abs=1e-6)
    assert change.p999 == pytest.approx(0.02, abs=1e-3)
    assert change.votes_changed == 0.25, "0.449 is 0.4 and 0.451 is 0.5; 0.24 and 0.22 are both 0.2"


def test_one_image_in_two_thousand_is_not_in_the_percentile() -> None:
    before = [0.5] * 2000
    change = measure_change(logits_of(before), logits_of([0.8, *before[1:]]))
    assert change.largest == pytest.approx(0.3, abs=1e-6)
    assert change.p999 < 1e-6
    assert not change.within("fp16")


@pytest.mark.parametrize(
    ("change", "fp32", "fp16"),
    [
        (Change(9, 5e-4, 5e-4, 0), True, True),
        (Change(9, 1.5e-2, 5e-3, 0), False, True),
        (Change(9, 1.5e-2, 1.5e-2, 0), False, False),
        (Change(9, float("nan"), float("nan"), 0), False, False),
    ],
)
def test_tolerances(change: Change, fp32: bool, fp16: bool) -> None:
    assert (change.within("fp32"), change.within("fp16")) == (fp32, fp16)


def test_images_are_cut_as_the_streams_see_them() -> None:
    images = [IMAGES[0].read_bytes(), b"no image", IMAGES[5].read_bytes()]
    for stream in STREAMS:
        pixels, unreadable = whole_image_pixels(stream, images)
        assert pixels.shape == (2, stream.pixels, stream.pixels, 3)
        assert unreadable == [1]
        assert whole_image_pixels(stream, [])[0].shape == (0, stream.pixels, stream.pixels, 3)
    assert len(np.unique(random_pixels(GLOBAL_TEXTURE, 1))) == 256


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_command_tells_changes_and_headroom_per_stream(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = tmp_path / "photographs" / "deep"
    photographs.mkdir(parents=True)
    for path in IMAGES[:3]:
        (photographs / path.name).write_bytes(path.read_bytes())
    (photographs / "broken.jpg").write_bytes(b"no image")
    output = tmp_path / "precision.json"
    study, kept = precision._study, []
    monkeypatch.setattr(precision, "_study", lambda *arguments: kept.append(study(*arguments)) or kept[0])
    options = ("--images", tmp_path / "photographs", "--random", 2, "--fp8", IMAGES[0].parent, "--json", output)
    result = run("--weights", tiny, *options)
    assert result.exit_code == 0, result.output
    assert "1 of 4 photographs cannot be read" in result.output
    assert "UNTRAINED" in result.output
    report = json.loads(output.read_text())
    assert report["within"] is True
    assert report["untrained"] is True
    assert set(report["streams"]) == {stream.name for stream in STREAMS}
    for stream in report["streams"].values():
        fp32, fp16 = (stream["changes"][name] for name in ("fp32", "fp16"))
        assert {group: change["images"] for group, change in fp16.items()} == {"photos": 3, "random": 2}
        assert set(stream["changes"]) == {"fp32", "fp16", "fp16 sums", "bf16", "fp8"}
        assert fp16["random"]["largest"] < stream["changes"]["fp8"]["random"]["largest"] <= 1
        assert fp16["random"]["largest"] < stream["changes"]["bf16"]["random"]["largest"]
        assert fp32["random"]["largest"] < 1e-4 < fp16["random"]["largest"] < 2e-2
        assert all(0 < each["share"] < 0.01 for each in stream["headroom"])
        *fitting, last = stream["scaled_up"]
        assert [each["gain"] for each in fitting] == [2**power for power in range(len(fitting))]
        assert all(each["overflow"] is None for each in fitting)
        assert last["overflow"]["largest"] > report["float16_largest"]

    monkeypatch.setattr(half_study, "LARGEST_ALLOWED", {**half_study.LARGEST_ALLOWED, "fp16": 1e-6})
    monkeypatch.setattr(precision, "_study", lambda *arguments: kept[0])
    beyond = run("--weights", tiny, "--random", 1)
    assert beyond.exit_code == 1
    assert "above" in beyond.output
    assert "beyond the tolerances" in beyond.output


def test_command_fails_on_weights_that_do_not_fit(tiny: Path, tmp_path: Path) -> None:
    for stream in STREAMS:
        tensors = torch.load(tiny / stream.checkpoint, weights_only=True)
        (key,) = (key for key in tensors if key.endswith("layer.0.mlp.weights_in.bias"))
        tensors[key][0] = 1e5
        torch.save(tensors, tmp_path / stream.checkpoint)
    result = run("--weights", tmp_path, "--random", 1)
    assert result.exit_code == 1
    assert "is beyond float16" in " ".join(result.output.split())


@pytest.mark.parametrize("arguments", [[], ["--random", "0"], ["--images", "nowhere"], ["--batch-size", "0"]])
def test_command_tells_wrong_usage_apart(arguments: list[str], tiny: Path) -> None:
    needed = [] if not arguments else ["--weights", str(tiny)]
    assert run(*needed, *arguments).exit_code == 2


def test_command_wants_photographs_in_the_folder(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    result = run("--weights", tiny, "--images", tmp_path)
    assert result.exit_code == 2
    assert "no photographs" in result.output
    assert ".jpg" in result.output
