"""How far the verdicts of one server are from those of another, on the same images."""

from collections.abc import Sequence
from typing import Any

import click
import cv2
import numpy as np
from deepfake_client import DetectorClient, Verdict

from benchmarks.gpu.differences import differences
from benchmarks.gpu.load import Item
from ensemble.streams import STREAMS

_GAINS = (1.15, 0.85, 1.3, 0.7)


def variants(items: Sequence[Item], count: int) -> list[Item]:
    """So many different images: the given ones, then the same brighter and darker, with JPEG's blocks."""
    made = list(items[:count])
    for index in range(len(made), count):
        image, box = items[index % len(items)]
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR).astype(np.float32)
        lit = np.clip(pixels * _GAINS[index // len(items) % len(_GAINS)], 0, 255).astype(np.uint8)
        quality = 40 + (17 * index) % 60
        made.append((cv2.imencode(".jpg", lit, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes(), box))
    return made


def verdicts(url: str, items: Sequence[Item]) -> list[Verdict]:
    """Score images in batches of eight.

    Raises:
        click.ClickException: One was not scored.
    """
    with DetectorClient(url, batch_size=8, timeout=1800) as client:
        scored = list(client.score_many(list(items)))
    for verdict in scored:
        if verdict.score is None:
            raise click.ClickException(f"an image was not scored: {verdict.status} {verdict.error or ''}")
    return scored


def compare(expected: Sequence[Verdict], actual: Sequence[Verdict]) -> dict[str, Any]:
    """Differences in probability, and the share of votes and scores that changed.

    Args:
        expected: Of the reference.
        actual: Of the same images, in the same order; all scored.
    """
    pairs = list(zip(expected, actual, strict=True))

    def of_stream(name: str) -> dict[str, float]:
        both = [(one.streams[name], other.streams[name]) for one, other in pairs]
        return differences(
            [one.probability for one, _ in both],
            [other.probability for _, other in both],
            sum(one.vote != other.vote for one, other in both),
        )

    return {
        "images": len(pairs),
        "streams": {stream.name: of_stream(stream.name) for stream in STREAMS},
        "ensemble": differences(
            [one.probability for one, _ in pairs],
            [other.probability for _, other in pairs],
            sum(one.score != other.score for one, other in pairs),
        ),
    }
