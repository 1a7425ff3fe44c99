"""What float16 does to probabilities and votes: the measures, and the command that prints them."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from torch import nn

from ensemble.streams import GLOBAL_TEXTURE, STREAMS, Stream
from export import precision
from export.half import study as half_study
from export.half.arithmetic import STREAM, HalfArithmetic, Range
from export.half.report import describe, finite, print_report
from export.half.study import (
    Change,
    Gain,
    StreamStudy,
    measure_change,
    random_pixels,
    search_overflow,
    study_stream,
    whole_image_pixels,
)
from export.precision import main
from tests.golden import IMAGES, read_rgb


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
    assert change.within("fp16 sums") is fp16, "sums in half are to be no worse"
    assert change.within("fp8"), "no tolerance judges an experiment"


@pytest.mark.parametrize(
    ("way", "largest", "p999"),
    [("fp32", 1e-3, 1e-3), ("fp16", 2e-2, 1e-2), ("fp16 sums", 2e-2, 1e-2), ("bf16", 8e-2, 8e-2)],
)
def test_what_is_just_allowed(way: str, largest: float, p999: float) -> None:
    assert Change(9, largest, p999, 1).within(way)
    assert not Change(9, 1.01 * largest, p999, 0).within(way)
    assert not Change(9, largest, 1.01 * p999, 0).within(way)


def test_images_are_cut_as_the_streams_see_them() -> None:
    """Of a wide image, the middle; of the face stream's, the whole image."""
    photograph = read_rgb(IMAGES[0])
    bands = np.zeros((128, 384, 3), np.uint8)
    bands[:, 128:256] = 200
    wide = bytes(cv2.imencode(".png", bands)[1])
    for stream in STREAMS:
        pixels, unreadable = whole_image_pixels(stream, [IMAGES[0].read_bytes(), b"no image", wide])
        assert pixels.shape == (2, stream.pixels, stream.pixels, 3)
        assert unreadable == [1]
        resized = cv2.resize(photograph, (224, 224), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(pixels[0], resized if stream.is_resized else photograph[2:254, 2:254])
        assert (pixels[1] > 150).all(), "of the middle alone"
        assert whole_image_pixels(stream, [])[0].shape == (0, stream.pixels, stream.pixels, 3)
    assert len(np.unique(random_pixels(GLOBAL_TEXTURE, 1))) == 256


# One stream


SIDE = 2
WEIGHT = np.random.default_rng(5).normal(0, 0.01, (SIDE * SIDE * 3, 2)).astype(np.float32)


class Linear(nn.Module):
    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
        return (pixels.float().flatten(1) @ torch.from_numpy(WEIGHT),)


def linear() -> ir.Model:
    """What `Linear` is as a graph."""
    nodes = [
        helper.make_node("Cast", ["PIXELS"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["x"]),
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Neg", ["product"], ["negative"]),
        helper.make_node("Neg", ["negative"], ["LOGITS"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("PIXELS", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("LOGITS", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(WEIGHT, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ir.passes.common.ShapeInferencePass()(ir.from_proto(model)).model


@pytest.mark.parametrize("calibrated", [True, False])
def test_every_image_is_computed_in_each_way(calibrated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_study, "load_stream", lambda stream, checkpoint: Linear())
    monkeypatch.setattr(half_study, "to_onnx", lambda network, interface: linear())
    made = []

    def made_of(model: Path, half_sums: bool = False) -> HalfArithmetic:
        made.append((model.parent.name, half_sums))
        return HalfArithmetic(model, half_sums)

    monkeypatch.setattr(half_study, "HalfArithmetic", made_of)
    pixels = np.random.default_rng(6).integers(0, 100, (5, SIDE, SIDE, 3), dtype=np.uint8)
    pixels[0] = 255  # the largest values are in the first batch
    dim = np.ones((3, SIDE, SIDE, 3), np.uint8)
    dim[2, 0, 0, 0] = 2  # and those of the calibration set in its last
    told = Counter[str]()
    study = study_stream(
        GLOBAL_TEXTURE,
        tmp_path / "any.pth",
        pixels,
        tmp_path / "models",
        2,
        lambda way, count: told.update({way: count}),
        dim if calibrated else None,
    )
    ways = {"torch", "fp32", "fp16", "fp16 sums", "bf16"} | ({"fp8"} if calibrated else set())
    assert told == dict.fromkeys(ways, 5)
    assert made == [("fp16", False), ("fp16", True), ("bf16", False), ("fp8", False)][: 3 + calibrated]
    assert set(study.logits) == ways
    exact = study.logits["torch"]
    np.testing.assert_array_equal(exact, Linear()(torch.from_numpy(pixels))[0])
    errors = {way: float(np.abs(study.logits[way] - exact).max()) for way in ways - {"torch"}}
    assert errors["fp32"] < 1e-5 < errors["fp16"] < 1e-2 < errors["bf16"] < 1e-1
    if calibrated:  # what is above its largest value is cut off
        cut = np.minimum(pixels, 2).reshape(5, -1) @ WEIGHT
        np.testing.assert_allclose(study.logits["fp8"], cut, atol=0.15 * float(np.abs(cut).max()))
    largest = {each.tensor: each.largest for each in study.ranges}
    assert largest["x_half"] == 255
    assert largest["product"] == pytest.approx(float(np.abs(exact).max()), rel=1e-3)
    assert [each.gain for each in study.gains] == [2**power for power in range(13)]


class Overflowing:
    """Float16 arithmetic in which a tensor is a thousand times the gain; once it overflows, so does the next."""

    def run(self, pixels: object, gain: float) -> tuple[tuple[()], list[Range]]:
        size = 1000 * gain
        after = 1.0 if size < 65504 else np.inf
        return (), [Range("Relu", "before", 2.0), Range("MatMul", "first", size), Range("Mul", "after", after)]


def test_activations_are_doubled_until_one_does_not_fit() -> None:
    *fitting, last = search_overflow(Overflowing(), random_pixels(GLOBAL_TEXTURE, 1))  # type: ignore[arg-type]
    assert [each.gain for each in fitting] == [1, 2, 4, 8, 16, 32, 64]
    assert all(each.overflow is None for each in fitting)
    assert last.gain == 128
    assert last.overflow is not None
    assert last.overflow.tensor == "first"
    assert [each.tensor for each in last.ranges] == ["after", "first", "before"]


# The report


PROBABILITIES = [0.2, 0.62, 0.58, 0.9]
GROUPS = {"photos": slice(0, 2), "random": slice(2, None)}
SMALL = Range("MatMul", "x", 655.04)
FITS = Gain(1, (SMALL, Range(STREAM, "tokens", 1e6)), None)


def studies(
    changed: dict[str, list[float]] | None = None,
    ranges: tuple[Range, ...] = (Range(STREAM, "tokens", 1e6), SMALL),
    gains: tuple[Gain, ...] = (FITS,),
) -> dict[Stream, StreamStudy]:
    """Of all streams; the first one's probabilities are others in some ways of computing them."""
    ways = ("torch", "fp32", "fp16", "fp16 sums", "bf16")
    of = {stream: dict.fromkeys(ways, PROBABILITIES) for stream in STREAMS}
    of[STREAMS[0]] |= changed or {}
    of[STREAMS[2]] = {way: [0.2, 0.67, 0.58, 0.9] for way in ways}
    return {
        stream: StreamStudy({way: logits_of(each) for way, each in ways.items()}, ranges, gains)
        for stream, ways in of.items()
    }


def test_a_report_has_every_change_and_the_score_of_the_three_together() -> None:
    """Votes of 0.3, 0.2 and 0.2 make the score that 0.2 makes; 0.7, 0.6 and 0.7 another than 0.6, 0.6 and 0.7."""
    changed = {"fp16": [0.2, 0.62, 0.575, 0.9], "bf16": [0.26, 0.67, 0.58, 0.9]}
    figures, within = describe(studies(changed), GROUPS, untrained=True)
    assert within is figures["within"] is True
    assert figures["untrained"] is True
    assert figures["scores_changed"] == {"fp32": 0, "fp16": 0, "fp16 sums": 0, "bf16": 0.25}
    assert figures["tolerances"]["largest"]["fp16"] == 2e-2
    assert figures["tolerances"]["p999"]["fp16"] == 1e-2
    assert list(figures["streams"]) == [stream.name for stream in STREAMS]
    first = figures["streams"][STREAMS[0].name]
    assert {way: [each["images"] for each in groups.values()] for way, groups in first["changes"].items()} == {
        way: [2, 2] for way in ("fp32", "fp16", "fp16 sums", "bf16")
    }
    assert first["changes"]["bf16"]["photos"]["largest"] == pytest.approx(0.06, abs=1e-6)
    assert [first["changes"]["bf16"][group]["votes_changed"] for group in GROUPS] == [1, 0]
    assert first["changes"]["fp16"]["random"]["largest"] == pytest.approx(0.005, abs=1e-6)
    assert first["headroom"][1] == {"kind": "MatMul", "tensor": "x", "largest": 655.04, "limit": 65504, "share": 0.01}
    assert first["scaled_up"] == [{"gain": 1, "largest": {"MatMul": 655.04, STREAM: 1e6}, "overflow": None}]


@pytest.mark.parametrize(
    ("changed", "ranges"),
    [
        ({"fp32": [0.2, 0.63, 0.58, 0.9]}, ()),
        ({"fp16 sums": [0.25, 0.62, 0.58, 0.9]}, ()),
        ({"bf16": [0.2, 0.62, 0.58, 0.7]}, ()),
        ({}, (Range("MatMul", "x", 65505.0),)),
    ],
)
def test_one_stream_or_tensor_that_is_beyond_is_enough(
    changed: dict[str, list[float]], ranges: tuple[Range, ...]
) -> None:
    figures, within = describe(studies(changed, ranges), GROUPS, untrained=False)
    assert within is figures["within"] is False


def test_fp8_is_told_where_all_streams_have_it() -> None:
    found = studies()
    for count, stream in enumerate(STREAMS):
        assert "fp8" not in describe(found, GROUPS, untrained=False)[0]["scores_changed"], f"{count} have it"
        found[stream] = replace(found[stream], logits={**found[stream].logits, "fp8": logits_of([0.5] * 4)})
    figures, within = describe(found, GROUPS, untrained=False)
    assert within
    assert figures["scores_changed"]["fp8"] == 1


def printed(figures: dict[str, Any]) -> str:
    console = Console(file=StringIO(), width=300)
    print_report(console, figures)
    return console.file.getvalue()  # type: ignore[attr-defined]


FULL = Gain(4, (Range("MatMul", "y", 7e4),), Range("MatMul", "y", 7e4))


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((FITS, replace(FITS, gain=2)), "Activations 2 times as large still fit\n"),
        ((FITS, replace(FITS, gain=2), FULL), "Activations 2 times as large still fit, with 1e+06 in the residual "),
        ((FITS, replace(FITS, gain=2), FULL), "stream; at 4 times, MatMul reaches 7e+04"),
        ((FULL,), "Does not fit: MatMul reaches 7e+04"),
    ],
)
def test_what_is_told_of_activations_scaled_up(gains: tuple[Gain, ...], said: str) -> None:
    assert said in printed(describe(studies(gains=gains), GROUPS, untrained=False)[0])


def test_the_table_says_what_is_above_and_what_is_nearest_to_the_end() -> None:
    kinds = tuple(Range(f"Kind{index}", f"x{index}", 65504 / 2**index) for index in range(6))
    text = printed(describe(studies({"fp32": [0.2, 0.63, 0.58, 0.9]}, kinds), GROUPS, untrained=False)[0])
    rows = [line.split() for line in text.splitlines() if STREAMS[0].name in line]
    assert rows[0] == [STREAMS[0].name, "fp32", "photos", "2", "1.0e-02", "1.0e-02", "0.0%", "above"]
    assert rows[2] == [STREAMS[0].name, "fp16", "photos", "2", "0.0e+00", "0.0e+00", "0.0%", "ok"]
    assert "SCORE of the three together, bf16: changed for 0.0% of the images" in text
    nearest = "Kind0 6.55e+04 (100.00%); Kind1 3.28e+04 (50.00%); Kind2 1.64e+04 (25.00%); Kind3 8.19e+03 (12.50%)\n"
    assert f"nearest to the end of float16: {nearest}" in text
    assert "UNTRAINED" not in text
    assert "residual" not in printed(describe(studies(), GROUPS, untrained=False)[0])
    assert "UNTRAINED" in printed(describe(studies(), GROUPS, untrained=True)[0])


def test_what_is_not_finite_is_null_in_json() -> None:
    nan, inf = float("nan"), float("inf")
    assert finite({"a": [nan, inf, -inf, 1.5, "x", True, None, 3], "b": {"c": nan}}) == {
        "a": [None, None, None, 1.5, "x", True, None, 3],
        "b": {"c": None},
    }


# The command


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


@dataclass(frozen=True)
class Asked:
    """What a stream was asked to be studied on."""

    checkpoint: Path
    images: int
    batch: int
    folder: Path
    calibration: int | None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """No network is run: all ways of computing give the same probability for each image."""
    seen: list[Asked] = []

    def study_stream(*arguments: Any) -> StreamStudy:
        _, checkpoint, pixels, folder, batch, _, calibration = arguments
        assert folder.is_dir()
        count = None if calibration is None else len(calibration)
        seen.append(Asked(checkpoint, len(pixels), batch, folder.parent, count))
        ways = dict.fromkeys(("torch", "fp32", "fp16", "fp16 sums", "bf16"), logits_of([0.5] * len(pixels)))
        return StreamStudy(ways, (), (FITS,))

    monkeypatch.setattr(precision, "study_stream", study_stream)
    return seen


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Files of the right names, which nothing reads here."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for stream in STREAMS:
        (folder / stream.checkpoint).write_bytes(b"weights")
    return folder


@pytest.mark.parametrize(
    ("random", "groups"), [("0", {"photos": 2}), ("3", {"photos": 2, "random": 3}), (None, {"photos": 2, "random": 8})]
)
def test_photographs_are_found_wherever_they_lie_and_noise_is_added(
    random: str | None, groups: dict[str, int], weights: Path, tmp_path: Path, asked: list[Asked]
) -> None:
    photographs, output = tmp_path / "photographs", tmp_path / "figures.json"
    (photographs / "deep").mkdir(parents=True)
    for name in ("first.PNG", "deep/second.png"):
        (photographs / name).write_bytes(IMAGES[0].read_bytes())
    (photographs / "broken.jpg").write_bytes(b"no image")
    (photographs / "notes.txt").write_text("none")
    more = [] if random is None else ["--random", random]
    options = ["--images", photographs, "--batch-size", 2, "--fp8", photographs / "deep", "--json", output, *more]
    result = run("--weights", weights, *options)
    assert result.exit_code == 0, result.output
    assert result.output.count("1 of 3 photographs cannot be read") == 1
    assert "UNTRAINED" not in result.output
    figures = json.loads(output.read_text())
    for stream in STREAMS:
        found = figures["streams"][stream.name]["changes"]["fp16"]
        assert {group: change["images"] for group, change in found.items()} == groups
    # Models are written beside the checkpoint, where there is room for them, and are gone afterwards.
    images = sum(groups.values())
    assert asked == [Asked(weights / stream.checkpoint, images, 2, weights, 1) for stream in STREAMS]
    assert {path.name for path in weights.iterdir()} == {stream.checkpoint for stream in STREAMS}


def test_noise_alone_is_enough(weights: Path, asked: list[Asked]) -> None:
    result = run("--weights", weights, "--random", 1)
    assert result.exit_code == 0, result.output
    assert "random" in result.output
    assert "photo" not in result.output
    assert [(each.images, each.batch, each.calibration) for each in asked] == [(1, 4, None)] * 3


@pytest.mark.parametrize("option", ["--images", "--fp8"])
def test_photographs_of_which_none_can_be_read_are_wrong_usage(
    option: str, weights: Path, tmp_path: Path, asked: list[Asked]
) -> None:
    (tmp_path / "photographs").mkdir()
    for name in ("first.jpg", "second.jpg"):
        (tmp_path / "photographs" / name).write_bytes(b"no image")
    result = run("--weights", weights, "--random", int(option == "--fp8"), option, tmp_path / "photographs")
    assert result.exit_code == 2
    assert f"none of the 2 photographs of {option} can be read" in " ".join(result.output.split())
    assert asked == []


def test_what_is_beyond_the_tolerances_fails_once_it_is_told(
    weights: Path, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_study, "LARGEST_ALLOWED", {**half_study.LARGEST_ALLOWED, "fp16": -1.0})
    result = run("--weights", weights, "--random", 1)
    assert result.exit_code == 1
    assert "above" in result.output
    assert "beyond the tolerances" in result.output


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
