"""Verdicts alone: what is believed of an answer, and the rows that it becomes."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from deepfake_client import EarlyVerdict, InvalidResponseError, Verdict
from deepfake_client.columns import file_row
from deepfake_client.contract import contract
from deepfake_client.early import Decide
from deepfake_client.images.items import read
from deepfake_client.transport.answers import parse_decisions
from deepfake_client.transport.wire import PROBE, build_decision_inputs
from deepfake_client.video.rule import Sample

from ensemble.decision import verdicts
from ensemble.voting import EnsembleScore

NAN = float("nan")


class Answer:
    """Stands for tritonclient's result."""

    def __init__(self, **outputs: Any) -> None:
        self.outputs = outputs

    def as_numpy(self, name: str) -> np.ndarray | None:
        if name not in self.outputs:
            return None
        return np.array(
            [self.outputs[name]], {"BYTES": np.object_, "FP32": np.float32}[contract.VERDICT_OUTPUTS[name][0]]
        )


def answer(**changed: Any) -> Answer:
    decided = {
        "VERDICT": [b"real"],
        "SCORE_RANGE": [0.2, 0.4],
        "PROBABILITY_RANGE": [0.19, 0.39],
        "STREAMS_RUN": [b"global_texture,semantic_fusion"],
        "STREAM_PROBABILITIES": [0.28, NAN, 0.19],
        "STREAM_VOTES": [0.3, NAN, 0.2],
        "FACE": [NAN] * 4,
        "FACE_CONFIDENCE": [NAN],
        "FACE_SOURCE": [b"not_needed"],
        "STATUS": [b"ok"],
    }
    return Answer(**(decided | changed))


def parse(result: Answer, threshold: float | None = None) -> EarlyVerdict:
    (verdict,) = parse_decisions(result, [read(PROBE)], threshold)  # type: ignore[arg-type]
    return verdict


def test_a_verdict_of_two_streams_has_ranges_and_no_score() -> None:
    verdict = parse(answer())
    assert (verdict.verdict, verdict.score, verdict.probability) == ("real", None, None)
    assert (verdict.score_range, verdict.probability_range) == ((0.2, 0.4), (0.19, 0.39))
    assert verdict.streams_run == ("global_texture", "semantic_fusion")
    assert [stream.vote for stream in verdict.streams.values()] == [0.3, None, 0.2]
    row = verdict.to_dict()
    assert (row["score_range"], row["streams_run"]) == ([0.2, 0.4], ["global_texture", "semantic_fusion"])
    flat = file_row(verdict)
    assert (flat["score_low"], flat["score_high"], flat["streams_run"]) == (0.2, 0.4, "global_texture,semantic_fusion")


def test_a_verdict_of_all_streams_has_its_score() -> None:
    every = {
        "VERDICT": [b"fake"],
        "SCORE_RANGE": [0.6, 0.6],
        "PROBABILITY_RANGE": [0.61, 0.61],
        "STREAMS_RUN": [b"global_texture,local_facial,semantic_fusion"],
        "STREAM_PROBABILITIES": [0.5, 0.9, 0.6],
        "STREAM_VOTES": [0.5, 0.9, 0.6],
    }
    verdict = parse(answer(**every), 0.61)
    # The server's word, which compared with the threshold what it knows more exactly.
    assert (verdict.verdict, verdict.score, verdict.probability) == ("fake", 0.6, 0.61)


def test_an_image_that_was_not_scored_has_its_status_alone() -> None:
    nothing = {"VERDICT": [b""], "SCORE_RANGE": [NAN] * 2, "PROBABILITY_RANGE": [NAN] * 2, "STREAMS_RUN": [b""]}
    verdict = parse(answer(STATUS=[b"unreadable_image"], **nothing))
    assert (verdict.status, verdict.verdict, verdict.score_range) == ("unreadable_image", None, None)
    assert verdict.streams_run == ()
    assert file_row(verdict)["score_low"] is None


@pytest.mark.parametrize(
    "changed",
    [
        {"VERDICT": [b""]},
        {"VERDICT": [b"perhaps"]},
        {"SCORE_RANGE": [0.4, 0.2]},
        {"SCORE_RANGE": [0.4, 1.2]},
        {"PROBABILITY_RANGE": [NAN, NAN]},
        {"STREAMS_RUN": [b"global_texture,another"]},
        {"STREAM_VOTES": [0.3, NAN, 2]},
        {"STATUS": [b"fine"]},
        {"FACE_SOURCE": [b"\x1b[2J"]},
    ],
    ids=str,
)
def test_what_is_outside_the_contract_is_not_believed(changed: dict[str, Any]) -> None:
    verdict = parse(answer(**changed))
    assert (verdict.status, verdict.verdict, verdict.score_range) == ("request_failed", None, None)
    assert verdict.error


def test_another_model_is_told() -> None:
    result = answer()
    del result.outputs["SCORE_RANGE"]
    with pytest.raises(InvalidResponseError, match="SCORE_RANGE"):
        parse(result)


def test_the_threshold_is_sent_for_each_image() -> None:
    images = [read(PROBE)] * 3
    assert [tensor.name() for tensor in build_decision_inputs(images, None)] == ["IMAGE", "FACE_BOX"]
    tensor = build_decision_inputs(images, 0.0)[-1]
    assert (tensor.name(), tensor.datatype(), tensor.shape()) == ("THRESHOLD", "FP32", [3, 1])


@pytest.mark.parametrize("threshold", [-0.1, 1.1, NAN])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold is"):
        Decide(threshold)


@pytest.mark.parametrize(
    ("threshold", "decision"),
    [(0.3, "real"), (0.2999999999, "real"), (0.3000000001, "real"), (0.29999995, "fake"), (0.30000005, "real")],
)
def test_a_threshold_is_compared_in_float32_as_the_server_does(threshold: float, decision: str) -> None:
    """At ties, all say the same: the server's step, a verdict by all streams, and a frame of a video."""
    probability = np.float32(0.3)
    score = EnsembleScore(*(np.full(1, probability) for _ in fields(EnsembleScore)))
    assert verdicts(score, np.float32([threshold])) == [decision]
    full = Verdict("a.jpg", "ok", score=0.3, probability=0.3, threshold=threshold)
    assert full.verdict == full.decided_by(threshold).verdict == decision
    assert Sample(0.0, 0.3, 0.3).decision(threshold) == decision
    kept = Decide(threshold).threshold
    assert kept == full.decided_by(threshold).threshold == float(str(np.float32(threshold)))
    sent = np.frombuffer(build_decision_inputs([read(PROBE)], kept)[-1]._get_content(), np.float32)
    assert sent == np.float32(threshold)
