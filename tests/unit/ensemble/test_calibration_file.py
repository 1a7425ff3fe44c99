"""Calibrated votes and their file: the paper's vote bit for bit, maps by definition, wrong files refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ensemble.calibration import (
    PAPER_VOTE,
    ROUNDING_STEPS,
    Isotonic,
    NoMap,
    OperatingPoint,
    Platt,
    Temperature,
    Vote,
    logit,
    round_to,
    score_logits_calibrated,
)
from ensemble.calibration_file import Calibration, CalibrationError, echo_of, parse_calibration, read_in_force
from ensemble.streams import STREAMS
from ensemble.voting import score_logits
from tests.golden import GOLDEN

SHARE = st.floats(0, 1, width=32)
SHA256 = {stream.name: f"{stream.name}-sha" for stream in STREAMS}
VOTE = Vote((Temperature(2.5), Platt(0.75, -0.5), Isotonic((0.25, 0.5), (0.0, 1.0))), (4.0, 0.0, 6.0), 0.05)
POINT = OperatingPoint(0.01, 0.75, (0.625, 0.875), 0.0078125, (0.0, 0.03125), 0.5, (0.25, 0.75))
CALIBRATION = Calibration("2026-01-02T03:04:05+00:00", False, 500, 400, SHA256, VOTE, (POINT,))


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=1, max_side=8).map(lambda s: (*s, 3, 2))))
def test_the_papers_vote_is_that_of_the_method_bit_for_bit(logits: np.ndarray) -> None:
    method, calibrated = score_logits(logits), score_logits_calibrated(logits, PAPER_VOTE)
    for field in ("score", "probability", "stream_probabilities", "stream_votes"):
        np.testing.assert_array_equal(getattr(calibrated, field), getattr(method, field))


def test_rounding_equals_every_golden_row() -> None:
    golden = np.load(GOLDEN / "method" / "voting.npz")
    np.testing.assert_array_equal(round_to(golden["prob_fake"], 0.1), golden["quantised"])
    means = np.average(golden["quantised"], axis=-1, weights=PAPER_VOTE.weights)
    np.testing.assert_array_equal(round_to(means, 0.1), golden["vote"])


@given(SHARE, st.sampled_from(ROUNDING_STEPS))
def test_rounding_finds_the_nearest_step(value: float, step: float) -> None:
    rounded = float(round_to(np.float32([value]), step)[0])
    assert abs(rounded - value) <= step / 2 + 1e-12
    assert rounded == float(f"{round(rounded / step) * step:.2f}")


@given(SHARE, SHARE, st.sampled_from(VOTE.maps))
def test_maps_keep_the_order_and_the_range(a: float, b: float, each: Callable[[np.ndarray], np.ndarray]) -> None:
    low, high = each(np.sort(np.float32([a, b])))
    assert 0 <= low <= high <= 1


def test_maps_are_what_they_are_called() -> None:
    p = np.float32([0.1, 0.5, 0.9, np.nan])
    expected = 1 / (1 + np.exp(-np.log(p / (1 - p)) / 2.5))
    np.testing.assert_allclose(Temperature(2.5)(p), expected, rtol=1e-6)
    np.testing.assert_allclose(Temperature(1)(p), p, rtol=1e-6)
    np.testing.assert_allclose(Platt(2, 1)(p), 1 / (1 + np.exp(-2 * np.log(p / (1 - p)) - 1)), rtol=1e-6)
    np.testing.assert_allclose(Isotonic((0.25, 0.75), (0.2, 0.4))(p), [0.2, 0.3, 0.4, np.nan])
    assert NoMap()(p) is p
    assert np.isfinite(logit(np.float32([0, 1]))).all()


def test_the_logit_is_exact_down_to_one_in_ten_million_and_no_further() -> None:
    np.testing.assert_allclose(
        logit(np.float64([1e-7, 1e-6, 0.5])), np.log([1e-7, 1e-6, 0.5]) - np.log1p([-1e-7, -1e-6, -0.5])
    )
    bound = np.log(1e-7) - np.log1p(-1e-7)
    np.testing.assert_allclose(logit(np.float64([0, 1e-9, 1])), [bound, bound, -bound])


def test_a_calibrated_score_is_maps_then_weights_then_steps() -> None:
    probabilities = np.float32([[0.5, 0.9, 0.375]])
    scored = VOTE.score(probabilities)
    np.testing.assert_allclose(scored.stream_probabilities[0, [0, 2]], [0.5, 0.5])
    np.testing.assert_allclose(scored.probability, [0.5])
    np.testing.assert_allclose(scored.score, [0.5])
    assert scored.score.dtype == scored.probability.dtype == scored.stream_probabilities.dtype == np.float32


def test_votes_and_score_have_the_step_of_the_vote_and_the_probability_none() -> None:
    vote = Vote((NoMap(),) * 3, (1.0, 1.0, 2.0), 0.05)
    scored = vote.score(np.float32([[0.33, 0.58, 0.11]]))
    np.testing.assert_allclose(scored.stream_votes, [[0.35, 0.6, 0.1]])
    np.testing.assert_allclose(scored.score, [0.3])  # of 0.2875
    np.testing.assert_allclose(scored.probability, [0.2825])


def test_the_file_comes_back_as_it_was_written() -> None:
    assert parse_calibration(CALIBRATION.to_text()) == CALIBRATION
    assert parse_calibration(echo_of(CALIBRATION.to_text())) == CALIBRATION


def changed(path: str, value: Any) -> str:
    """The file's text with one value replaced, or removed where the value is `...`."""
    document: Any = json.loads(CALIBRATION.to_text())
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    target = document
    for key in parents:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 2, "version is 2; this software reads 1"),
        ("version", ..., "version is None"),
        ("extra", 1, "the file has unknown keys extra"),
        ("created", ..., "the file lacks created"),
        ("untrained", 0, "untrained is 0; it must be of type bool"),
        ("images.real", 1.5, "images.real is 1.5"),
        ("images.fake", True, "images.fake is True; it must be of type int"),
        ("streams.local_facial", ..., "streams lacks local_facial"),
        ("streams.clip", {}, "streams has unknown keys clip"),
        ("streams.local_facial.weight", -1, r"streams.local_facial.weight is -1; it must lie in \[0, 1e\+06\]"),
        ("streams.local_facial.weight", True, "must be a number"),
        ("streams.global_texture.map.kind", "spline", "map.kind is 'spline'; it must be one of none, temperature"),
        ("streams.global_texture.map", "none", "map.kind is None"),
        ("streams.global_texture.map.temperature", 0, r"temperature is 0; it must lie in \[0.001, 1000\]"),
        ("streams.global_texture.map.slope", 1, "has unknown keys slope"),
        ("streams.local_facial.map.slope", -1, "slope is -1"),
        ("streams.semantic_fusion.map.x", [0.5, 0.25], "rising x"),
        ("streams.semantic_fusion.map.y", [0.5], "2 x and 1 y"),
        ("streams.semantic_fusion.map.y", [1, 0.5], "never fall"),
        ("streams.semantic_fusion.map.y", [0, 1.5], "y is 1.5"),
        ("rounding_step", 0.3, "rounding_step is 0.3; it must be one of 0.2, 0.1"),
        ("rounding_step", True, "rounding_step is True"),
        ("rounding_step", "0.1", "rounding_step is '0.1'"),
        ("operating_points", {}, "must be of type list"),
        *(
            (f"operating_points.0.{name}", value, rf"operating_points\[0\].{name} is {value}")
            for name in ("far", "threshold", "false_alarm_rate", "detection_rate")
            for value in (-0.1, 1.1)
        ),
        *(
            (f"operating_points.0.{name}_interval", [0.1, 1.1], rf"{name}_interval is 1.1")
            for name in ("threshold", "false_alarm", "detection")
        ),
        ("operating_points.0.threshold_interval", [0.9, 0.1], "a lower and an upper end"),
        ("operating_points.0.far", ..., r"operating_points\[0\] lacks far"),
    ],
)
def test_anything_unexpected_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        parse_calibration(changed(path, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is JSON"),
        ("[]", "the file must be a JSON object"),
        ('{"version": 1, "version": 1}', "there twice"),
        (CALIBRATION.to_text().replace("0.05", "NaN", 1), "NaN is no number"),
    ],
)
def test_what_is_no_calibration_is_refused(text: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        parse_calibration(text)


def test_weights_of_zero_and_points_out_of_order_are_refused() -> None:
    text = json.loads(CALIBRATION.to_text())
    for stream in text["streams"].values():
        stream["weight"] = 0
    with pytest.raises(CalibrationError, match="at least one"):
        parse_calibration(json.dumps(text))
    with pytest.raises(CalibrationError, match="rising far"):
        parse_calibration(changed("operating_points", json.loads(CALIBRATION.to_text())["operating_points"] * 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The version folder of a voter with a calibration, in a repository with provenance."""
    folder, provenance = tmp_path / "voter" / "1", tmp_path / "provenance" / "1"
    folder.mkdir(parents=True)
    provenance.mkdir(parents=True)
    streams = {name: {"sha256": sha256} for name, sha256 in SHA256.items()}
    (provenance / "provenance.json").write_text(json.dumps({"streams": streams}))
    (folder / "calibration.json").write_text(CALIBRATION.to_text())
    return folder


def test_what_the_configuration_names_is_in_force(folder: Path) -> None:
    assert read_in_force(folder, "", "paper") is None
    assert read_in_force(folder, "calibration.json", echo_of(CALIBRATION.to_text())) == CALIBRATION


def test_a_configuration_at_odds_with_its_file_is_refused(folder: Path) -> None:
    echo = echo_of(CALIBRATION.to_text())
    with pytest.raises(CalibrationError, match="must be 'paper' where calibration_file is empty"):
        read_in_force(folder, "", echo)
    with pytest.raises(CalibrationError, match="must be 'paper' where calibration_file is empty"):
        read_in_force(folder, "", "")
    with pytest.raises(CalibrationError, match=r"No such file.*gone\.json.*python -m forensics calibrate"):
        read_in_force(folder, "gone.json", echo)
    with pytest.raises(CalibrationError, match="does not hold the text of"):
        read_in_force(folder, "calibration.json", "paper")
    (folder / "calibration.json").write_bytes(b"\xff")
    with pytest.raises(CalibrationError, match=r"cannot be read.*python -m forensics calibrate"):
        read_in_force(folder, "calibration.json", echo)
    (folder / "calibration.json").write_text(changed("rounding_step", 0.3))
    with pytest.raises(CalibrationError, match=r"calibration\.json: rounding_step is 0\.3"):
        read_in_force(folder, "calibration.json", echo)


def test_a_calibration_of_other_checkpoints_is_refused(folder: Path) -> None:
    text = changed("streams.local_facial.checkpoint_sha256", "another")
    (folder / "calibration.json").write_text(text)
    with pytest.raises(CalibrationError, match="fitted on other checkpoints of local_facial"):
        read_in_force(folder, "calibration.json", echo_of(text))
    (folder.parents[1] / "provenance" / "1" / "provenance.json").write_text("{}")
    with pytest.raises(CalibrationError, match="does not name the checkpoints"):
        read_in_force(folder, "calibration.json", echo_of(text))


def test_a_calibration_of_a_stream_that_the_repository_does_not_name_is_refused(folder: Path) -> None:
    provenance = folder.parents[1] / "provenance" / "1" / "provenance.json"
    streams = {name: {"sha256": sha256} for name, sha256 in SHA256.items() if name != "semantic_fusion"}
    provenance.write_text(json.dumps({"streams": streams}))
    with pytest.raises(CalibrationError, match="fitted on other checkpoints of semantic_fusion"):
        read_in_force(folder, "calibration.json", echo_of(CALIBRATION.to_text()))


def test_each_stream_keeps_its_own_map_weight_and_checkpoint() -> None:
    document = json.loads(CALIBRATION.to_text())
    assert document["version"] == 1
    assert document["images"] == {"real": 500, "fake": 400}
    assert [entry["weight"] for entry in document["streams"].values()] == [4.0, 0.0, 6.0]
    assert [entry["map"]["kind"] for entry in document["streams"].values()] == ["temperature", "platt", "isotonic"]
    assert {name: entry["checkpoint_sha256"] for name, entry in document["streams"].items()} == SHA256


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("streams.global_texture.map.temperature", 1e-3),
        ("streams.global_texture.map.temperature", 1e3),
        ("streams.local_facial.map.slope", 1e-3),
        ("streams.local_facial.map.slope", 1e3),
        ("streams.local_facial.map.intercept", -1e3),
        ("streams.local_facial.map.intercept", 1e3),
        ("streams.local_facial.weight", 0),
        ("streams.local_facial.weight", 1e6),
        ("streams.semantic_fusion.map.x", [0, 1]),
        ("streams.semantic_fusion.map.y", [0.5, 0.5]),
        ("operating_points.0.threshold", 0),
        ("operating_points.0.threshold", 1),
        ("operating_points.0.threshold_interval", [0.5, 0.5]),
    ],
)
def test_values_at_the_ends_of_their_ranges_are_taken(path: str, value: Any) -> None:
    parse_calibration(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("streams.global_texture.map.temperature", 0.99e-3),
        ("streams.global_texture.map.temperature", 1.01e3),
        ("streams.local_facial.map.slope", 0.99e-3),
        ("streams.local_facial.map.slope", 1.01e3),
        ("streams.local_facial.map.intercept", -1.01e3),
        ("streams.local_facial.map.intercept", 1.01e3),
        ("streams.local_facial.weight", 1.01e6),
        ("streams.local_facial.weight", 10**400),
        ("streams.semantic_fusion.map.x", [0.5, 0.5]),
        ("operating_points.0.threshold_interval", [0.5]),
        ("operating_points.0.threshold_interval", [0.1, 0.2, 0.3]),
    ],
)
def test_values_beyond_their_ranges_are_refused(path: str, value: Any) -> None:
    with pytest.raises(CalibrationError):
        parse_calibration(changed(path, value))


@pytest.mark.parametrize("text", ["{", '{"version": ' + "9" * 5000 + "}", "[" * 100_000])
def test_what_cannot_be_read_as_json_is_refused(text: str) -> None:
    with pytest.raises(CalibrationError, match="a calibration file is JSON; this cannot be read as that"):
        parse_calibration(text)


def test_an_isotonic_map_has_ten_thousand_knots_at_most() -> None:
    knots = [index / 10_000 for index in range(10_001)]
    document = json.loads(CALIBRATION.to_text())
    for count, fine in ((10_000, True), (10_001, False)):
        document["streams"]["semantic_fusion"]["map"] |= {"x": knots[:count], "y": knots[:count]}
        if fine:
            parse_calibration(json.dumps(document))
        else:
            with pytest.raises(CalibrationError, match="needs 1 to 10000 of each"):
                parse_calibration(json.dumps(document))


@pytest.mark.parametrize("kept", [CALIBRATION, VOTE, POINT, NoMap(), *VOTE.maps], ids=lambda kept: type(kept).__name__)
def test_what_was_read_cannot_be_changed(kept: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        kept.kind = "another"
