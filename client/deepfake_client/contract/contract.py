"""The wire contract: what the served models and their clients must agree on. One source for both.

The client is a distribution of its own and imports nothing of this project, so it carries verbatim copies of this
file, `streams.py` and `status.py`. `scripts/contract` makes them, and a test holds them equal.
"""

import re

from . import status
from .streams import STREAMS

PREPROCESS_MODEL, VOTER_MODEL, PROVENANCE_MODEL = "preprocess", "voter", "provenance"
"""The models that clients ask about: for limits, for the calibration, for the weights."""

FACE_FINDER_MODEL = "face_finder"
"""The model that finds every face of an image and cuts it out as an image of its own."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Ends of the names of files that are taken for images in folders, in upper or lower case."""

IMAGE, FACE_BOX = "IMAGE", "FACE_BOX"
"""Inputs of the ensemble: BYTES [N, 1], an encoded file; FP32 [N, 4], a row of NaN where no box is supplied."""

OUTPUTS = {
    "SCORE": ("FP32", 1),
    "PROBABILITY": ("FP32", 1),
    "STREAM_PROBABILITIES": ("FP32", len(STREAMS)),
    "STREAM_VOTES": ("FP32", len(STREAMS)),
    "FACE": ("FP32", 4),
    "FACE_CONFIDENCE": ("FP32", 1),
    "FACE_SOURCE": ("BYTES", 1),
    "STATUS": ("BYTES", 1),
}
"""Outputs of the ensemble: Triton's datatype, and the number of values for one image.

Scores, probabilities, votes and confidences are 0 to 1. `FACE` is x1, y1, x2, y2 in pixels of the decoded image. What
does not exist is NaN, and everything is where the status is not `ok`."""

VERDICT_ENSEMBLE = "deepfake_verdict"
"""The ensemble that asks late streams only about images whose verdict they could change."""

THRESHOLD = "THRESHOLD"
"""Its further input: FP32 [N, 1], on the probability; NaN for the published reading of the vote."""

VERDICT_OUTPUTS = {
    "VERDICT": ("BYTES", 1),
    "SCORE_RANGE": ("FP32", 2),
    "PROBABILITY_RANGE": ("FP32", 2),
    "STREAMS_RUN": ("BYTES", 1),
    **{
        name: OUTPUTS[name]
        for name in ("STREAM_PROBABILITIES", "STREAM_VOTES", "FACE", "FACE_CONFIDENCE", "FACE_SOURCE", "STATUS")
    },
}
"""Its outputs, as `OUTPUTS`. The ranges are what `SCORE` and `PROBABILITY` could still be, the lower end first."""

PROVENANCE = "PROVENANCE"
"""Output of the model `provenance`: BYTES [1], the JSON object that the export wrote."""

UNTRAINED, PRECISION, STREAMS_KEY, FACE_MODELS_KEY = "untrained", "precision", "streams", "face_models"
"""Keys of that object: whether any weights are random (boolean), the networks' precision, and the checkpoints of each
stream and face network by its name."""

STATE = "state"
"""Key of that object, and of a stream's entry there: what the weights are, one of `WEIGHTS_STATES`."""

WEIGHTS_STATES = ("untrained", "stand-in", "unknown", "own", "published")
"""Random; trained on samples, for trials alone; learnt, of unknown origin; trained by this project's `training`; the
authors', by their digests. What promises least comes first."""

SHA256 = "sha256"
"""Key of a stream's entry there: SHA-256 of its checkpoint, hexadecimal."""

STATUSES = frozenset(value for name, value in vars(status).items() if name.isupper())
"""Every value of `STATUS`."""

FACE_SUPPLIED, FACE_TOO_SMALL, FACE_NONE, FACE_NOT_NEEDED = "supplied", "too_small", "none", "not_needed"
"""Values of `FACE_SOURCE` beside the names of detection attempts."""

MAX_TEXT = 64
"""Most characters of a `STATUS` or `FACE_SOURCE`, all of them a-z, 0-9 and _."""

MAX_BYTES_PARAMETER = "max_bytes"
"""Parameter of `preprocess`: most bytes of one encoded image."""

CALIBRATION_PARAMETER, NO_CALIBRATION = "CALIBRATION", "paper"
"""Parameter of `voter`: the text of the calibration in force, or this word where the vote is the published method's."""

OVERLOADED, STUCK = "OVERLOADED", "STUCK"
"""Why a request is refused before any work, with gRPC's UNAVAILABLE: the server is full, and the request is to be sent
again a little later; or nothing has left the server for unusually long, and a supervisor should look at it."""

_REFUSAL = re.compile(rf"(?:^|, )({OVERLOADED}|{STUCK}): ")

_TRITON_OVERLOADED = "Exceeds maximum queue size"  # Triton's own words for a full queue; it gives no code


def refusal(code: str, reason: str) -> str:
    """The message of a refused request: its code for programs, and the reason for people."""
    return f"{code}: {reason}"


def refusal_code(message: str) -> str | None:
    """The code in an error message of the server; None where it is no refusal."""
    if found := _REFUSAL.search(message):
        return found[1]
    return OVERLOADED if _TRITON_OVERLOADED in message else None
