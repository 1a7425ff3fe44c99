"""Client of the deepfake detector served by NVIDIA Triton: images in, verdicts out, over gRPC.

from deepfake_client import DetectorClient

with DetectorClient("localhost:8001") as client:
    print(client.score("photo.jpg").verdict)

What it raises:

    DetectorError
    ├── ServerUnavailableError
    │   └── ServerOverloadedError
    ├── RequestFailedError
    │   └── AccessDeniedError
    └── InvalidResponseError

`deepfake_client.ray` and `deepfake_client.spark` score datasets there; each needs the extra of its name.
"""

from .aio import AsyncDetectorClient
from .calibration import Calibration, OperatingPoint
from .client import DetectorClient
from .early import EarlyVerdict
from .errors import (
    AccessDeniedError,
    DetectorError,
    InvalidResponseError,
    RequestFailedError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from .images.items import FaceBox, Image, ImageItem, Item
from .results import STREAM_NAMES, Decision, Face, Provenance, ServerInfo, ServerStatus, StreamVerdict, Verdict, decide
from .status import STATUS_HINTS, explain

__all__ = [
    "STATUS_HINTS",
    "STREAM_NAMES",
    "AccessDeniedError",
    "AsyncDetectorClient",
    "Calibration",
    "Decision",
    "DetectorClient",
    "DetectorError",
    "EarlyVerdict",
    "Face",
    "FaceBox",
    "Image",
    "ImageItem",
    "InvalidResponseError",
    "Item",
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
