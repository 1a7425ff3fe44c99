"""Errors of the REST interface and of the page: problem details (RFC 9457)."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..errors import AccessDeniedError, DetectorError, ServerUnavailableError

RETRY_SECONDS = 5


class ProblemError(Exception):
    """Something that ends a request.

    Attributes:
        status: HTTP's.
        detail: What is wrong, with value, limit and fix.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def response(status: int, detail: str) -> JSONResponse:
    """A problem as an answer."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def status_of(error: DetectorError) -> int:
    """HTTP's status for an error of the detector's server."""
    return HTTPStatus.SERVICE_UNAVAILABLE if isinstance(error, ServerUnavailableError) else HTTPStatus.BAD_GATEWAY


def detail_of(error: DetectorError) -> str:
    """What a visitor is told of it: nothing about tokens and certificates."""
    return "the detector's server refuses this page's requests" if isinstance(error, AccessDeniedError) else str(error)


def install(app: FastAPI) -> None:
    """Makes every error of an app a problem."""

    def of_problem(request: Request, error: Any) -> JSONResponse:
        return response(error.status, error.detail)

    def of_http(request: Request, error: Any) -> JSONResponse:
        return response(error.status_code, str(error.detail))

    def of_validation(request: Request, error: Any) -> JSONResponse:
        reasons = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        return response(HTTPStatus.UNPROCESSABLE_ENTITY, reasons)

    def of_detector(request: Request, error: Any) -> JSONResponse:
        return response(status_of(error), detail_of(error))

    def of_anything(request: Request, error: Any) -> JSONResponse:
        return response(HTTPStatus.INTERNAL_SERVER_ERROR, "this program has a fault; its log says more")

    for kind, handler in (
        (ProblemError, of_problem),
        (HTTPException, of_http),
        (RequestValidationError, of_validation),
        (DetectorError, of_detector),
        (Exception, of_anything),
    ):
        app.add_exception_handler(kind, handler)
