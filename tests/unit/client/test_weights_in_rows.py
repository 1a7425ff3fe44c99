"""Rows and verdicts say which weights gave them, whether these are untrained, and which threshold decided."""

import asyncio
import csv
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import grpc
import pytest
from click.testing import CliRunner
from deepfake_client import AsyncDetectorClient, DetectorClient, OperatingPoint, Provenance, RequestFailedError, Verdict
from deepfake_client.cli import main

from tests.bulk import make_images, score
from tests.fakes.triton import FakeTriton, fail_times, untrained


def test_verdicts_say_which_weights_gave_them(server: FakeTriton) -> None:
    server.provenance = untrained()
    with DetectorClient(server.url) as client:
        known = client.provenance()
        assert known is not None
        verdicts = [client.score(b"0.3"), *client.score_many([b"0.4"])]
    assert {(each.weights, each.untrained) for each in verdicts} == {(known.identity, True)}

    async def run() -> tuple[str | None, bool | None]:
        async with AsyncDetectorClient(server.url) as client:
            verdict = await client.score(b"0.3")
            return verdict.weights, verdict.untrained

    assert asyncio.run(run()) == (known.identity, True)


def test_a_server_that_does_not_say_is_asked_for_scores_all_the_same(server: FakeTriton) -> None:
    for text in (None, "{", "[]"):
        server.provenance = text
        with DetectorClient(server.url) as client:
            verdict = client.score(b"0.3")
        assert (verdict.score, verdict.weights, verdict.untrained) == (0.3, None, None)
        assert "weights" not in verdict.to_dict()


def test_a_server_that_came_back_is_asked_again(server: FakeTriton) -> None:
    server.provenance = untrained()
    with DetectorClient(server.url) as client:
        before = client.score(b"0.3").weights
        server.provenance = json.dumps({"untrained": False, "streams": {}})
        server.fault = fail_times(1, grpc.StatusCode.UNAVAILABLE, "Socket closed")
        after = client.score(b"0.3")
    assert after.weights != before
    assert after.untrained is False


def test_identity_is_of_the_weights_and_not_of_the_day() -> None:
    def of(**document: object) -> str:
        return Provenance(False, {"untrained": False, **document}).identity

    assert of(created="2026-01-01", streams={"a": 1}) == of(streams={"a": 1}, created="2026-01-02")
    assert of(streams={"a": 1}) != of(streams={"a": 2})
    assert len(of()) == 12


def test_a_threshold_decides_each_face_too() -> None:
    faces = tuple(Verdict(None, "ok", 0.5, probability) for probability in (0.2, 0.4))
    said = Verdict("a.jpg", "ok", 0.5, 0.4, faces=faces).decided_by(0.3)
    assert said.faces is not None
    assert [face.verdict for face in (said, *said.faces)] == ["fake", "real", "fake"]
    assert {face.threshold for face in (said, *said.faces)} == {0.3}


def test_rows_say_them_too(server: FakeTriton, tmp_path: Path) -> None:
    server.provenance = untrained()
    make_images(tmp_path / "x", 1)
    for kind in ("jsonl", "csv"):
        assert score(server.url, tmp_path / "x", "-o", tmp_path / f"scores.{kind}").exit_code == 0
    row = json.loads((tmp_path / "scores.jsonl").read_text())
    assert row["weights"]["untrained"] is True
    (cells,) = csv.DictReader((tmp_path / "scores.csv").read_text().splitlines())
    assert cells["weights"] == f"untrained {row['weights']['identity']}"
    assert cells["threshold"] == ""


def test_stand_ins_are_named(server: FakeTriton, tmp_path: Path) -> None:
    server.provenance = json.dumps({"untrained": False, "stand_in": "made of smoothness"})
    make_images(tmp_path / "x", 1)
    assert score(server.url, tmp_path / "x", "-o", tmp_path / "scores.csv").exit_code == 0
    (cells,) = csv.DictReader((tmp_path / "scores.csv").read_text().splitlines())
    assert cells["weights"].startswith("stand-in ")
    with DetectorClient(server.url) as client:
        assert client.score(b"0.3").to_dict()["weights"]["stand_in"] == "made of smoothness"


def test_a_row_says_the_threshold_that_decided(server: FakeTriton) -> None:
    with DetectorClient(server.url) as client:
        verdict = OperatingPoint(0.01, 0.25, (0.0, 0.02)).apply(client.score(b"0.3"))
    assert verdict.to_dict()["threshold"] == 0.25
    assert verdict.decided_by(0.0).to_dict()["threshold"] == 0
    assert verdict.verdict == "fake"


def test_info_is_read_by_people(server: FakeTriton) -> None:
    server.provenance = json.dumps(
        {
            "untrained": True,
            "same_base_network": False,
            "streams": {"global_texture": {"sha256": "ab12", "untrained": True}},
            "face_models": {},
            "note": None,
        }
    )
    shown = CliRunner().invoke(main, ["info", "--url", server.url]).stdout
    lines = {line[:18].strip(): line[18:] for line in shown.splitlines()}
    assert lines["same base network"] == "no"
    assert lines["face models"] == "none"
    assert lines["note"] == "none"
    assert lines["global_texture"] == "sha256 ab12, untrained yes"
    assert lines["weights"].startswith("UNTRAINED, ")


class Http(BaseHTTPRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def http_port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Http) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_an_http_port_is_recognised(http_port: int) -> None:
    url = f"127.0.0.1:{http_port}"
    with DetectorClient(url) as client, pytest.raises(RequestFailedError, match="is an HTTP port; give the server's"):
        client.score(b"0.3")
    result = CliRunner().invoke(main, ["info", "--url", url])
    assert result.exit_code == 3
    assert "is an HTTP port" in result.stderr

    async def run() -> None:
        async with AsyncDetectorClient(url) as client:
            await client.score(b"0.3")

    with pytest.raises(RequestFailedError, match="is an HTTP port"):
        asyncio.run(run())
