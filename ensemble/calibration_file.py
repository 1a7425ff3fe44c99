"""The calibration file, which `python -m forensics calibrate` writes and the step `voter` reads: JSON, read strictly.

It holds a vote, operating points, and the checkpoints that both were fitted on: for others they mean nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ensemble.calibration import (
    ROUNDING_STEPS,
    Isotonic,
    NoMap,
    OperatingPoint,
    Platt,
    ProbabilityMap,
    Temperature,
    Vote,
)
from ensemble.contract import CALIBRATION_PARAMETER, NO_CALIBRATION, SHA256, STREAMS_KEY
from ensemble.streams import STREAMS

FORMAT_VERSION = 1
"""A reader refuses every other."""

FILE_PARAMETER = "calibration_file"
ECHO_PARAMETER = CALIBRATION_PARAMETER
"""Parameters in the configuration of `voter`: the file's name, or nothing; and its text, for clients to read."""

_MAX_KNOTS = 10_000
_FIX = (
    "calibrate again and install it (`python -m forensics calibrate`), or go back to the method's own vote: "
    f"{FILE_PARAMETER} empty and {ECHO_PARAMETER} {NO_CALIBRATION!r} in voter/config.pbtxt"
)
_RATES = ("far", "threshold", "false_alarm_rate", "detection_rate")
_INTERVALS = ("threshold_interval", "false_alarm_interval", "detection_interval")


class CalibrationError(ValueError):
    """A calibration file that is not exactly what it should be; the message says where and what is expected."""


@dataclass(frozen=True)
class Calibration:
    """What a calibration file says.

    Attributes:
        created: When, ISO 8601.
        untrained: Whether it was fitted on random weights, and so means nothing.
        real: Number of real images that it was fitted on.
        fake: Number of fake ones.
        checkpoints: SHA-256 of each stream's checkpoint, by the stream's name.
        vote: How streams become a score.
        operating_points: By rising false-alarm rate.
    """

    created: str
    untrained: bool
    real: int
    fake: int
    checkpoints: Mapping[str, str]
    vote: Vote
    operating_points: tuple[OperatingPoint, ...]

    def to_text(self) -> str:
        """The file's text, JSON."""
        streams = {
            stream.name: {
                "checkpoint_sha256": self.checkpoints[stream.name],
                "weight": weight,
                "map": {"kind": each.kind, **asdict(each)},
            }
            for stream, weight, each in zip(STREAMS, self.vote.weights, self.vote.maps, strict=True)
        }
        document = {
            "version": FORMAT_VERSION,
            "created": self.created,
            "untrained": self.untrained,
            "images": {"real": self.real, "fake": self.fake},
            "streams": streams,
            "rounding_step": self.vote.rounding_step,
            "operating_points": [asdict(point) for point in self.operating_points],
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"


def parse_calibration(text: str) -> Calibration:
    """Reads a calibration file, strictly.

    Raises:
        CalibrationError: It is not JSON, of another version, a key is missing, unknown or there twice, or a value is
            of the wrong type or out of range.
    """
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except CalibrationError:
        raise
    except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, or too deep
        raise CalibrationError(f"a calibration file is JSON; this cannot be read as that: {error}") from error
    if isinstance(document, dict) and document.get("version") != FORMAT_VERSION:
        found = document.get("version")
        raise CalibrationError(f"version is {found!r}; this software reads {FORMAT_VERSION}: calibrate again with it")
    keys = ("version", "created", "untrained", "images", "streams", "rounding_step", "operating_points")
    fields = _object(document, "the file", *keys)
    images = _object(fields["images"], "images", "real", "fake")
    streams = _object(fields["streams"], "streams", *(stream.name for stream in STREAMS))
    entries = {
        name: _object(entry, f"streams.{name}", "checkpoint_sha256", "weight", "map") for name, entry in streams.items()
    }
    return Calibration(
        created=_typed(fields["created"], "created", str),
        untrained=_typed(fields["untrained"], "untrained", bool),
        real=_typed(images["real"], "images.real", int),
        fake=_typed(images["fake"], "images.fake", int),
        checkpoints={
            name: _typed(entry["checkpoint_sha256"], f"streams.{name}.checkpoint_sha256", str)
            for name, entry in entries.items()
        },
        vote=_vote(entries, fields["rounding_step"]),
        operating_points=_points(fields["operating_points"]),
    )


def read_in_force(folder: Path, file: str, echo: str) -> Calibration | None:
    """Reads the calibration that the configuration of `voter` names.

    Args:
        folder: Version folder of `voter` in the model repository.
        file: Value of its parameter `calibration_file`.
        echo: Value of its parameter `CALIBRATION`.

    Returns:
        The calibration; None where `file` is empty: the vote is the method's own.

    Raises:
        CalibrationError: The file is missing or wrong, was fitted on other checkpoints than those of the repository,
            or is not what the echo tells clients.
    """
    if not file:
        if echo != NO_CALIBRATION:
            raise CalibrationError(
                f"{ECHO_PARAMETER} of voter must be {NO_CALIBRATION!r} where {FILE_PARAMETER} is empty"
            )
        return None
    path, provenance = folder / file, folder.parents[1] / "provenance" / "1" / "provenance.json"
    try:
        text = path.read_text(encoding="utf-8")
        served = {name: each[SHA256] for name, each in json.loads(provenance.read_bytes())[STREAMS_KEY].items()}
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"a calibration cannot be read: {error}; {_FIX}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(f"{provenance} does not name the checkpoints ({error!r}); export again") from error
    try:
        calibration = parse_calibration(text)
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}; {_FIX}") from error
    if other := [name for name, sha256 in calibration.checkpoints.items() if served.get(name) != sha256]:
        raise CalibrationError(f"{path} was fitted on other checkpoints of {', '.join(other)} than are here; {_FIX}")
    if echo != echo_of(text):
        raise CalibrationError(f"{ECHO_PARAMETER} of voter does not hold the text of {path}; {_FIX}")
    return calibration


def echo_of(text: str) -> str:
    """The text of a calibration file in one line, as `CALIBRATION` holds it."""
    return json.dumps(json.loads(text), separators=(",", ":"))


def _vote(entries: Mapping[str, Mapping[str, Any]], step: object) -> Vote:
    weights = [_number(entry["weight"], f"streams.{name}.weight", 0, 1e6) for name, entry in entries.items()]
    if not any(weights):
        raise CalibrationError("the weights of all streams are 0; at least one must be above")
    if step not in ROUNDING_STEPS or isinstance(step, bool):
        raise CalibrationError(f"rounding_step is {step!r}; it must be one of {', '.join(map(str, ROUNDING_STEPS))}")
    maps = tuple(_map(entry["map"], f"streams.{name}.map") for name, entry in entries.items())
    return Vote(maps, tuple(weights), float(str(step)))


def _map(value: object, where: str) -> ProbabilityMap:
    kind = value.get("kind") if isinstance(value, dict) else None
    match kind:
        case NoMap.kind:
            _object(value, where, "kind")
            return NoMap()
        case Temperature.kind:
            fields = _object(value, where, "kind", "temperature")
            return Temperature(_number(fields["temperature"], f"{where}.temperature", 1e-3, 1e3))
        case Platt.kind:
            fields = _object(value, where, "kind", "slope", "intercept")
            slope = _number(fields["slope"], f"{where}.slope", 1e-3, 1e3)
            return Platt(slope, _number(fields["intercept"], f"{where}.intercept", -1e3, 1e3))
        case Isotonic.kind:
            fields = _object(value, where, "kind", "x", "y")
            x, y = (_probabilities(fields[axis], f"{where}.{axis}") for axis in ("x", "y"))
            if not 1 <= len(x) == len(y) <= _MAX_KNOTS:
                raise CalibrationError(f"{where} has {len(x)} x and {len(y)} y; it needs 1 to {_MAX_KNOTS} of each")
            if not (all(a < b for a, b in pairwise(x)) and list(y) == sorted(y)):
                raise CalibrationError(f"{where} must have rising x and y that never fall")
            return Isotonic(x, y)
    kinds = ", ".join(each.kind for each in (NoMap, Temperature, Platt, Isotonic))
    raise CalibrationError(f"{where}.kind is {kind!r}; it must be one of {kinds}")


def _points(value: object) -> tuple[OperatingPoint, ...]:
    points = []
    for index, entry in enumerate(_typed(value, "operating_points", list)):
        where = f"operating_points[{index}]"
        fields = _object(entry, where, *_RATES, *_INTERVALS)
        read: dict[str, Any] = {name: _number(fields[name], f"{where}.{name}", 0, 1) for name in _RATES}
        read |= {name: _interval(fields[name], f"{where}.{name}") for name in _INTERVALS}
        points.append(OperatingPoint(**read))
    rates = [point.far for point in points]
    if rates != sorted(set(rates)):
        raise CalibrationError(f"operating_points must be by rising far, each once; they are {rates}")
    return tuple(points)


def _interval(value: object, where: str) -> tuple[float, float]:
    ends = _probabilities(value, where)
    if len(ends) != 2 or ends[0] > ends[1]:
        raise CalibrationError(f"{where} is {value!r}; it must be a lower and an upper end")
    return ends[0], ends[1]


def _probabilities(value: object, where: str) -> tuple[float, ...]:
    return tuple(_number(each, where, 0, 1) for each in _typed(value, where, list))


def _number(value: object, where: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CalibrationError(f"{where} is {value!r}; it must be a number")
    if not low <= value <= high:
        raise CalibrationError(f"{where} is {value}; it must lie in [{low:g}, {high:g}]")
    return value


def _typed(value: Any, where: str, kind: type) -> Any:
    if type(value) is not kind:
        raise CalibrationError(f"{where} is {value!r}; it must be of type {kind.__name__}")
    return value


def _object(value: object, where: str, *keys: str) -> dict[str, Any]:
    """A JSON object with exactly these keys, in their order."""
    if not isinstance(value, dict):
        raise CalibrationError(f"{where} must be a JSON object with {', '.join(keys)}")
    if missing := [key for key in keys if key not in value]:
        raise CalibrationError(f"{where} lacks {', '.join(missing)}")
    if unknown := [key for key in value if key not in keys]:
        raise CalibrationError(f"{where} has unknown keys {', '.join(unknown)}; known ones: {', '.join(keys)}")
    return {key: value[key] for key in keys}


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        raise CalibrationError(f"a key is there twice among {', '.join(key for key, _ in pairs)}")
    return read


def _no_constant(name: str) -> float:
    raise CalibrationError(f"{name} is no number of a calibration file")
