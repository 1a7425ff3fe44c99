"""The REST interface: images and videos in, rows out."""

import json
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from .links import Links
from .problems import ProblemError
from .uploads import MAX_FILES, ScoreRequest, read_request
from .work import Work, rows_of

_FORM = {
    "type": "object",
    "properties": {
        "file": {"type": "array", "maxItems": MAX_FILES, "items": {"type": "string", "format": "binary"}},
        "link": {
            "type": "array",
            "items": {"type": "string", "format": "uri"},
            "description": "Of a file to fetch, instead of the file; only from hosts that --links-from names",
        },
        "faces": {"type": "string", "enum": ["main", "all"], "description": "main for images, all for videos"},
        "fps": {"type": "number", "description": "Frames of a video to score each second; 2 where left out"},
        "frames": {"type": "integer", "description": "Frames of a video to score in all, instead of fps"},
        "frame_rows": {"type": "boolean", "description": "A row for each scored frame as well"},
    },
}

_PROBLEM = {
    "description": "A problem (RFC 9457)",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                },
            }
        }
    },
}

_HEALTH_SECONDS = 5.0


def rest(work: Work, links: Links) -> APIRouter:
    """The routes below /v1."""
    router = APIRouter(prefix="/v1", tags=["detector"])
    problems: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 413, 415, 422, 502, 503), _PROBLEM)

    @router.post(
        "/score",
        responses=problems,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": {"schema": _FORM},
                    "application/json": {"schema": ScoreRequest.model_json_schema(ref_template="{model}")},
                },
            }
        },
    )
    async def score(request: Request) -> Response:
        """Scores images and videos.

        A row for each, in order, as in the client's JSONL; those that cannot be scored have a `status` that says why.
        With `Accept: application/x-ndjson` a row a line, else an object with `rows`.
        """
        async with read_request(request, links) as asked:
            rows = rows_of(await work.score(asked))
        if "application/x-ndjson" in request.headers.get("accept", ""):
            lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
            return PlainTextResponse(lines, media_type="application/x-ndjson")
        return JSONResponse({"rows": rows})

    @router.get("/health", responses={503: _PROBLEM})
    async def health() -> Response:
        """Whether the detector's server scores a test image, and what it runs."""
        await run_in_threadpool(work.client.wait_ready, _HEALTH_SECONDS)
        return JSONResponse({"status": "ok", **(await work.deployment(fresh=True)).to_dict()})

    @router.get("/{path:path}", include_in_schema=False)
    async def nothing(path: str) -> Response:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"there is no /v1/{path}; see /docs")

    return router
