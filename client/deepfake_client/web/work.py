"""Scoring what requests bring; a few at a time are in memory."""

import asyncio
from collections.abc import Sequence
from threading import Lock

from starlette.concurrency import run_in_threadpool

from ..bulk.inputs import is_video
from ..client import DetectorClient
from ..evidence import Deployment, Evidence, ask_deployment, collect
from ..images.items import Item
from ..results import Verdict
from ..video import score_video
from .uploads import Asked, Upload

AT_ONCE = 8
"""Requests that are scored at the same time; others wait with their files on the disk."""


class Work:
    """Asks the detector's server on behalf of visitors.

    Args:
        client: Who asks.
    """

    def __init__(self, client: DetectorClient) -> None:
        self.client = client
        self._turns: asyncio.Semaphore | None = None
        self._deployment: Deployment | None = None
        self._asking = Lock()

    async def score(self, asked: Asked) -> list[Verdict]:
        """A verdict for each upload, in order."""
        async with self._turn:
            return await run_in_threadpool(self._score, asked)

    async def evidence(self, asked: Asked, *, with_maps: bool, with_copies: bool) -> Evidence:
        """The evidence for the first upload."""
        async with self._turn:
            return await run_in_threadpool(self._evidence, asked, with_maps, with_copies)

    async def deployment(self, *, fresh: bool = False) -> Deployment:
        """What gives the verdicts; asked for once unless `fresh`."""
        return await run_in_threadpool(self._ask, fresh)

    @property
    def _turn(self) -> asyncio.Semaphore:
        if self._turns is None:  # belongs to the event loop that is running then
            self._turns = asyncio.Semaphore(AT_ONCE)
        return self._turns

    def _ask(self, fresh: bool) -> Deployment:
        with self._asking:
            if self._deployment is None or fresh:
                self._deployment = ask_deployment(self.client)
            return self._deployment

    def _score(self, asked: Asked) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        images = []
        for place, upload in enumerate(asked.uploads):
            if is_movie(upload):
                upload.file.seek(0)
                verdicts[place] = score_video(self.client, upload.file, asked.videos, name=upload.name)
            else:
                images.append(place)
        items = (
            Item(each.name, box=each.box, faces=asked.faces or "main", load=each.read, size=each.size)
            for each in (asked.uploads[place] for place in images)
        )
        for place, verdict in zip(images, self.client.score_many(items), strict=True):
            verdicts[place] = verdict
        return [verdicts[place] for place in range(len(asked.uploads))]

    def _evidence(self, asked: Asked, with_maps: bool, with_copies: bool) -> Evidence:
        (verdict,) = self._score(Asked(asked.uploads[:1], asked.faces, asked.videos, asked.fields))
        return collect(
            self.client,
            asked.uploads[0].read(),
            verdict,
            with_maps=with_maps,
            with_copies=with_copies,
            deployment=self._ask(fresh=True),
        )


def is_movie(upload: Upload) -> bool:
    """Whether an upload is a video, by its name."""
    return is_video(Item(upload.name))


def rows_of(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    """The rows of verdicts, exactly as in a JSONL file."""
    return [each.to_dict() for verdict in verdicts for each in verdict.rows()]
