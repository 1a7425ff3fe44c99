"""The option `--operating-point`, and what the command line says about the server's vote."""

import click

from ..calibration import Calibration, OperatingPoint
from ..client import DetectorClient
from ..text import printable

_OPTION = "--operating-point"


def _check_operating_point(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    name, _, rate = value.partition("=")
    try:
        far = float(rate)
    except ValueError:
        far = -1.0
    if name != "far" or not 0 <= far <= 1:
        raise click.BadParameter(f"{value!r} must be far= and a false-alarm rate from 0 to 1, such as far=0.01")
    return far


operating_point_option = click.option(
    _OPTION,
    "far",
    callback=_check_operating_point,
    metavar="far=RATE",
    help="Decide the verdict by the server's threshold for this false-alarm rate, such as far=0.01.",
)


def find_operating_point(client: DetectorClient, far: float) -> OperatingPoint:
    """The server's operating point, told on standard error; a wrong command line where it has none such."""
    calibration = client.calibration()
    if calibration is None:
        raise click.BadParameter("the server does not say which operating points it has", param_hint=_OPTION)
    try:
        point = calibration.operating_point(far)
    except LookupError as error:
        raise click.BadParameter(str(error), param_hint=_OPTION) from None
    low, high = point.false_alarm_interval
    click.echo(
        f"operating point far={point.far:g}: fake above a probability of {point.threshold:g}"
        f" (false alarms expected: {low:.2%} to {high:.2%})",
        err=True,
    )
    return point


def describe_vote(calibration: Calibration | None) -> str:
    """The server's calibration in a few words."""
    if calibration is None:
        return "unknown: the server does not say"
    if calibration.document is None:
        return "the published method's own; no operating points"
    points = ", ".join(f"far={point.far:g}" for point in calibration.operating_points) or "none"
    created = printable(str(calibration.document.get("created")))
    return f"calibrated {created}; operating points: {points}"
