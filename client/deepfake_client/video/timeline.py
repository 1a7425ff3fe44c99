"""A video's timeline as an SVG picture: each face's probability over time, the worst window marked; pure."""

import math
from collections.abc import Iterator
from html import escape

from .rule import Track
from .verdict import VideoVerdict

_WIDTH, _HEIGHT = 900, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 40, 34
_COLOURS = ("#3465d9", "#c77d00", "#0f8a5f", "#a23bbb", "#6b7280")
_MOST_LINES = len(_COLOURS)
_MOST_POINTS = 2000
"""Of one line; of a longer one, the highest of neighbours is drawn."""

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.grid{stroke:#999;stroke-width:.5}.limit{stroke:#c62828;"
    "stroke-dasharray:5 4}.worst{fill:#c62828;fill-opacity:.15}polyline{fill:none;stroke-width:2}"
)


def draw_timeline(verdict: VideoVerdict, title: str | None = None) -> str:
    """Draws the timeline.

    Args:
        verdict: Of a video.
        title: Above the picture; the name of the video where left out.

    Returns:
        An SVG document, 900×240, which needs no other file.
    """
    text = title if title is not None else verdict.path or "video"
    named = escape(text if len(text) <= 50 else "…" + text[-49:])
    judgement = None if verdict.video is None else verdict.video.judgement
    if judgement is None or verdict.video is None:
        return _document(named, [f'<text x="{_LEFT}" y="120">no frame was scored: {escape(verdict.status)}</text>'])
    tracks = judgement.tracks[:_MOST_LINES]
    last = max(track.end for track in judgement.tracks)
    end = max(last, verdict.video.duration or 0.0, 0.1)
    limit = 0.5 if verdict.threshold is None else verdict.threshold
    worst = tracks[0].worst
    left, right = _x(worst.start, end), _x(worst.end, end)
    words = (
        f"{verdict.verdict}: worst window {worst.start:g} to {worst.end:g} s, mean probability {worst.probability:.2f}"
    )
    body = [
        f'<text x="{_LEFT}" y="32">{escape(words)}</text>',
        *_axes(end),
        f'<rect class="worst" x="{left - 2:.1f}" y="{_TOP}" width="{right - left + 4:.1f}" '
        f'height="{_HEIGHT - _TOP - _BOTTOM}"/>',
        f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_y(limit):.1f}" y2="{_y(limit):.1f}"/>',
    ]
    for number, (track, colour) in enumerate(zip(tracks, _COLOURS, strict=False)):
        body += _line(track, colour, end, number)
    return _document(named, body)


def _line(track: Track, colour: str, end: float, number: int) -> Iterator[str]:
    step = max(1, math.ceil(len(track.series) / _MOST_POINTS))
    points = [max(track.series[n : n + step], key=lambda point: point[1]) for n in range(0, len(track.series), step)]
    shown = " ".join(f"{_x(seconds, end):.1f},{_y(value):.1f}" for seconds, value in points)
    yield f'<polyline stroke="{colour}" points="{shown}"/>'
    if len(points) <= 200:
        for seconds, value in points:
            yield f'<circle fill="{colour}" cx="{_x(seconds, end):.1f}" cy="{_y(value):.1f}" r="2.5"/>'
    name = "whole frames" if track.number is None else f"face {track.number + 1}"
    x = _WIDTH - _RIGHT - 100 * (_MOST_LINES - number)
    yield f'<text x="{x}" y="16" style="fill:{colour}">{name}</text>'


def _axes(end: float) -> Iterator[str]:
    for value in (0.0, 0.5, 1.0):
        y = _y(value)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 28}" y="{y + 4:.1f}">{value:.1f}</text>'
    step = 10 ** math.floor(math.log10(end / 2)) if end > 2 else end / 4
    step *= next(factor for factor in (1, 2, 5, 10, 20) if end / (step * factor) <= 12)
    for number in range(int(end / step) + 1):
        x = _x(number * step, end)
        yield f'<text x="{x:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{number * step:g} s</text>'


def _x(seconds: float, end: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(seconds / end, 1.0)


def _y(value: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - value)


def _document(title: str, body: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">'
        f'<title>{title}</title><style>{_STYLE}</style><rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>'
        f'<text x="{_LEFT}" y="16">{title}</text>'
    )
    return "\n".join((head, *body, "</svg>\n"))
