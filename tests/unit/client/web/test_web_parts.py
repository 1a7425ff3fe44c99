"""The page without a server behind it: uploads and their limits, the work, what pages ask for, the command."""

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from deepfake_client import InvalidResponseError, ServerUnavailableError, Verdict
from deepfake_client.cli import main

pytest.importorskip("fastapi", reason="needs pip install './client[web]'")
from deepfake_client.evidence import Evidence, rule_of
from deepfake_client.evidence.receipt import Deployment
from deepfake_client.images.items import Item
from deepfake_client.results import Face, ServerInfo
from deepfake_client.web import app as web_app
from deepfake_client.web import pages, problems, uploads, work
from deepfake_client.web.links import Links, Origin
from starlette.testclient import TestClient

DEPLOYMENT = Deployment(ServerInfo("triton", "2.51", "m", 8), None, None)


# uploads and the work


class Client:
    """Scores an image by its name, and notes what it was asked."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.data: list[bytes] = []
        self.closed = 0

    def score_many(self, items: Any) -> Iterator[Verdict]:
        for item in items:
            self.items.append(item)
            self.data.append(item.load())
            yield Verdict(item.path, "ok", 0.1, len(self.data[-1]) / 10)

    def wait_ready(self, _: float) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def asked_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What the page asks about: deployments, videos, evidence."""
    asked: dict[str, list[Any]] = {"deployments": [], "videos": [], "evidence": []}
    monkeypatch.setattr(work, "ask_deployment", lambda who: asked["deployments"].append(who) or DEPLOYMENT)

    def video(who: Any, file: Any, options: Any, name: str) -> Verdict:
        asked["videos"].append((file.tell(), file.read(), options, name))
        return Verdict(name, "ok", 0.9, 0.9)

    def collect(who: Any, image: bytes, verdict: Verdict, **more: Any) -> Evidence:
        asked["evidence"].append((image, verdict.path, more))
        return Evidence(image, verdict, more["deployment"], rule_of(None), [], {}, {}, [])

    monkeypatch.setattr(work, "score_video", video)
    monkeypatch.setattr(work, "collect", collect)
    return asked


@pytest.fixture
def web(client: Any, asked_of: Any) -> Iterator[TestClient]:
    with TestClient(web_app.create_app(client), "http://localhost") as web:
        yield web
    assert client.closed == 1


def files(*names: str, data: bytes = b"12") -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (name, data)) for name in names]


def test_each_upload_is_scored_in_its_place_as_what_it_is(web: TestClient, client: Client, asked_of: Any) -> None:
    rows = web.post("/v1/score", files=files("a.jpg", "b.mp4", "c.png", "d.MKV", "e")).json()["rows"]
    assert [(row["path"], row["score"]) for row in rows] == [
        ("a.jpg", 0.1),
        ("b.mp4", 0.9),
        ("c.png", 0.1),
        ("d.MKV", 0.9),
        ("e", 0.1),
    ]
    assert [(item.path, item.size, item.faces) for item in client.items] == [
        ("a.jpg", 2, "main"),
        ("c.png", 2, "main"),
        ("e", 2, "main"),
    ]
    assert client.data == [b"12"] * 3
    assert [(place, data, name) for place, data, _, name in asked_of["videos"]] == [
        (0, b"12", "b.mp4"),
        (0, b"12", "d.MKV"),
    ]


@pytest.mark.parametrize(
    ("given", "of_images", "of_videos"),
    [({}, "main", "all"), ({"faces": "main"}, "main", "main"), ({"faces": "all"}, "all", "all")],
)
def test_which_faces_are_judged_and_which_frames(
    web: TestClient, client: Client, asked_of: Any, given: dict[str, str], of_images: str, of_videos: str
) -> None:
    more = {"fps": "3.5", "frame_rows": "TRUE"}
    web.post("/v1/score", files=files("a.jpg", "b.mp4"), data=given | more)
    web.post("/v1/score", files=files("b.mp4"), data=given | {"frames": "7", "frame_rows": "yes"})
    (_, _, first, _), (_, _, second, _) = asked_of["videos"]
    assert (client.items[0].faces, first.faces, second.faces) == (of_images, of_videos, of_videos)
    assert (first.sampling.fps, first.keep_frames) == (3.5, True)
    assert (second.sampling.frames, second.keep_frames) == (7, False)


def test_names_are_cut_and_parts_of_other_names_are_no_files(web: TestClient, client: Client) -> None:
    web.post("/v1/score", files=[*files("x" * 1025, "y" * 1024), ("photo", ("z.jpg", b"1"))])
    assert [item.path for item in client.items] == ["x" * 1024, "y" * 1024]
    assert web.post("/v1/score", files=files(*["a.jpg"] * 64)).status_code == 200
    assert web.post("/v1/score", files=files(*["a.jpg"] * 65)).status_code == 400
    assert web.post("/v1/score", files=files("a.jpg"), data={f"f{n}": "" for n in range(32)}).status_code == 200
    assert web.post("/v1/score", files=files("a.jpg"), data={f"f{n}": "" for n in range(33)}).status_code == 400


def test_json_has_the_defaults_of_a_form_and_the_faces_that_it_asks_for(web: TestClient, client: Client) -> None:
    images = [{"data": "MTI="}, {"data": "MTI=", "name": "b", "face_box": [1, 2, 3, 4]}]
    assert web.post("/v1/score", json={"images": images}).status_code == 200
    assert web.post("/v1/score", json={"images": images[:1], "faces": "all"}).status_code == 200
    assert [(item.path, item.box, item.faces) for item in client.items] == [
        ("image", None, "main"),
        ("b", (1, 2, 3, 4), "main"),
        ("image", None, "all"),
    ]
    for wrong in ({"data": "MTI=", "name": "x" * 1025}, {"data": "MTI"}, {"data": "MT I="}):
        assert web.post("/v1/score", json={"images": [images[0], wrong]}).status_code == 422
    asked = web.post("/v1/score", json={"images": [images[0], {"data": "?"}]}).json()["detail"]
    assert asked.startswith("images.1.data is not base64")
    assert (
        web.post("/v1/score", content=b"{}", headers={"Content-Type": "Application/JSON; charset=x"}).status_code == 422
    )


def test_files_of_a_request_are_gone_after_it(web: TestClient, monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    opened: list[Any] = []
    upload = uploads.Upload

    def note(name: str, file: Any, *more: Any) -> Any:
        opened.append(file)
        return upload(name, file, *more)

    monkeypatch.setattr(uploads, "Upload", note)
    assert web.post("/v1/score", files=files("a.jpg")).status_code == 200
    monkeypatch.setattr(Client, "score_many", lambda *_: iter([]))
    with pytest.raises(ValueError, match="shorter"):  # whatever goes wrong
        web.post("/v1/score", files=files("a.jpg"))
    assert [file.closed for file in opened] == [True, True]


def test_a_line_a_row_is_for_those_who_accept_it(web: TestClient) -> None:
    for accept in ("application/x-ndjson", "text/html, application/x-ndjson;q=0.9"):
        lines = web.post("/v1/score", files=files("ä.jpg", "b.jpg"), headers={"Accept": accept})
        assert lines.headers["content-type"].startswith("application/x-ndjson")
        assert [json.loads(line)["path"] for line in lines.text.splitlines()] == ["ä.jpg", "b.jpg"]
    assert "rows" in web.post("/v1/score", files=files("a.jpg"), headers={"Accept": "*/*"}).json()


def test_health_waits_some_seconds_and_tells_what_is_there_now(
    web: TestClient, client: Client, asked_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(client, "wait_ready", waited.append)
    answers = [web.get("/v1/health").json() for _ in range(2)]
    assert waited == [5.0, 5.0]
    assert [answer["status"] for answer in answers] == ["ok", "ok"]
    assert answers[0]["server"]["version"] == "2.51"
    assert len(asked_of["deployments"]) == 2


def test_no_page_of_the_framework_s_own_is_open_and_versions_are_told(web: TestClient) -> None:
    """Those would load programs from elsewhere."""
    for path in ("/redoc", "/openapi.json", "/docs/oauth2-redirect"):
        assert web.get(path).status_code == 404
    schema = web.get("/v1/openapi.json").json()
    score = schema["paths"]["/v1/score"]["post"]
    assert {"200", "400", "413", "415", "422", "502", "503"} == set(score["responses"])
    assert {"200", "503"} == set(schema["paths"]["/v1/health"]["get"]["responses"])
    form = score["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert set(form) == {"file", "link", "faces", "fps", "frames", "frame_rows"}
    assert form["file"]["maxItems"] == 64
    info = schema["info"]
    assert (info["title"], info["version"]) == ("Deepfake detector", web_app.client_version())
    assert web.get("/static/page.css").headers["content-type"].startswith("text/css")
    missing = web.get("/v1/no/such")
    assert (missing.status_code, missing.json()["detail"]) == (404, "there is no /v1/no/such; see /docs")


def test_a_few_requests_are_scored_at_once_and_a_deployment_is_asked_for_once(asked_of: Any) -> None:
    assert work.AT_ONCE == 8
    under_way: list[int] = []
    peak = [0]

    class Slow(Client):
        def score_many(self, items: Any) -> Iterator[Verdict]:
            under_way.append(1)
            peak[0] = max(peak[0], len(under_way))
            for item in items:
                yield Verdict(item.path, "ok")
            under_way.pop()

    async def run() -> None:
        office = work.Work(Slow())  # type: ignore[arg-type]
        office._turns = asyncio.Semaphore(2)
        asked = uploads.Asked([uploads.Upload("a", io.BytesIO(b"1"))], None, uploads.VideoOptions(), {})
        await asyncio.gather(*(office.score(asked) for _ in range(20)))
        assert office._turns._value == 2  # whatever was taken is back
        await office.evidence(asked, with_maps=False, with_copies=False)
        for fresh in (False, False, True):
            assert await office.deployment(fresh=fresh) is DEPLOYMENT

    asyncio.run(run())
    assert 1 <= peak[0] <= 2
    assert len(asked_of["deployments"]) == 2  # one fresh with the evidence, and one that was asked for


# pages


def csrf(web: TestClient) -> dict[str, str]:
    return {"X-CSRF": web.get("/").text.partition('name="csrf" content="')[2].partition('"')[0]}


@pytest.mark.parametrize(
    ("path", "maps", "copies", "kind"),
    [
        ("explain", True, False, "text/html; charset=utf-8"),
        ("stability", False, True, "text/html; charset=utf-8"),
        ("evidence", True, True, "application/zip"),
    ],
)
def test_each_part_of_the_page_asks_for_what_it_shows_of_the_first_upload(
    web: TestClient, asked_of: Any, monkeypatch: pytest.MonkeyPatch, path: str, maps: bool, copies: bool, kind: str
) -> None:
    monkeypatch.setattr(pages, "bundle", lambda evidence: b"zip of " + evidence.data)
    headers = csrf(web)
    asked_of["deployments"].clear()
    answer = web.post(f"/ui/{path}", files=files("a.jpg", "b.jpg"), headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    ((image, name, more),) = asked_of["evidence"]
    assert (image, name, more) == (
        b"12",
        "a.jpg",
        {"with_maps": maps, "with_copies": copies, "deployment": DEPLOYMENT},
    )
    assert len(asked_of["deployments"]) == 1  # what is there now, not when the page was loaded
    if path == "evidence":
        assert answer.content == b"zip of 12"
        assert answer.headers["content-disposition"] == 'attachment; filename="evidence.zip"'


@pytest.mark.parametrize("path", ["score", "fetch", "explain", "stability", "evidence"])
def test_each_part_of_the_page_is_for_its_own_forms_alone(web: TestClient, asked_of: Any, path: str) -> None:
    secret = csrf(web)["X-CSRF"]
    for headers in ({}, {"X-CSRF": ""}, {"X-CSRF": secret[:-1]}):
        assert web.post(f"/ui/{path}", files=files("a.jpg"), headers=headers).status_code == 403
    assert web.post(f"/ui/{path}", files=files("a.jpg"), data={"csrf": secret[1:]}).status_code == 403
    assert asked_of["evidence"] == []


@pytest.mark.parametrize("path", ["score", "explain", "stability"])
@pytest.mark.parametrize(
    ("error", "status"), [(ServerUnavailableError("gone"), 503), (InvalidResponseError("odd"), 502)]
)
def test_what_goes_wrong_is_shown_in_the_page(
    web: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, error: Exception, status: int
) -> None:
    def fail(*_: object) -> None:
        raise error

    headers = csrf(web)
    monkeypatch.setattr(work.Work, "_score", fail)
    for given, more in ((headers, {}), ({}, {"csrf": headers["X-CSRF"]})):
        answer = web.post(f"/ui/{path}", files=files("a.jpg"), headers=given, data=more)
        assert answer.status_code == status
        assert str(error) in answer.text
        assert ("<html" in answer.text) is not bool(given)  # a part of the page for its script, else all of it


def test_a_link_s_file_is_given_with_its_name_and_never_shown(
    web: TestClient, client: Any, asked_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Links, "fetch", lambda _, given: [("ä/'\".html", io.BytesIO(link.encode())) for link in given])
    answer = web.post("/ui/fetch", files=[("link", (None, " http://a.example/x "))], headers=csrf(web))
    assert answer.content == b"http://a.example/x"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A4%2F%27%22.html"
    linked = [("link", (None, "http://a.example/x")), ("link", (None, "  ")), *files("", data=b""), *files("own.jpg")]
    web.post("/v1/score", files=linked)
    assert [item.path for item in client.items] == ["own.jpg", "ä/'\".html"]


def test_boxes_of_faces_are_drawn_on_pictures_and_not_on_videos() -> None:
    box = (1.0, 2.0, 3.0, 4.0)
    one = Verdict("a", "ok", 0.9, 0.9, face=Face(box, 0.5, "raw"))
    assert pages._shown(one, False)["boxes"] == [[*box, "fake"]]
    assert pages._shown(one, True)["boxes"] == []
    assert pages._shown(Verdict("a", "ok", 0.9, 0.9), False)["boxes"] == []
    assert (pages._shown(one, False)["video"], pages._shown(one, False)["timeline"]) == (None, None)


# the command


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, dict[str, Any]]]:
    """Runs the command; its result, and what was started."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr("deepfake_client.web.app.create_app", lambda client, **more: seen.update(client=client, **more))
    monkeypatch.setattr("uvicorn.run", lambda app, **more: seen.update(**{f"run_{k}": v for k, v in more.items()}))
    monkeypatch.delenv("DEEPFAKE_CLIENT_WEB_TOKEN", raising=False)

    def run(*words: str) -> tuple[Result, dict[str, Any]]:
        seen.clear()
        return CliRunner().invoke(main, ["web", *words]), seen

    return run


def test_the_page_is_for_this_machine_unless_it_is_told_otherwise(started: Any) -> None:
    result, seen = started()
    assert result.exit_code == 0, result.output
    assert (seen["run_host"], seen["run_port"], seen["run_server_header"]) == ("127.0.0.1", 8080, False)
    assert seen["run_access_log"] is False  # addresses may bear a token
    assert (seen["hosts"], seen["max_upload"], seen["token"]) == ({"localhost", "127.0.0.1", "::1"}, 256 << 20, None)
    assert seen["links_from"] == ()
    settings = seen["client"]._settings
    assert (settings.timeout, settings.retries) == (120.0, 3)
    assert "page: http://127.0.0.1:8080/   REST" in result.output


def test_another_address_wants_a_long_token(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["--host=0.0.0.0"], ["--host=0.0.0.0", "--token=" + "x" * 15], ["--token=" + "x" * 15]):
        result, seen = started(*words)
        assert (result.exit_code, seen) == (2, {})
    words = ["--host=::", "--port=1", f"--token={'x' * 16}", "--name=farm", "--max-upload=1", "--timeout=3"]
    result, seen = started(*words, "--links-from=https://a.example", "--links-from=http://b.example:81")
    assert result.exit_code == 0, result.output
    assert seen["hosts"] == {"localhost", "127.0.0.1", "::1", "::", "farm"}
    assert (seen["token"], seen["max_upload"], seen["run_host"], seen["run_port"]) == ("x" * 16, 1 << 20, "::", 1)
    assert seen["links_from"] == (Origin("https", "a.example", 443), Origin("http", "b.example", 81))
    assert seen["client"]._settings.timeout == 3.0
    assert "http://[::]:1/?token=…" in result.output
    assert "x" * 16 not in result.output
    monkeypatch.setenv("DEEPFAKE_CLIENT_WEB_TOKEN", "y" * 16)
    assert started("--host=0.0.0.0")[1]["token"] == "y" * 16


def test_the_programs_defaults_are_careful() -> None:
    assert {"localhost", "127.0.0.1", "::1"} == web_app.LOOPBACK
    defaults = web_app.create_app.__kwdefaults__
    assert (defaults["hosts"], defaults["token"], defaults["links_from"]) == (web_app.LOOPBACK, None, ())
    assert defaults["max_upload"] == 256 << 20
    assert (problems.RETRY_SECONDS, uploads.MAX_FILES) == (5, 64)
    assert (pages.static_files() / "page.js").is_file()
    assert Path(pages.__file__).parent in pages.static_files().parents
