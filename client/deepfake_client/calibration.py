"""What the server's vote was calibrated with, and the operating points that came of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .contract.contract import CALIBRATION_PARAMETER, NO_CALIBRATION
from .errors import InvalidResponseError
from .results import Verdict, as_single

_MOST_CHARACTERS = 16 << 20
"""Of a calibration: maps of ten thousand knots for each stream take a tenth of it."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on `Verdict.probability`, chosen on labelled images for a false-alarm rate.

    Attributes:
        far: The false-alarm rate: the share of real images that may be called fake.
        threshold: An image is called fake strictly above it.
        false_alarm_interval: Where the rate on further images of that kind lies (95 %).
    """

    far: float
    threshold: float
    false_alarm_interval: tuple[float, float]

    def apply(self, verdict: Verdict) -> Verdict:
        """The same verdict, decided by this threshold on its probability instead of by its score."""
        return verdict.decided_by(self.threshold)


@dataclass(frozen=True)
class Calibration:
    """The calibration that a server has in force.

    Attributes:
        document: The whole calibration file. None where the vote is the published method's own.
        operating_points: Its operating points, by rising false-alarm rate.
    """

    document: Mapping[str, Any] | None = field(hash=False)
    operating_points: tuple[OperatingPoint, ...]

    def operating_point(self, far: float) -> OperatingPoint:
        """The operating point for a false-alarm rate.

        Raises:
            LookupError: The server has none for this rate; the message lists those that it has.
        """
        for point in self.operating_points:
            if point.far == far:
                return point
        if not self.operating_points:
            raise LookupError(
                "the server has no operating points; make some with `python -m forensics calibrate` and install them"
            )
        known = ", ".join(f"far={point.far:g}" for point in self.operating_points)
        raise LookupError(f"the server has no operating point far={far:g}; it has {known}")


def parse_calibration(reply: Any) -> Calibration | None:
    """What the configuration of the voter says; None where it says nothing of a calibration.

    Raises:
        InvalidResponseError: The parameter is not what the server's own software writes.
    """
    parameters = reply.config.parameters
    if CALIBRATION_PARAMETER not in parameters:
        return None
    text = parameters[CALIBRATION_PARAMETER].string_value
    if text == NO_CALIBRATION:
        return Calibration(None, ())
    try:
        if len(text) > _MOST_CHARACTERS:
            raise ValueError
        document = json.loads(text)
        points = tuple(
            OperatingPoint(
                far=_rate(each["far"]),
                threshold=as_single(_rate(each["threshold"])),
                false_alarm_interval=_interval(each["false_alarm_interval"]),
            )
            for each in document["operating_points"]
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidResponseError(f"the server's calibration is not understood: {text[:200]!r}") from error
    return Calibration(document, points)


def _rate(value: Any) -> float:
    rate = float(value)
    if not 0 <= rate <= 1:
        raise ValueError(f"{rate} is not from 0 to 1")
    return rate


def _interval(values: Any) -> tuple[float, float]:
    low, high = map(_rate, values)
    return low, high
