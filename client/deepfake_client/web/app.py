"""The page and the REST interface as one program."""

from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from ..client import DetectorClient
from ..evidence.receipt import client_version
from . import problems
from .guard import Guard, Rules
from .links import Links, Origin
from .pages import pages, static_files
from .rest import rest
from .work import Work

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine."""


def create_app(
    client: DetectorClient,
    *,
    hosts: frozenset[str] = LOOPBACK,
    max_upload: int = 256 << 20,
    token: str | None = None,
    links_from: tuple[Origin, ...] = (),
) -> ASGIApp:
    """Makes the program.

    Args:
        client: Who asks the detector's server.
        hosts: Names by which it may be called.
        max_upload: Bytes of one request.
        token: That requests must bear; None for none.
        links_from: Whose links to files are followed.
    """
    work, links = Work(client), Links(links_from, max_upload)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        yield
        client.close()

    app = FastAPI(
        title="Deepfake detector",
        version=client_version(),
        description="Images and videos in, rows out: a client of the detector's gRPC server.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        lifespan=lifespan,
    )
    problems.install(app)
    app.mount("/static", StaticFiles(directory=static_files()), name="static")
    app.include_router(pages(work, max_upload, links))
    app.include_router(rest(work, links))
    return Guard(app, Rules(hosts, max_upload, token))
