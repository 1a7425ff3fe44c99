"""What would change a verdict, receipts and their replay; against the stand-in server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from deepfake_client import Calibration, Provenance
from deepfake_client.cli import main
from deepfake_client.evidence import VoteRule, make_receipt, rule_of, what_would_change
from deepfake_client.evidence.receipt import Deployment, differences
from deepfake_client.results import STREAM_NAMES, ServerInfo, StreamVerdict, Verdict
from hypothesis import given
from hypothesis import strategies as st

from ensemble.voting import vote
from tests.fakes.triton import FakeTriton, serving


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with serving() as fake:
        yield fake


def verdict(votes: list[float], threshold: float | None = None, probabilities: list[float] | None = None) -> Verdict:
    known = probabilities or votes
    rule = VoteRule()
    mean = sum(weight * each for weight, each in zip(rule.weights, known, strict=True)) / sum(rule.weights)
    streams = {n: StreamVerdict(p, v) for n, p, v in zip(STREAM_NAMES, known, votes, strict=True)}
    return Verdict("photo.jpg", "ok", rule.score(votes), mean, streams, threshold=threshold)


VOTES = st.lists(st.integers(0, 10).map(lambda number: number / 10), min_size=3, max_size=3)


@given(VOTES)
def test_the_rule_is_the_servers(votes: list[float]) -> None:
    import numpy as np

    assert VoteRule().score(votes) == pytest.approx(float(vote(np.array([votes]))[0]))


@given(VOTES)
def test_each_change_changes_the_verdict_and_one_step_less_does_not(votes: list[float]) -> None:
    said = verdict(votes)
    for change in what_would_change(said, VoteRule()):
        place = STREAM_NAMES.index(change.stream)
        changed = verdict([*votes[:place], change.bound, *votes[place + 1 :]])
        assert changed.verdict == change.verdict != said.verdict
        back = round(change.bound + (0.1 if change.at_most else -0.1), 1)
        nearly = verdict([*votes[:place], back, *votes[place + 1 :]])
        assert nearly.verdict != change.verdict
        assert change.margin == pytest.approx(abs(change.bound - votes[place]))


@pytest.mark.parametrize("votes", [[0.5, 0.5, 0.5], [0.5, 0.6, 0.4], [0.4, 0.7, 0.5], [0.6, 0.4, 0.5]])
def test_of_two_ways_out_of_uncertainty_the_nearer_is_told(votes: list[float]) -> None:
    said = verdict(votes)
    assert said.verdict == "uncertain"
    for change in what_would_change(said, VoteRule()):
        place = STREAM_NAMES.index(change.stream)
        nearer = [n / 10 for n in range(11) if abs(n / 10 - votes[place]) < change.margin - 1e-6]
        assert {verdict([*votes[:place], each, *votes[place + 1 :]]).verdict for each in nearer} == {"uncertain"}


def test_the_words_name_stream_bound_and_margin() -> None:
    texts = [change.text for change in what_would_change(verdict([0.6, 0.6, 0.6]), VoteRule())]
    assert texts == [
        "real if Global Texture were 0.2 or less; margin 0.4",
        "uncertain if Localized Facial were 0.3 or less; margin 0.3",
        "real if Hybrid Semantic Fusion were 0.2 or less; margin 0.4",
    ]


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(0.05, 0.95))
def test_with_a_threshold_probabilities_decide(probabilities: list[float], threshold: float) -> None:
    said = verdict([0.5, 0.5, 0.5], threshold, probabilities)
    for change in what_would_change(said, VoteRule()):
        place = STREAM_NAMES.index(change.stream)
        beyond = change.bound + (-1e-3 if change.at_most else 1e-3)
        changed = verdict([0.5] * 3, threshold, [*probabilities[:place], beyond, *probabilities[place + 1 :]])
        assert changed.verdict == change.verdict


def test_the_published_rule_holds_where_nothing_else_is_said() -> None:
    assert rule_of(None) == VoteRule()


def test_a_receipt_is_replayed_and_what_is_otherwise_is_told(server: FakeTriton, tmp_path: Path) -> None:
    from deepfake_client import DetectorClient
    from deepfake_client.evidence import ask_deployment, make_receipt

    photo, file = tmp_path / "photo.jpg", tmp_path / "receipt.json"
    photo.write_bytes(b"0.3")
    with DetectorClient(server.url) as client:
        receipt = make_receipt(b"0.3", client.score(photo), ask_deployment(client))
    file.write_text(json.dumps(receipt))
    same = CliRunner().invoke(main, ["replay", str(file), str(photo), "--url", server.url])
    assert (same.exit_code, same.stdout) == (0, "the same: real, score 0.3\n")
    photo.write_bytes(b"0.9")
    other = CliRunner().invoke(main, ["replay", str(file), str(photo), "--url", server.url])
    assert other.exit_code == 1
    assert "the image is another file" in other.stdout
    assert "score: 0.9, was 0.3" in other.stdout


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"receipt": 1, "faces": "main", "threshold": null}', "[" * 9000]
)
def test_what_is_no_receipt_is_a_wrong_command_line(server: FakeTriton, tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    (tmp_path / "p.jpg").write_bytes(b"0.3")
    result = CliRunner().invoke(
        main, ["replay", str(tmp_path / "r.json"), str(tmp_path / "p.jpg"), "--url", server.url]
    )
    assert result.exit_code == 2, result.output
    assert "no receipt" in result.output.replace("\n", " ") or "not a receipt" in result.output.replace("\n", " ")


def test_evidence_is_for_one_picture(server: FakeTriton, tmp_path: Path) -> None:
    for arguments in ([str(tmp_path)], ["a.jpg", "b.jpg"], ["gone.jpg"]):
        result = CliRunner().invoke(main, ["score", *arguments, "--evidence", "e.zip", "--url", server.url])
        assert result.exit_code == 2
        assert "one picture" in result.output


def test_a_stream_that_would_need_more_than_certainty_cannot_change_the_verdict() -> None:
    said = verdict([0.5] * 3, 0.65, [0.1, 0.1, 0.9])
    assert [(change.stream, change.bound) for change in what_would_change(said, VoteRule())] == [
        ("global_texture", 0.675)  # the local one, of half its weight, would need 1.25
    ]
    assert what_would_change(verdict([0.5] * 3, 0.9, [0.1] * 3), VoteRule()) == []


def test_a_calibration_s_weights_and_step_are_the_rule() -> None:
    streams = {name: {"weight": weight} for name, weight in zip(STREAM_NAMES, (3, 1, 4), strict=True)}
    rule = rule_of(Calibration({"streams": streams, "rounding_step": 0.05}, ()))
    assert (tuple(rule.weights), rule.step) == ((3.0, 1.0, 4.0), 0.05)
    assert rule.score([0.1, 0.2, 0.3]) == 0.2
    assert rule.score([0.2, 0.2, 0.3]) == 0.25


def deployment(document: dict[str, float] | None = None, day: int = 1) -> Deployment:
    exported = Provenance(True, {"created": f"2026-01-0{day}"})
    return Deployment(ServerInfo("triton", "2.51", "m", 8), exported, Calibration(document, ()))


def test_a_receipt_s_numbers_may_differ_as_hardware_does_and_nothing_else_may() -> None:
    said = Verdict("a.jpg", "ok", 0.5, 0.25)
    receipt = json.loads(json.dumps(make_receipt(b"image", said, deployment())))
    for probability, known, told in (
        (0.2509, None, []),
        (0.2511, None, ["probability: 0.2511, was 0.25"]),
        (0.25, {"rounding_step": 0.05}, ["calibration: {'rounding_step': 0.05}, was the published method's own"]),
    ):
        new = Verdict("b.jpg", "ok", 0.5, probability)
        assert differences(receipt, b"image", new, deployment(known, day=2)) == told
