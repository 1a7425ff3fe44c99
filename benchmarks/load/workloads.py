"""The images that loads are made of: JPEG or PNG, with the face supplied, found by the server, or absent."""

import base64
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.common.serving import PHOTOGRAPHS
from ensemble.contract import FACE_NONE
from ensemble.faces.detection import Box
from ensemble.faces.haar import HaarDetector
from ensemble.faces.localisation import locate_faces
from ensemble.faces.restoration import ATTEMPTS
from ensemble.images import decode

Encoding = Literal["jpeg", "png"]
Face = Literal["supplied", "found", "none"]

JPEG_QUALITY = 90

Pixels = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], BGR: OpenCV's order."""


@dataclass(frozen=True)
class Workload:
    """A kind of images.

    Attributes:
        encoding: How they are encoded.
        face: `supplied`: the request holds the box. `found`: the detector finds a face in the image itself.
            `none`: it finds none in any of its attempts, the dearest case.
    """

    encoding: Encoding
    face: Face

    def __str__(self) -> str:
        return f"{self.encoding.upper()}, {'no face' if self.face == 'none' else f'face {self.face}'}"


MAIN = Workload("jpeg", "supplied")
"""The load of the ratios: nothing but decoding, networks and vote, so that a server's own cost shows most."""

OTHERS = (Workload("png", "supplied"), Workload("jpeg", "found"), Workload("jpeg", "none"))
"""One difference each: the encoding, and what the face costs."""


@dataclass(frozen=True)
class Item:
    """One image of a load: the encoded file, and the face box where it is supplied."""

    data: bytes
    box: Box | None


@cache
def items(workload: Workload) -> list[Item]:
    """The images of a workload, a handful of 256×256: loads go round them.

    The photographs of the golden data that are what `face` says; those are few, and each is taken in four shades, so
    that no cache can make one answer of them.
    """
    images = [np.asarray(cv2.imread(str(path)), np.uint8) for path in PHOTOGRAPHS]
    encoded = [_encode(_shaded(image, step), workload.encoding) for image in images for step in range(4)]
    if workload.face == "supplied":
        return [Item(data, (64.0, 56.0, 176.0, 190.0)) for data in encoded]
    decoded = [decode(data) for data in encoded]
    wanted, attempts = {"found": (ATTEMPTS[0].name, ATTEMPTS[:1]), "none": (FACE_NONE, ATTEMPTS)}[workload.face]
    locations = locate_faces(decoded, [None] * len(decoded), HaarDetector(), attempts)
    chosen = [Item(data, None) for data, where in zip(encoded, locations, strict=True) if where.source == wanted]
    assert chosen, f"no photograph of the golden data is {workload}"
    return chosen


def write_perf_analyzer_input(path: Path, images: list[Item]) -> None:
    """The images as perf_analyzer reads them: a request's inputs each, strings as base64 of length and bytes."""
    document = {"data": [_request(image) for image in images]}
    path.write_text(json.dumps(document), encoding="utf-8")


def _request(image: Item) -> dict[str, object]:
    framed = len(image.data).to_bytes(4, "little") + image.data
    request: dict[str, object] = {"IMAGE": {"b64": base64.b64encode(framed).decode(), "shape": [1]}}
    if image.box is not None:
        request["FACE_BOX"] = {"content": list(image.box), "shape": [4]}
    return request


def _shaded(image: Pixels, step: int) -> Pixels:
    return np.asarray(cv2.convertScaleAbs(image, alpha=1 - 0.02 * step), np.uint8)


def _encode(image: Pixels, encoding: Encoding) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if encoding == "jpeg" else []
    return cv2.imencode(f".{encoding}", image, options)[1].tobytes()
