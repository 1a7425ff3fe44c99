"""What every request passes first: whose it is, where it comes from, how large it is; and headers on every answer."""

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import ProblemError, response

COOKIE = "deepfake_client_token"

_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}

_DRAINED = 1 << 30
"""Bytes of a request that is too large which are read and thrown away, so that its sender reads the answer."""


@dataclass(frozen=True)
class Rules:
    """Who may ask for how much.

    Attributes:
        hosts: Names by which the page may be called, without ports; others might be a foreign page's that was bent to
            this address.
        max_bytes: Of one request's body.
        token: That a request must bear; None where none is needed.
    """

    hosts: frozenset[str]
    max_bytes: int
    token: str | None = None


class Guard:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check_origin(scope, headers)
            if self._asks_to_enter(scope):
                await self._enter()(scope, receive, send_guarded)
                return
            self._check_token(scope, headers)
        except ProblemError as problem:
            await response(problem.status, problem.detail)(scope, receive, send_guarded)
            return
        await self._bounded(scope, headers, receive, send_guarded)

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if host not in self._rules.hosts:
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"this page is not called {host!r}; start it with --host {host or 'NAME'}",
            )
        if scope["method"] in ("GET", "HEAD"):
            return
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
        if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise ProblemError(HTTPStatus.FORBIDDEN, "the request comes from another page")

    def _asks_to_enter(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return scope["path"] == "/" and self._rules.token is not None and self._is_token(given)

    def _enter(self) -> RedirectResponse:
        answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        answer.set_cookie(COOKIE, self._rules.token or "", httponly=True, samesite="strict")
        return answer

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        if self._rules.token is None or scope["path"].startswith("/static/"):
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        cookie = _cookie(headers.get("cookie", ""))
        if not ((scheme.lower() == "bearer" and self._is_token(bearer)) or self._is_token(cookie)):
            raise ProblemError(
                HTTPStatus.UNAUTHORIZED,
                "a token is needed: open the page as /?token=…, or send Authorization: Bearer …",
            )

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), (self._rules.token or "").encode())

    async def _bounded(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        most = self._rules.max_bytes
        taken = 0
        started = ended = False

        async def receive_bounded() -> Message:
            nonlocal taken, ended
            message = await receive()
            taken += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if taken > most:
                raise _TooLarge
            return message

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        length = headers.get("content-length", "0")
        try:
            if length.isdecimal() and int(length) > most:
                raise _TooLarge
            await self._app(scope, receive_bounded, send_noted)
        except _TooLarge:
            if started:
                raise
            while not ended and taken < _DRAINED:
                message = await receive()
                taken += len(message.get("body", b""))
                ended = not message.get("more_body", False)
            detail = f"the request is over the limit of {most >> 20} MiB; send less at a time, or raise --max-upload"
            await response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)(scope, receive, send)


class _TooLarge(BaseException):
    """Not an Exception, which those in between would take for a fault of theirs."""


def _cookie(header: str) -> str:
    try:
        cookies = SimpleCookie(header)
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
