"""A verdict on every face: from what the server's face finder says to images that are scored, and back; pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from ..results import Face, Verdict
from .items import EncodedImage

MOST_IMAGES = 32
"""Images that the detector takes in one request."""

_NO_FACE = (0.0, 0.0, 1.0, 1.0)
"""A face that is too small for any image: it spares the server a second search where the first one found none."""


@dataclass(frozen=True)
class FoundFace:
    """One face of an image.

    Attributes:
        face: Where it is in the image.
        frame: The square around it, as an encoded image of its own.
        box: Its box in that.
    """

    face: Face
    frame: bytes
    box: tuple[float, ...]


@dataclass(frozen=True)
class FoundFaces:
    """What the face finder says of one image.

    Attributes:
        status: "ok", or why it was not searched.
        found: Faces that there are, those that are too small to judge included.
        faces: Those that are large enough.
    """

    status: str
    found: int
    faces: Sequence[FoundFace]


def is_searched(image: EncodedImage) -> bool:
    """Whether an image's faces are to be found: all are wanted, and none is supplied."""
    return image.faces == "all" and (image.box is None or any(map(math.isnan, image.box)))


class EveryFace:
    """The images of one request whose faces were found where that is wanted.

    Args:
        images: All images of the request.
        found: What the face finder says of those that are searched, in their order.
    """

    def __init__(self, images: Sequence[EncodedImage], found: Sequence[FoundFaces]) -> None:
        left = iter(found)
        self._images = [(image, next(left) if is_searched(image) else None) for image in images]
        self._frames = [[image] if faces is None else _frames(image, faces) for image, faces in self._images]

    def requests(self, size: int) -> Iterator[list[EncodedImage]]:
        """What is scored in the place of the images, in requests of at most `size`."""
        frames = [frame for each in self._frames for frame in each]
        size = min(size, MOST_IMAGES)
        return (frames[start : start + size] for start in range(0, len(frames), size))

    def verdicts(self, scored: Sequence[Verdict]) -> list[Verdict]:
        """The verdicts on the images, from those on what was scored in their place."""
        left = iter(scored)
        own = [list(islice(left, len(frames))) for frames in self._frames]
        return [
            verdicts[0] if faces is None else _with_faces(image, faces, verdicts)
            for (image, faces), verdicts in zip(self._images, own, strict=True)
        ]


def _frames(image: EncodedImage, found: FoundFaces) -> list[EncodedImage]:
    """The faces; the image itself, where none is large enough; nothing, where it is bad."""
    if found.status != "ok":
        return []
    if found.faces:
        return [EncodedImage(image.path, face.frame, face.box) for face in found.faces]
    return [replace(image, faces="main", box=None if found.found else _NO_FACE)]


def _with_faces(image: EncodedImage, found: FoundFaces, scored: Sequence[Verdict]) -> Verdict:
    """The verdict on an image from those of its frames: that of its worst face, with all of them."""
    if found.status != "ok":
        return Verdict(image.path, found.status)
    if not found.faces:
        (whole,) = scored
        if not found.found:
            whole = replace(whole, face=Face(source="none"))
        return replace(whole, faces=())
    faces = tuple(
        replace(verdict, path=None, face=each.face) for verdict, each in zip(scored, found.faces, strict=True)
    )
    worst = max(faces, key=lambda face: -1.0 if face.probability is None else face.probability)
    return replace(worst, path=image.path, faces=faces)
