"""What a client gets back: verdicts, and what is known about the server."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from .contract.contract import STATE, WEIGHTS_STATES
from .contract.streams import STREAMS

STREAM_NAMES = tuple(stream.name for stream in STREAMS)
"""The streams of the ensemble, in the order of the server's arrays."""

Decision = Literal["fake", "real", "uncertain"]
"""A verdict in a word: see `decide`."""


@dataclass(frozen=True)
class StreamVerdict:
    """What one stream says.

    Attributes:
        probability: Probability that the image is fake, 0 to 1. None where the image was not scored.
        vote: The same with one decimal, as it enters the vote.
    """

    probability: float | None = None
    vote: float | None = None


@dataclass(frozen=True)
class Face:
    """The face that the Localized Facial stream looked at.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the decoded image. None where the whole image was used.
        confidence: Confidence of its detection, 0 to 1, where a detector gave one.
        source: "supplied"; the attempt that found it, such as "raw" or "bilateral"; "too_small"; "none".
    """

    box: tuple[float, float, float, float] | None = None
    confidence: float | None = None
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a row."""
        return {
            "box": None if self.box is None else list(self.box),
            "confidence": self.confidence,
            "source": self.source,
        }


def _no_streams() -> dict[str, StreamVerdict]:
    return {name: StreamVerdict() for name in STREAM_NAMES}


@dataclass(frozen=True)
class Verdict:
    """What the detector says about one image.

    Attributes:
        path: The path as it was given. None for an image given as bytes.
        status: "ok" where the image was scored; otherwise why not (see `STATUS_HINTS`), and the numbers are None.
        score: The ensemble's vote: fake probability in steps of 0.1.
        probability: Weighted mean of the streams before any rounding, 0 to 1: use it for ranking.
        streams: What each stream says, by its name.
        face: The face that was looked at.
        error: What went wrong, where the status is "unreadable_file" or "request_failed".
        faces: Where every face was asked for, a verdict on each that is large enough to judge, by falling confidence of
            its detection; the image's own is then that of the face with the highest probability. Empty where there is
            none: then the whole image is judged. None where only the main face was asked for.
        threshold: Where an operating point is applied, its threshold on `probability`, which then decides the verdict.
        weights: Which weights gave it: `Provenance.identity` of the server that answered. None where it does not say.
        untrained: Whether any of these are random: then the numbers mean nothing.
        stand_in: What they are, where they stand in for the method's own weights; else None.
        sha256: Of the image's file, where that was asked for.
        index: Place of its image among the items that `score_many` was given, from 0; None from `score`.
    """

    path: str | None
    status: str
    score: float | None = None
    probability: float | None = None
    streams: Mapping[str, StreamVerdict] = field(default_factory=_no_streams, hash=False)
    face: Face = field(default_factory=Face)
    error: str | None = None
    faces: "tuple[Verdict, ...] | None" = None
    threshold: float | None = None
    weights: str | None = None
    untrained: bool | None = None
    stand_in: str | None = None
    sha256: str | None = None
    index: int | None = field(default=None, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the image was scored."""
        return self.status == "ok"

    @property
    def verdict(self) -> Decision | None:
        """The score in a word (see `decide`), or what the threshold says. None where the image was not scored."""
        if self.threshold is not None and self.probability is not None:
            return decide_by(self.probability, self.threshold)
        return None if self.score is None else decide(self.score)

    def decided_by(self, threshold: float | None) -> "Verdict":
        """The same, decided by a threshold on the probability; its faces as well."""
        faces = self.faces and tuple(face.decided_by(threshold) for face in self.faces)
        return replace(self, threshold=None if threshold is None else as_single(threshold), faces=faces)

    def rows(self) -> "Iterable[Verdict]":
        """What has a row of its own in a file: for an image itself."""
        return (self,)

    def extra_columns(self) -> dict[str, Any]:
        """Fields of a file's row, by column, that images do not have."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The row of a JSONL file: plain values, None for what is not there, `error` only where there is one."""
        row: dict[str, Any] = {
            "path": self.path,
            "status": self.status,
            "score": self.score,
            "probability": self.probability,
            "verdict": self.verdict,
            "streams": {name: {"probability": s.probability, "vote": s.vote} for name, s in self.streams.items()},
            "face": self.face.to_dict(),
        }
        if self.faces is not None:
            row["face_count"] = len(self.faces)
            row["faces"] = [_face_row(face) for face in self.faces]
        if self.threshold is not None:
            row["threshold"] = self.threshold
        if self.weights is not None:
            row["weights"] = {"identity": self.weights, "untrained": self.untrained}
            if self.stand_in is not None:
                row["weights"]["stand_in"] = self.stand_in
        if self.sha256 is not None:
            row["sha256"] = self.sha256
        if self.error is not None:
            row["error"] = self.error
        return row


def _face_row(verdict: Verdict) -> dict[str, Any]:
    """One of several faces: its place first, and the rest as in the row of an image."""
    row = {
        name: value for name, value in verdict.to_dict().items() if name not in ("path", "face", "weights", "threshold")
    }
    return {**verdict.face.to_dict(), **row}


def decide(score: float) -> Decision:
    """The word for a score: "fake" above 0.5, "real" below, "uncertain" at exactly 0.5.

    The published method has no decision threshold: its score is a fake probability in steps of 0.1, and the challenge
    measures ranking alone. This is its plain reading; where false alarms and misses cost differently, put a threshold
    of your own on `Verdict.probability`.
    """
    if score == 0.5:
        return "uncertain"
    return "fake" if score > 0.5 else "real"


def decide_by(probability: float, threshold: float) -> Decision:
    """The word for a probability at a threshold, which is compared as the server compares it: see `as_single`."""
    return "fake" if probability > as_single(threshold) else "real"


def as_single(value: float | np.float32) -> float:
    """The float32 next to a number, as the shortest decimal that stands for it (0.3, not 0.30000001192092896).

    Probabilities and thresholds are FP32 in the protocol. Taken so at both ends, they compare alike at both.
    """
    return float(str(np.float32(value)))


@dataclass(frozen=True)
class Provenance:
    """Which weights give the verdicts.

    Attributes:
        untrained: True where any stream has random weights: its scores mean nothing.
        document: Everything the server says: precision, time of export, checkpoints with their digests, face detector.
    """

    untrained: bool
    document: Mapping[str, Any] = field(hash=False)

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits that stand for the document, whenever it was made: other weights, other digits."""
        undated = {name: value for name, value in self.document.items() if name != "created"}
        return sha256(json.dumps(undated, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def state(self) -> str:
        """What the weights are, as the export found: "untrained", "stand-in", "unknown", "own" or "published".

        A server whose models are from an earlier export does not say whose they are: "unknown".
        """
        if self.untrained:
            return "untrained"
        if self.stand_in:
            return "stand-in"
        said = self.document.get(STATE)
        return str(said) if said in WEIGHTS_STATES else "unknown"

    @property
    def stand_in(self) -> str:
        """What the weights were trained on where they are stand-ins, good for nothing else; empty otherwise."""
        return str(self.document.get("stand_in") or "")


@dataclass(frozen=True)
class ServerInfo:
    """What the server says about itself.

    Attributes:
        name: Name of the server, "triton".
        version: Its version.
        model: The model that this client asks.
        max_batch_size: Most images that it takes in one request.
    """

    name: str
    version: str
    model: str
    max_batch_size: int


@dataclass(frozen=True)
class ServerStatus:
    """What a client knows of one of its servers.

    Attributes:
        address: HOST:PORT, with the name that it stands behind.
        available: Whether it gets requests; one that fails is left out until it scores a test image.
        in_flight: Requests that this client has there now.
        limit: Requests that `score_many` puts there at once, at present.
        answered: Requests for scores that it has answered.
        failed: Requests that it has failed.
        error: Its last failure, where it has answered nothing since.
        p50: Seconds that half of the answers took at most, within 1 %. None where there are none yet.
        p95: The same of 95 % of them.
    """

    address: str
    available: bool
    in_flight: int
    limit: int
    answered: int
    failed: int
    error: str | None
    p50: float | None = None
    p95: float | None = None
