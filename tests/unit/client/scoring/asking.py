"""Many images by the blocking client and by the asyncio one, asked alike."""

import asyncio
from collections.abc import Callable
from typing import Any

from deepfake_client import AsyncDetectorClient, DetectorClient, Verdict

Scorer = Callable[..., list[Verdict]]


def score_many_blocking(url: str, items: Any, **options: Any) -> list[Verdict]:
    with DetectorClient(url, **options) as client:
        return list(client.score_many(items))


def score_many_asyncio(url: str, items: Any, **options: Any) -> list[Verdict]:
    async def run() -> list[Verdict]:
        async with AsyncDetectorClient(url, **options) as client:
            return [verdict async for verdict in client.score_many(items)]

    return asyncio.run(run())


def scores_of(verdicts: list[Verdict]) -> list[float | None]:
    return [verdict.score for verdict in verdicts]
