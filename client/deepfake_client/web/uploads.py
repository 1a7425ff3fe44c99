"""From a request to what is scored: files of a form, or images in JSON; within limits."""

import base64
import binascii
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, BinaryIO, cast

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from ..images.items import Faces
from ..video import Sampling, VideoOptions
from .links import Links
from .problems import ProblemError

MAX_FILES = 64
"""Images and videos of one request."""

_MAX_NAME = 1024


@dataclass(frozen=True)
class Upload:
    """One image or video of a request.

    Attributes:
        name: As it was given.
        file: Open until the request ends.
        box: The face, where it is known.
    """

    name: str
    file: BinaryIO
    box: tuple[float, ...] | None = None

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.file.seek(0, io.SEEK_END)

    def read(self) -> bytes:
        """All of it."""
        self.file.seek(0)
        return self.file.read()


class Image(BaseModel):
    """One image in a JSON request."""

    model_config = ConfigDict(extra="forbid")
    data: str = Field(description="The encoded image (JPEG, PNG, WebP, BMP, TIFF), base64")
    name: str = Field("image", max_length=_MAX_NAME, description="Becomes the path of its row")
    face_box: tuple[float, float, float, float] | None = Field(
        None, description="x1, y1, x2, y2 in pixels, where known"
    )


class ScoreRequest(BaseModel):
    """The body of a JSON request."""

    model_config = ConfigDict(extra="forbid")
    images: list[Image] = Field(min_length=1, max_length=MAX_FILES)
    faces: Faces = "main"


@dataclass(frozen=True)
class Asked:
    """What is asked for."""

    uploads: list[Upload]
    faces: Faces | None
    videos: VideoOptions
    fields: dict[str, str]


@asynccontextmanager
async def read_request(request: Request, links: Links) -> AsyncIterator[Asked]:
    """The uploads of a request within the block; nothing of them is kept after it.

    Args:
        request: With files, or links to files.
        links: Which links are followed.

    Raises:
        ProblemError: It is not what it should be.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        yield _from_json(await request.body())
    elif kind == "multipart/form-data":
        try:
            form = await request.form(max_files=MAX_FILES, max_fields=32)
        except HTTPException as error:
            raise ProblemError(HTTPStatus.BAD_REQUEST, f"the form is not understood: {error.detail}") from error
        try:
            items = form.multi_items()
            given = [value for name, value in items if name == "link" and isinstance(value, str) and value.strip()]
            fetched = await run_in_threadpool(links.fetch, [link.strip() for link in given])
            yield _from_form(items, [Upload(name[:_MAX_NAME], file) for name, file in fetched])
        finally:
            await form.close()
    else:
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the body is {kind or 'of no kind'}; send multipart/form-data or application/json",
        )


def _from_json(body: bytes) -> Asked:

    try:
        asked = ScoreRequest.model_validate_json(body)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, reasons) from error
    uploads = []
    for place, image in enumerate(asked.images):
        try:
            data = base64.b64decode(image.data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ProblemError(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"images.{place}.data is not base64: {error}"
            ) from error
        uploads.append(Upload(image.name, io.BytesIO(data), image.face_box))
    return Asked(uploads, asked.faces, VideoOptions(), {})


def _from_form(items: list[tuple[str, Any]], linked: list[Upload]) -> Asked:
    uploads = [
        Upload((value.filename or "upload")[:_MAX_NAME], value.file)
        for name, value in items
        if isinstance(value, UploadFile) and name == "file" and (value.filename or value.size or not linked)
    ] + linked
    fields = {name: value for name, value in items if isinstance(value, str)}
    if not uploads:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "no file; send each as a part called file, or its link")
    faces = fields.get("faces")
    if faces not in (None, "main", "all"):
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"faces is {faces!r}; it must be main or all")
    try:
        sampling = Sampling(
            float(fields["fps"]) if fields.get("fps") else None, int(fields["frames"]) if fields.get("frames") else None
        )
    except ValueError as error:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"fps or frames: {error}") from error
    wanted = cast("Faces | None", faces)
    videos = VideoOptions(sampling, wanted or "all", keep_frames=fields.get("frame_rows", "").lower() in ("1", "true"))
    return Asked(uploads, wanted, videos, fields)
