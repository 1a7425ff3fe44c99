"""The page and the REST interface against the stand-in server: rows, limits, tokens, hostile requests."""

import base64
import gc
import json
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from deepfake_client import DetectorClient
from deepfake_client.bulk.output.text_rows import jsonl_row

from tests.fakes.triton import FakeTriton, fail_times, serving, untrained
from tests.videos import greys, write_video

pytest.importorskip("fastapi", reason="needs pip install './client[web]'")
from deepfake_client.web import create_app
from starlette.testclient import TestClient

HOSTILE = "<script>alert(1)</script>\"'&\u202e.jpg"


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with serving() as fake:
        fake.provenance = untrained()
        yield fake


def visit(server: FakeTriton, **options: Any) -> TestClient:
    client = DetectorClient(server.url, retries=1)
    return TestClient(create_app(client, **options), "http://localhost", raise_server_exceptions=False)


@pytest.fixture
def web(server: FakeTriton) -> Iterator[TestClient]:
    with visit(server) as client:
        yield client


def csrf_of(web: TestClient) -> dict[str, str]:
    found = re.search(r'name="csrf" content="([^"]+)"', web.get("/").text)
    assert found
    return {"X-CSRF": found[1]}


def file(data: bytes, name: str = "photo.jpg") -> tuple[str, tuple[str, bytes]]:
    return "file", (name, data)


def check_problem(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    return problem["detail"]


def test_rows_are_those_of_the_client(web: TestClient, server: FakeTriton) -> None:
    images = [b"0.3", b"status:unreadable_image", b"", b"0.9", b"0.5"]
    files = [file(data, f"{n}.jpg") for n, data in enumerate(images)]
    rows = web.post("/v1/score", files=files).json()["rows"]
    with DetectorClient(server.url) as client:
        own = [json.loads(jsonl_row(verdict)) for verdict in client.score_many(images)]
    assert [{**row, "path": None} for row in rows] == own
    assert [row["path"] for row in rows] == [f"{n}.jpg" for n in range(len(images))]
    lines = web.post("/v1/score", files=files, headers={"Accept": "application/x-ndjson"}).text
    assert [json.loads(line) for line in lines.splitlines()] == rows
    assert "NaN" not in lines


def test_json_with_several_images(web: TestClient, server: FakeTriton) -> None:
    images = [{"data": base64.b64encode(f"0.{n}".encode()).decode(), "name": f"{n}"} for n in (2, 8)]
    images[1]["face_box"] = [1, 2, 3, 4]  # type: ignore[assignment]
    rows = web.post("/v1/score", json={"images": images}).json()["rows"]
    assert [(row["path"], row["score"]) for row in rows] == [("2", 0.2), ("8", 0.8)]
    assert server.boxes[-1] is not None


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "images"),
        ({"images": []}, 422, "images"),
        ({"images": [{"data": "***"}]}, 422, "base64"),
        ({"images": [{"data": "", "url": "http://x"}]}, 422, "url"),
        ({"images": [{"data": "", "face_box": [1]}]}, 422, "face_box"),
        ({"images": [{"data": ""}] * 65}, 422, "64"),
        ({"images": [{"data": ""}], "faces": "some"}, 422, "faces"),
    ],
)
def test_wrong_json_is_a_problem(web: TestClient, body: Any, status: int, said: str) -> None:
    assert said in check_problem(web.post("/v1/score", json=body), status)


def test_wrong_forms_are_problems(web: TestClient) -> None:
    assert "file" in check_problem(web.post("/v1/score", files=[("other", ("a", b""))]), 422)
    assert "fps" in check_problem(web.post("/v1/score", files=[file(b"")], data={"fps": "x"}), 422)
    assert "above 0" in check_problem(web.post("/v1/score", files=[file(b"")], data={"frames": "-1"}), 422)
    assert "form" in check_problem(web.post("/v1/score", files=[file(b"0.1")] * 65), 400)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    check_problem(web.post("/v1/score", content=b"nonsense", headers=kind), 400)
    check_problem(web.post("/v1/score", content=b"x", headers={"Content-Type": "text/plain"}), 415)
    check_problem(web.get("/v1/nothing"), 404)
    check_problem(web.get("/v1/score/../../etc/passwd"), 404)
    check_problem(web.delete("/v1/score"), 405)


@pytest.mark.usefixtures("patient_probes")
def test_health_and_a_server_that_is_down(web: TestClient, server: FakeTriton) -> None:
    assert web.get("/v1/health").json()["weights"]["state"] == "untrained"
    headers = csrf_of(web)
    server.stop()
    assert "no server answers" in check_problem(web.get("/v1/health"), 503)
    answer = web.post("/v1/score", files=[file(b"0.3")])
    check_problem(answer, 503)
    assert answer.headers["retry-after"]
    page = web.get("/")
    assert page.status_code == 200
    assert "does not answer" in page.text
    shown = web.post("/ui/score", files=[file(b"0.3")], headers=headers)
    assert shown.status_code == 503
    assert "Not scored" in shown.text
    server.start()
    deadline = time.monotonic() + 60
    while (answer := web.post("/v1/score", files=[file(b"0.3")])).status_code != 200:
        assert time.monotonic() < deadline, answer.text
    assert answer.json()["rows"][0]["score"] == 0.3


def test_a_failing_request_is_a_row(web: TestClient, server: FakeTriton) -> None:
    server.fault = fail_times(100, grpc.StatusCode.INVALID_ARGUMENT, "<b>bad</b>")
    assert web.post("/v1/score", files=[file(b"0.3")]).json()["rows"][0]["status"] == "request_failed"


def test_the_openapi_page_names_every_route(web: TestClient) -> None:
    schema = web.get("/v1/openapi.json").json()
    page = web.get("/docs").text
    assert set(schema["paths"]) == {"/v1/score", "/v1/health"}
    assert all(path in page for path in schema["paths"])
    assert "base64" in json.dumps(schema)


def test_the_page_asks_nobody_else_and_runs_no_foreign_code(web: TestClient) -> None:
    answer = web.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in ("/", "/docs", "/static/page.js", "/static/page.css"):
        text = web.get(path).text
        assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)
        assert "url(" not in text
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", text)


def test_hostile_names_and_metadata_are_text(web: TestClient) -> None:
    headers = csrf_of(web)
    for name, data in ((HOSTILE, b"0.9"), (HOSTILE, b"<script>alert(2)</script>"), ("x" * 900, b"0.1")):
        answer = web.post("/ui/score", files=[file(data, name)], headers=headers)
        assert answer.status_code == 200
        assert "<script" not in answer.text
        assert "onerror" not in answer.text
        row = web.post("/v1/score", files=[file(data, name)]).json()["rows"][0]
        assert len(row["path"]) <= 1024
    assert "&lt;script&gt;" in web.post("/ui/score", files=[file(b"0.9", HOSTILE)], headers=headers).text


def test_only_this_page_may_use_its_forms(web: TestClient) -> None:
    check_problem(web.post("/ui/explain", files=[file(b"0.3")]), 403)
    assert web.post("/ui/score", files=[file(b"0.3")]).status_code == 403
    check_problem(web.post("/v1/score", files=[file(b"0.3")], headers={"Origin": "http://evil.example"}), 403)
    check_problem(web.post("/v1/score", files=[file(b"0.3")], headers={"Sec-Fetch-Site": "cross-site"}), 403)
    check_problem(web.get("/", headers={"Host": "evil.example"}), 421)
    without_script = web.post("/ui/score", files=[file(b"0.3")], data={"csrf": csrf_of(web)["X-CSRF"]})
    assert without_script.status_code == 200
    assert "Probably real" in without_script.text
    assert "<html" in without_script.text


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "same-site"}, {"Origin": "http://localhost:9"}, {"Origin": "null"}],
    ids=str,
)
def test_another_page_of_this_machine_is_another_page(web: TestClient, headers: dict[str, str]) -> None:
    answer = web.post("/v1/score", files=[file(b"0.3")], headers=headers)
    assert "another page" in check_problem(answer, 403)
    assert answer.headers["x-frame-options"] == "DENY"  # as on every answer
    assert answer.headers["cache-control"] == "no-store"
    own = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}
    assert web.post("/v1/score", files=[file(b"0.3")], headers=own).status_code == 200


def test_a_token_is_asked_of_everybody(server: FakeTriton) -> None:
    with visit(server, token="a-long-secret-token") as web:
        for path in ("/", "/docs", "/v1/health", "/v1/openapi.json"):
            check_problem(web.get(path), 401)
        check_problem(web.get("/?token=wrong"), 401)
        bearer = {"Authorization": "Bearer a-long-secret-token"}
        assert web.post("/v1/score", files=[file(b"0.3")], headers=bearer).status_code == 200
        check_problem(web.post("/v1/score", files=[file(b"0.3")], headers={"Authorization": "Bearer x"}), 401)
        check_problem(web.get("/?token=%20a-long-secret-token"), 401)
        for scheme in ("Basic ", "Token ", "", "Bearer  "):
            wrong = {"Authorization": f"{scheme}a-long-secret-token"}
            check_problem(web.post("/v1/score", files=[file(b"0.3")], headers=wrong), 401)
        entered = web.get("/?token=a-long-secret-token", follow_redirects=False)
        assert entered.status_code == 303
        assert "HttpOnly" in entered.headers["set-cookie"]
        assert "samesite=strict" in entered.headers["set-cookie"].lower()
        assert web.get("/").status_code == 200


def test_uploads_over_the_limit_are_refused(server: FakeTriton) -> None:
    with visit(server, max_upload=1 << 20) as web:
        assert "1 MiB" in check_problem(web.post("/v1/score", files=[file(bytes(2 << 20))]), 413)
        chunks = (bytes(1 << 16) for _ in range(40))
        check_problem(web.post("/v1/score", content=chunks, headers={"Content-Type": "application/json"}), 413)
        assert web.post("/v1/score", files=[file(b"0.3")]).status_code == 200


def test_a_hundred_megabytes_and_fifty_at_once(
    web: TestClient, server: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    row = web.post("/v1/score", files=[file(bytes(100 << 20))]).json()["rows"][0]
    assert row["status"] in ("too_many_bytes", "ok")
    server.max_bytes = str(32 << 20)
    with ThreadPoolExecutor(50) as pool:
        sent = [(f"{n}.jpg", b"0.%d" % (n % 10) + b" " * (2 << 20)) for n in range(50)]
        rows = list(pool.map(lambda each: web.post("/v1/score", files=[file(each[1], each[0])]).json()["rows"], sent))
    assert [(row[0]["path"], row[0]["score"]) for row in rows] == [(f"{n}.jpg", n % 10 / 10) for n in range(50)]
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_videos_among_images(web: TestClient, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", greys(20), fps=10).read_bytes()
    files = [file(b"0.3"), file(clip, "clip.mp4"), file(b"", "none.mp4"), file(b"0.7")]
    rows = web.post("/v1/score", files=files, data={"faces": "main", "fps": "5"}).json()["rows"]
    assert [row["status"] for row in rows] == ["ok", "ok", "unreadable_video", "ok"]
    assert rows[1]["video"]["frames"] == 10
    shown = web.post("/ui/score", files=[file(clip, "clip.mp4")], data={"faces": "main"}, headers=csrf_of(web)).text
    assert "data:image/svg+xml" in shown
