"""What every request of the page passes first, against a program that takes whatever comes; and what errors tell."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from deepfake_client import AccessDeniedError, InvalidResponseError, ServerUnavailableError

pytest.importorskip("fastapi", reason="needs pip install './client[web]'")
from deepfake_client.web import create_app, guard
from deepfake_client.web.guard import Guard, Rules
from deepfake_client.web.problems import ProblemError
from starlette.testclient import TestClient

TOKEN = "a-long-secret-token"


class Asked:
    """A program behind a guard, which takes all of a request and answers 200; and what one request comes to."""

    def __init__(self, **rules: Any) -> None:
        self.guard = Guard(self.app, Rules(**{"hosts": frozenset({"localhost", "::1"}), "max_bytes": 100} | rules))
        self.taken = b""
        self.left: list[bytes] = []
        self.leaves = False

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            self.taken += message.get("body", b"")
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOW")]})
        await send({"type": "http.response.body", "body": b"done"})

    def ask(
        self, *body: bytes, method: str = "POST", path: str = "/v1/score", query: str = "", **headers: str
    ) -> SimpleNamespace:
        given = {"host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": raw}
        self.left = [*body] or [b""]
        sent: list[Any] = []

        async def receive() -> Any:
            if not self.left:  # its sender has left
                return {"type": "http.disconnect"}
            piece = self.left.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self.left) or self.leaves}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.guard(scope, receive, send))
        known = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return SimpleNamespace(status=sent[0]["status"], headers=known, body=sent[1]["body"])


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (200, {}),
        (200, {"method": "GET", "path": "/", "token": TOKEN, "authorization": f"Bearer {TOKEN}"}),
        (303, {"method": "GET", "path": "/", "query": f"token={TOKEN}", "token": TOKEN}),
        (401, {"method": "GET", "path": "/", "token": TOKEN}),
        (403, {"origin": "http://evil.example"}),
        (413, {"content_length": "101"}),
        (421, {"host": "evil.example"}),
    ],
)
def test_every_answer_bears_the_headers_that_protect_it(status: int, request_: dict[str, str]) -> None:
    given = dict(request_)
    answer = Asked(token=given.pop("token", None)).ask(**given)
    assert answer.status == status
    expected = {name.lower(): value for name, value in guard._HEADERS.items()}
    assert {name: answer.headers.get(name) for name in expected} == expected
    assert expected["x-frame-options"] == "DENY"
    assert expected["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in expected["content-security-policy"]
    assert "form-action 'self'" in expected["content-security-policy"]
    assert expected["referrer-policy"] == "no-referrer"  # an address may bear a token
    assert expected["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "LOCALHOST:1", "[::1]:8080"])
def test_the_page_goes_by_its_names_whatever_the_port(host: str) -> None:
    assert Asked().ask(host=host).status == 200


@pytest.mark.parametrize(
    "host", ["", "127.0.0.1", "localhost.evil.example", "evil.example:80", "localhost@evil.example"]
)
def test_other_names_are_another_page_s(host: str) -> None:
    answer = Asked().ask(host=host)
    assert (answer.status, b"--host" in answer.body) == (421, True)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({"origin": "http://localhost:8080"}, False),
        ({"origin": "https://localhost:8080"}, False),  # a proxy before it may speak TLS
        ({"origin": "http://localhost"}, True),
        ({"origin": "null"}, True),
        ({"sec_fetch_site": "cross-site"}, True),
        ({"sec_fetch_site": "none"}, False),
        ({}, False),
    ],
)
def test_whatever_changes_something_is_taken_from_this_page_alone(
    method: str, headers: dict[str, str], foreign: bool
) -> None:
    assert Asked().ask(method=method, host="localhost:8080", **headers).status == (403 if foreign else 200)
    for safe in ("GET", "HEAD"):
        assert Asked().ask(method=safe, host="localhost:8080", **headers).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"bearer {TOKEN}"}, 200),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": TOKEN}, 401),
        ({"cookie": f"a=b; {guard.COOKIE}={TOKEN}"}, 200),
        ({"cookie": f"other={TOKEN}"}, 401),
        ({"cookie": f"{guard.COOKIE}={TOKEN[:-1]}"}, 401),
        ({"cookie": f"{guard.COOKIE}="}, 401),
        ({"cookie": "\x7f[]=;"}, 401),
        ({"cookie": f"a/b=1; {guard.COOKIE}={TOKEN}"}, 401),  # which Python's reader refuses as a whole
        ({"authorization": f"Bearer {TOKEN}é"}, 401),
        ({}, 401),
    ],
)
def test_the_token_is_taken_as_a_bearers_or_as_the_cookie(headers: dict[str, str], status: int) -> None:
    assert Asked(token=TOKEN).ask(**headers).status == status
    assert Asked().ask(**headers).status == 200


def test_only_the_page_itself_is_entered_and_its_style_needs_no_token() -> None:
    entered = Asked(token=TOKEN).ask(method="GET", path="/", query=f"token={TOKEN}")
    assert entered.headers["location"] == "/"
    cookie = [part.strip() for part in entered.headers["set-cookie"].split(";")]
    assert cookie[0] == f"{guard.COOKIE}={TOKEN}"
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie)
    assert Asked(token=TOKEN).ask(method="GET", path="/docs", query=f"token={TOKEN}").status == 401
    assert Asked(token=TOKEN).ask(method="GET", path="/static/page.css").status == 200
    assert Asked(token=TOKEN).ask(method="GET", path="/statics").status == 401
    assert Asked().ask(method="GET", path="/", query="token=").status == 200


@pytest.mark.parametrize(("sizes", "status"), [((100,), 200), ((60, 40), 200), ((101,), 413), ((60, 41, 5), 413)])
def test_a_request_may_be_as_large_as_the_limit_and_what_is_over_it_is_read_and_thrown_away(
    sizes: tuple[int, ...], status: int
) -> None:
    asked = Asked()
    answer = asked.ask(*(bytes(size) for size in sizes))
    assert answer.status == status
    assert asked.left == []  # else its sender would not read the answer
    assert Asked().ask(bytes(sum(sizes)), content_length=str(sum(sizes))).status == status
    assert status == 200 or b"over the limit of 0 MiB" in answer.body


def test_a_sender_that_leaves_in_the_middle_is_not_waited_for() -> None:
    asked = Asked()
    asked.leaves = True
    assert asked.ask(bytes(60), bytes(60)).status == 413
    assert Asked().ask(b"12").status == 200


def test_not_more_is_thrown_away_than_anybody_sends_in_good_faith(monkeypatch: pytest.MonkeyPatch) -> None:
    assert guard._DRAINED == 1 << 30
    monkeypatch.setattr(guard, "_DRAINED", 500)
    asked = Asked()
    assert asked.ask(*[bytes(100)] * 10, content_length="1000").status == 413
    assert len(asked.left) == 5
    told = Asked(max_bytes=7 << 20).ask(content_length=str(1 << 40))
    assert b"limit of 7 MiB; send less at a time, or raise --max-upload" in told.body


@pytest.mark.parametrize(
    ("host", "near"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_which_addresses_are_this_machine_s(host: str, near: bool) -> None:
    assert guard.is_loopback(host) is near
    assert not guard.is_loopback("example.org")


# errors


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ServerUnavailableError("gone"), 503, "gone"),
        (InvalidResponseError("odd"), 502, "odd"),
        (AccessDeniedError("give the token s3cret", "UNAUTHENTICATED"), 502, "refuses this page's requests"),
        (ProblemError(418, "short"), 418, "short"),
        (ZeroDivisionError("secret"), 500, "this program has a fault; its log says more"),
    ],
)
def test_errors_are_told_without_what_is_not_the_visitors(error: Exception, status: int, said: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    client: Any = SimpleNamespace(wait_ready=fail, close=lambda: None)
    with TestClient(create_app(client), "http://localhost", raise_server_exceptions=False) as web:
        answer = web.get("/v1/health")
    assert answer.status_code == answer.json()["status"] == status
    assert answer.json()["detail"].endswith(said)
    assert "secret" not in answer.text
    assert answer.headers.get("retry-after") == ("5" if status == 503 else None)
