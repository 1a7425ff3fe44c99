"""The page: what visitors see. Everything is rendered here; the script only sends files and shows what comes back."""

import base64
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..errors import DetectorError
from ..evidence import bundle, rule_of, what_would_change
from ..evidence.bundle import TITLES, data_url
from ..results import Verdict
from ..status import explain
from ..video import VideoVerdict, draw_timeline
from .links import Links
from .problems import ProblemError, detail_of, status_of
from .uploads import Asked, read_request
from .work import Work, is_movie

CSRF = "csrf"
"""Name of the field, and of the header without its X-, that the page's requests bear."""


def pages(work: Work, max_bytes: int, links: Links) -> APIRouter:
    """The routes of the page."""
    router = APIRouter(include_in_schema=False)
    secret = secrets.token_urlsafe(32)
    environment = Environment(loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"data_url": data_url, "svg_url": _svg_url}
    environment.globals |= {"titles": TITLES, "explain": explain}

    def render(name: str, **values: Any) -> str:
        return environment.get_template(name).render(**values)

    async def page(status: int = HTTPStatus.OK, result: str = "") -> HTMLResponse:
        deployment, trouble = None, None
        try:
            deployment = await work.deployment(fresh=True)
        except DetectorError as error:
            trouble = detail_of(error)
        return HTMLResponse(
            render(
                "page.html.j2",
                csrf=secret,
                deployment=None if deployment is None else deployment.to_dict(),
                trouble=trouble,
                max_mib=max_bytes >> 20,
                links=[str(origin) for origin in links.allowed],
                result=result,
            ),
            status,
        )

    @asynccontextmanager
    async def read(request: Request) -> AsyncIterator[Asked]:
        async with read_request(request, links) as asked:
            given = request.headers.get(f"x-{CSRF}") or asked.fields.get(CSRF, "")
            if not secrets.compare_digest(given.encode(), secret.encode()):
                raise ProblemError(
                    HTTPStatus.FORBIDDEN, "the page is from before a restart, or is another; load it again"
                )
            yield asked

    def is_script(request: Request) -> bool:
        return f"x-{CSRF}" in request.headers

    async def answer(request: Request, fragment: str) -> HTMLResponse:
        return HTMLResponse(fragment) if is_script(request) else await page(result=fragment)

    async def troubled(request: Request, status: int, detail: str) -> HTMLResponse:
        fragment = render("trouble.html.j2", detail=detail)
        return HTMLResponse(fragment, status) if is_script(request) else await page(status, fragment)

    @router.get("/")
    async def index() -> HTMLResponse:
        return await page()

    @router.post("/ui/score")
    async def score(request: Request) -> HTMLResponse:
        try:
            async with read(request) as asked:
                verdicts = await work.score(asked)
            deployment = await work.deployment()
        except DetectorError as error:
            return await troubled(request, status_of(error), detail_of(error))
        except ProblemError as problem:
            return await troubled(request, problem.status, problem.detail)
        rule = rule_of(deployment.calibration)
        state = deployment.to_dict()["weights"]["state"]
        shown = [_shown(verdict, is_movie(upload)) for verdict, upload in zip(verdicts, asked.uploads, strict=True)]
        return await answer(request, render("result.html.j2", results=shown, rule=rule, state=state))

    @router.post("/ui/fetch")
    async def fetched(request: Request) -> Response:
        """The file at a link, which the page then takes for one that was dropped."""
        async with read(request) as asked:
            headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(asked.uploads[0].name, safe='')}"}
            return Response(asked.uploads[0].read(), media_type="application/octet-stream", headers=headers)

    @router.post("/ui/explain")
    async def explained(request: Request) -> HTMLResponse:
        try:
            async with read(request) as asked:
                evidence = await work.evidence(asked, with_maps=True, with_copies=False)
        except DetectorError as error:
            return await troubled(request, status_of(error), detail_of(error))
        changes = what_would_change(evidence.verdict, evidence.rule)
        return await answer(request, render("explained.html.j2", evidence=evidence, changes=changes))

    @router.post("/ui/stability")
    async def stability(request: Request) -> HTMLResponse:
        try:
            async with read(request) as asked:
                evidence = await work.evidence(asked, with_maps=False, with_copies=True)
        except DetectorError as error:
            return await troubled(request, status_of(error), detail_of(error))
        return await answer(request, render("stability.html.j2", evidence=evidence))

    @router.post("/ui/evidence")
    async def zipped(request: Request) -> Response:
        async with read(request) as asked:
            evidence = await work.evidence(asked, with_maps=True, with_copies=True)
        headers = {"Content-Disposition": 'attachment; filename="evidence.zip"'}
        return Response(bundle(evidence), media_type="application/zip", headers=headers)

    @router.get("/docs")
    async def documentation(request: Request) -> HTMLResponse:
        return HTMLResponse(render("docs.html.j2", schema=request.app.openapi()))

    return router


def static_files() -> Path:
    """The folder of the style sheet and the script."""
    return Path(__file__).parent / "static"


def _shown(verdict: Verdict, movie: bool) -> dict[str, Any]:
    faces = [face for face in verdict.faces or (verdict,) if face.face.box is not None]
    return {
        "verdict": verdict,
        "movie": movie,
        "video": verdict.video if isinstance(verdict, VideoVerdict) else None,
        "timeline": draw_timeline(verdict) if isinstance(verdict, VideoVerdict) and verdict.ok else None,
        "boxes": [] if movie else [[*(face.face.box or ()), face.verdict] for face in faces],
    }


def _svg_url(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode('utf-8', 'backslashreplace')).decode()}"
