"""Client of the deepfake detector served by NVIDIA Triton: images in, verdicts out, over gRPC.

from deepfake_client import DetectorClient

with DetectorClient("localhost:8001") as client:
    print(client.score("photo.jpg").verdict)
"""

from ._aio import AsyncDetectorClient
from ._calibration import Calibration, OperatingPoint
from ._client import DetectorClient
from ._errors import (
    AccessDeniedError,
    DetectorError,
    InvalidResponseError,
    RequestFailedError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from ._items import Image, ImageItem
from ._results import STREAM_NAMES, Face, Provenance, ServerInfo, ServerStatus, StreamVerdict, Verdict, decide
from ._status import STATUS_HINTS, explain

__all__ = [
    "STATUS_HINTS",
    "STREAM_NAMES",
    "AccessDeniedError",
    "AsyncDetectorClient",
    "Calibration",
    "DetectorClient",
    "DetectorError",
    "Face",
    "Image",
    "ImageItem",
    "InvalidResponseError",
    "OperatingPoint",
    "Provenance",
    "RequestFailedError",
    "ServerInfo",
    "ServerOverloadedError",
    "ServerStatus",
    "ServerUnavailableError",
    "StreamVerdict",
    "Verdict",
    "decide",
    "explain",
]
