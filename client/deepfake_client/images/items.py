"""From an item that a caller gives to groups of images that fit one request each, read when they are to be sent."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

from ..errors import DetectorError, RequestFailedError, ServerDiedError
from ..results import Verdict
from .files import FilePart, open_file

ImageSource = bytes | bytearray | memoryview | str | os.PathLike[str]
"""An encoded image: its bytes, or the path of its file."""

FaceBox = Sequence[float]
"""x1, y1, x2, y2 in pixels of the decoded image; it may leave the image."""

MAX_IMAGE_BYTES = 1 << 30
"""Largest image that is sent, whatever a server takes: a gRPC message ends at 2 GiB."""

Faces = Literal["main", "all"]
"""Whose verdict an image gets: its main face's, as the method has it, or one for every face that is large enough."""

REQUEST_BYTES = 32 << 20
"""A request is closed early when its images reach this size, so that memory stays bounded with large files too."""


@dataclass(frozen=True)
class Image:
    """An image, and what is wanted of it: it may stand wherever the clients take an image.

        client.score(Image("group.jpg", faces="all"))

    Attributes:
        source: The encoded image (JPEG, PNG, WebP, BMP, TIFF) as bytes, or the path of its file.
        face_box: x1, y1, x2, y2 in pixels of the decoded image, where the face is known: it replaces detection.
        faces: "all" for a verdict on every face that is large enough to judge, "main" for one on the main face.
    """

    source: ImageSource
    face_box: FaceBox | None = None
    faces: Faces = "main"


@dataclass(frozen=True)
class Item:
    """One image to score, not yet read. One of `path` and `data` is there.

    Attributes:
        path: Path of its file; with `data`, `load` or `error` only the name by which its verdict calls it.
        data: Its bytes, where they are in memory.
        box: The box of its face, where that is known.
        load: Gives its bytes where they are not a file of their own; raises OSError.
        part: Where these bytes are, if they are part of a file.
        fleeting: Whether `load` works only until the next item is taken: see `held`.
        error: Why there is nothing to read; it becomes the error of its verdict.
        size: Its bytes, where they are known without reading.
        faces: "all" for a verdict on every face instead of the main one.
        attempts: Where every face is wanted, how many versions of the image the server searches at most for faces; 0
            leaves that to the server.
        digest: Whether its verdict is to bear the SHA-256 of its bytes.
    """

    path: str | None
    data: bytes | None = None
    box: tuple[float, ...] | None = None
    load: Callable[[], bytes] | None = field(default=None, compare=False)
    part: FilePart | None = None
    fleeting: bool = False
    error: str | None = None
    size: int | None = field(default=None, compare=False)
    faces: Faces = "main"
    attempts: int = 0
    digest: bool = False

    def held(self) -> "Item":
        """The same item, for as long as it is needed: a fleeting one is loaded."""
        if not self.fleeting or self.load is None:
            return self
        try:
            return replace(self, data=self.load(), load=None, fleeting=False)
        except OSError as error:
            return replace(self, load=None, fleeting=False, error=str(error))


ImageItem = ImageSource | tuple[ImageSource, FaceBox | None] | Image | Item
"""An image, an image with the box of its face, or one with what is wanted of it; an `Item` gives bytes a name."""


@dataclass(frozen=True)
class EncodedImage:
    """One image to send."""

    path: str | None
    data: bytes
    box: tuple[float, ...] | None
    faces: Faces = "main"
    attempts: int = 0
    digest: bool = False


Group = list[EncodedImage | Verdict]
"""The images of one request in order, with verdicts in the places of those that could not be read."""


def as_item(item: ImageItem) -> Item:
    """Tells bytes, paths, (image, box) pairs and images apart; errors as `make_item`."""
    if isinstance(item, Item):
        return item
    image, box = item if isinstance(item, tuple) else (item, None)
    return make_item(image, box)


def make_item(image: ImageSource | Image, box: FaceBox | None, faces: Faces = "main") -> Item:
    """An image with the box of its face and whose verdict is wanted; an `Image` says both itself.

    Raises:
        TypeError: It is no image; or an `Image`, and a box or faces are given beside it.
        ValueError: The box is not four numbers, or faces is no word that is known.
    """
    if isinstance(image, Image):
        if box is not None or faces != "main":
            raise TypeError("Image(...) says face_box and faces itself; do not give them beside it as well")
        return make_item(image.source, image.face_box, image.faces)
    if faces not in get_args(Faces):
        raise ValueError(f"faces is {faces!r}; it must be {' or '.join(get_args(Faces))}")
    corners = None
    if box is not None:
        corners = tuple(float(value) for value in box)
        if len(corners) != 4:
            raise ValueError(f"a face box is x1, y1, x2, y2 in pixels; got {len(corners)} numbers: {box}")
    if isinstance(image, bytes | bytearray | memoryview):
        return Item(None, bytes(image), corners, faces=faces)
    if isinstance(image, str | os.PathLike):
        return Item(os.fspath(image), None, corners, faces=faces)
    raise TypeError(f"an image is bytes or a path; got {type(image).__name__}")


def read(item: Item) -> EncodedImage:
    """Reads the file of an item, if it has one.

    Raises:
        OSError: The file cannot be read, or is larger than `MAX_IMAGE_BYTES`.
    """
    if item.error is not None:
        raise OSError(item.error)
    if item.load is not None:
        return EncodedImage(item.path, item.load(), item.box, item.faces, item.attempts, item.digest)
    if item.data is not None:
        return EncodedImage(item.path, item.data, item.box, item.faces, item.attempts, item.digest)
    assert item.path is not None
    with open_file(item.path) as file:
        data = file.read(MAX_IMAGE_BYTES + 1)
    check_size(len(data), MAX_IMAGE_BYTES)
    return EncodedImage(item.path, data, item.box, item.faces, item.attempts, item.digest)


def check_size(size: int, limit: int) -> None:
    """Raises OSError where an image of so many bytes is over a limit in bytes."""
    if size > limit:
        raise OSError(f"over the limit of {limit >> 20} MiB for one image; compress or resize it")


def plan_requests(items: Sequence[Item], most_bytes: int) -> list[tuple[int, list[Item]]]:
    """Items by request, each with the bytes to read for it, as far as can be told without reading.

    Args:
        items: They are weighed, which touches their files.
        most_bytes: Bytes above which an image is not read.
    """
    groups: list[tuple[int, list[Item]]] = [(0, [])]
    for item in map(_weighed, items):
        size = item.size if item.size is not None and item.size <= most_bytes else 0
        total, group = groups[-1]
        if total and total + size > REQUEST_BYTES:
            groups.append((size, [item]))
        else:
            group.append(item)
            groups[-1] = total + size, group
    return groups


def read_group(items: Sequence[Item], most_bytes: int) -> Group:
    """Reads the images of one request; one that is too large, or cannot be read, becomes its verdict."""
    return [_read_or_verdict(item, most_bytes) for item in items]


def _weighed(item: Item) -> Item:
    if item.data is not None:
        return replace(item, size=len(item.data))
    if item.path is None or item.load is not None or item.error is not None:
        return item
    try:
        return replace(item, size=Path(item.path).stat().st_size)
    except (OSError, ValueError):  # reading it fails likewise
        return item


def _read_or_verdict(item: Item, most_bytes: int) -> EncodedImage | Verdict:
    if item.size is not None and item.size > most_bytes:
        return Verdict(item.path, "too_many_bytes")
    try:
        return read(item)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Verdict(item.path, "unreadable_file", error=f"{item.path}: {reason}")


def images_of(group: Group) -> list[EncodedImage]:
    """The images of a group, to be sent."""
    return [entry for entry in group if isinstance(entry, EncodedImage)]


def merge(group: Group, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of a group in its order: those that came back, between those of files that could not be read."""
    scored = iter(verdicts)
    return [entry if isinstance(entry, Verdict) else _with_digest(next(scored), entry) for entry in group]


def _with_digest(verdict: Verdict, image: EncodedImage) -> Verdict:
    return replace(verdict, sha256=sha256(image.data).hexdigest()) if image.digest else verdict


def may_be_one_image(images: Sequence[EncodedImage], error: DetectorError) -> bool:
    """Whether a request that failed for good may have failed for one of its images, so that each is sent alone."""
    if isinstance(error, RequestFailedError):
        return len(images) > 1 and error.code in ("INVALID_ARGUMENT", "INTERNAL")
    return len(images) > 1 and isinstance(error, ServerDiedError)


def failed(images: Sequence[EncodedImage], error: Exception) -> list[Verdict]:
    """The verdicts of images whose request failed for good."""
    status = "server_died" if isinstance(error, ServerDiedError) else "request_failed"
    return [Verdict(image.path, status, error=str(error)) for image in images]


def with_indexes(verdicts: Sequence[Verdict], start: int) -> list[Verdict]:
    """The verdicts of consecutive items with their places, the first one's being `start`."""
    return [replace(verdict, index=index) for index, verdict in enumerate(verdicts, start)]
