"""One image, and the face boxes that come with it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepfake_client
import numpy as np
import pytest
from deepfake_client import DetectorClient, decide, explain

from tests.fakes.triton import FACE, FakeTriton


def test_score_gives_every_field_in_short_numbers(client: DetectorClient) -> None:
    verdict = client.score(b"0.7")
    assert (verdict.path, verdict.status, verdict.score, verdict.probability) == (None, "ok", 0.7, 0.7)
    assert (verdict.verdict, verdict.ok, verdict.error) == ("fake", True, None)
    assert [(s.probability, s.vote) for s in verdict.streams.values()] == [(0.7, 0.7), (0.123, 0.1), (0.9, 0.9)]
    assert (verdict.face.box, verdict.face.confidence, verdict.face.source) == (FACE, 0.97, "raw")


def test_row_is_the_documented_one_without_nan(client: DetectorClient) -> None:
    streams = {
        "global_texture": {"probability": 0.3, "vote": 0.3},
        "local_facial": {"probability": 0.123, "vote": 0.1},
        "semantic_fusion": {"probability": 0.9, "vote": 0.9},
    }
    assert json.loads(json.dumps(client.score(b"0.3").to_dict(), allow_nan=False)) == {
        "path": None,
        "status": "ok",
        "score": 0.3,
        "probability": 0.3,
        "verdict": "real",
        "streams": streams,
        "face": {"box": None, "confidence": None, "source": "none"},
    }


def test_unscored_image_has_its_status_and_no_numbers(client: DetectorClient) -> None:
    row = client.score(b"status:too_many_pixels").to_dict()
    assert row.pop("status") == "too_many_pixels"
    assert row.pop("face") == {"box": None, "confidence": None, "source": "none"}
    assert set(row.pop("streams")) == {"global_texture", "local_facial", "semantic_fusion"}
    assert set(row.values()) == {None}


def test_path_is_given_back_as_it_was(client: DetectorClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(b"0.2")
    assert client.score("./a.jpg") == replace(client.score(b"0.2"), path="./a.jpg")
    assert client.score(tmp_path / "a.jpg").path == str(tmp_path / "a.jpg")


def test_score_raises_where_the_file_is_missing(client: DetectorClient) -> None:
    with pytest.raises(FileNotFoundError):
        client.score("missing.jpg")


def test_empty_image_arrives_as_it_is(client: DetectorClient, server: FakeTriton) -> None:
    assert client.score(b"").ok
    assert [verdict.ok for verdict in client.score_many([b"", b"x", b""])] == [True] * 3


@pytest.mark.parametrize("image", [bytearray(b"0.9"), memoryview(b"0.9")])
def test_any_bytes_are_an_image(client: DetectorClient, image: Any) -> None:
    assert client.score(image).score == 0.9


def test_image_of_forty_megabytes_is_sent(client: DetectorClient) -> None:
    assert client.score(b"x" * 40_000_000).ok


@pytest.mark.parametrize(
    ("score", "word"), [(0.0, "real"), (0.4, "real"), (0.5, "uncertain"), (0.6, "fake"), (1.0, "fake")]
)
def test_decide_is_fake_above_one_half(score: float, word: str) -> None:
    assert decide(score) == word


def test_explain_knows_a_fix_and_passes_unknown_codes_on() -> None:
    assert "resize" in explain("too_many_pixels")
    assert explain("a_new_code") == "a_new_code"


def test_every_public_name_exists() -> None:
    assert all(hasattr(deepfake_client, name) for name in deepfake_client.__all__)


def test_face_box_is_sent_only_where_some_image_has_one(client: DetectorClient, server: FakeTriton) -> None:
    list(client.score_many([b"0.1", b"0.2"]))
    list(client.score_many([b"0.1", (b"0.2", (1, 2, 3, 4)), (b"0.3", None)]))
    client.score(b"0.1", face_box=np.array([5, 6, 7, 8.5]))
    nan = [math.nan] * 4
    assert server.boxes[0] is None
    np.testing.assert_array_equal(server.boxes[1], [nan, [1, 2, 3, 4], nan])
    np.testing.assert_array_equal(server.boxes[2], [[5, 6, 7, 8.5]])


def test_face_box_beyond_float32_is_left_to_the_server(client: DetectorClient, server: FakeTriton) -> None:
    client.score(b"0.1", face_box=(0, 0, 1e300, 1))
    np.testing.assert_array_equal(server.boxes[0], [[0, 0, np.inf, 1]])


def test_face_box_of_another_length_is_refused(client: DetectorClient) -> None:
    with pytest.raises(ValueError, match="x1, y1, x2, y2 in pixels; got 3 numbers"):
        client.score(b"0.1", face_box=(1, 2, 3))


def test_what_is_no_image_is_refused(client: DetectorClient) -> None:
    with pytest.raises(TypeError, match="bytes or a path; got int"):
        list(client.score_many([1]))  # type: ignore[list-item]
