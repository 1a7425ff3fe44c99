"""What the server's vote was calibrated with, and the operating points that came of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import InvalidResponseError
from .results import Verdict

VOTER_MODEL = "voter"
_PARAMETER = "CALIBRATION"
_NONE = "paper"


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
        return replace(verdict, threshold=self.threshold)


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
    if _PARAMETER not in parameters:
        return None
    text = parameters[_PARAMETER].string_value
    if text == _NONE:
        return Calibration(None, ())
    try:
        document = json.loads(text)
        points = tuple(
            OperatingPoint(float(each["far"]), float(each["threshold"]), _pair(each["false_alarm_interval"]))
            for each in document["operating_points"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidResponseError(f"the server's calibration is not understood: {text[:200]!r}") from error
    return Calibration(document, points)


def _pair(values: Any) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
