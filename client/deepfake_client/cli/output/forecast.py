"""`deepfake-client score --forecast`: what a run would take, from a probe of half a minute. It writes no rows."""

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

from ...balancing.addresses import split
from ...bulk.inputs import is_video
from ...client import DetectorClient
from ...early import EarlyVerdict
from ...images.items import Item
from ...results import STREAM_NAMES
from ..connection import Connection
from .energy import Meter, meters

PROBE_SECONDS = 15.0
"""Of each of the two probes: with all streams, and with verdicts alone."""

_SAMPLE = 1024
"""Images, drawn at random from all, that the probes go through."""

_TAIL_SECONDS = 4.0
"""What is under way when a probe ends should take no longer than this."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Rate:
    """What a probe measured.

    Attributes:
        images: That it scored, or could not.
        seconds: That they took.
        joules: That this machine consumed meanwhile, by what; empty where that cannot be read.
        left_out: By stream, how many images it was not needed for.
    """

    images: int
    seconds: float
    joules: Mapping[str, float]
    left_out: Mapping[str, int]

    @property
    def per_second(self) -> float:
        """Images a second."""
        return self.images / self.seconds


@dataclass(frozen=True)
class Forecast:
    """What a run of so many images would take, with all streams and with verdicts alone."""

    images: int
    videos: int
    full: Rate
    early: Rate

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        document: dict[str, Any] = {"images": self.images, "videos": self.videos}
        for name, rate in (("full", self.full), ("verdict_only", self.early)):
            document[name] = {
                "images_per_second": rate.per_second,
                "hours": self.images / rate.per_second / 3600,
                "kwh": {what: self._kwh(rate, joules) for what, joules in rate.joules.items()} or None,
                "probe": asdict(rate),
            }
        return document

    def text(self, why_no_energy: str) -> str:
        """The same in lines.

        Args:
            why_no_energy: What to say where none could be read.
        """
        videos = f", and {self.videos} videos, which are not part of this" if self.videos else ""
        lines = [f"{self.images} images{videos}", self._line("all streams", self.full, why_no_energy)]
        lines.append(self._line("--verdict-only", self.early, why_no_energy))
        saved = 1 - self.full.per_second / self.early.per_second
        names = ", ".join(f"{name} for {n / self.early.images:.0%}" for name, n in self.early.left_out.items())
        what = f"saves {saved:.0%} of the time" if saved > 0.02 else "saves no time"
        lines.append(f"  --verdict-only {what}: not needed is {names or 'no stream for any'} of the images")
        return "\n".join(lines)

    def _line(self, name: str, rate: Rate, why_no_energy: str) -> str:
        energy = [f"{self._kwh(rate, joules):.3g} kWh of the {what}" for what, joules in rate.joules.items()]
        hours = self.images / rate.per_second / 3600
        measured = f"{rate.images} images in {rate.seconds:.0f} s"
        told = ", ".join(energy) or f"energy unknown ({why_no_energy})"
        return f"  {name}: {hours:.2g} h, {rate.per_second:.3g} images/s (measured: {measured}), {told}"

    def _kwh(self, rate: Rate, joules: float) -> float:
        return joules / rate.images * self.images / 3.6e6


def forecast(
    connection: Connection,
    items: Iterable[Item],
    threshold: float | None,
    *,
    batch_size: int,
    in_flight: int,
    timeout: float,
) -> Forecast | None:
    """Counts the images, and scores some of them for half a minute.

    Args:
        connection: The servers.
        items: All images and videos.
        threshold: Of the operating point, for verdicts alone.
        batch_size: As of the run.
        in_flight: As of the run.
        timeout: As of the run.

    Returns:
        None where there is no image.

    Raises:
        DetectorError: As `DetectorClient.score_many`.
    """
    images, videos, sample = _draw(items)
    if not sample:
        return None
    with connection.make_client(timeout=timeout, batch_size=1, max_in_flight=1) as client:
        started = time.monotonic()
        for _ in client.score_many(sample[:1]):
            pass
        one = time.monotonic() - started
    # Where an image takes long, few are under way, so that the probe ends in time.
    batch = max(1, min(batch_size, int(_TAIL_SECONDS / one)))
    flight = max(1, min(in_flight, int(_TAIL_SECONDS / one / batch)))
    readable = meters() if is_here(connection) else {}
    with connection.make_client(timeout=timeout, batch_size=batch, max_in_flight=flight) as client:
        full = _measure(client, sample, readable)
        early = _measure(client.deciding(threshold), sample, readable)
    return Forecast(images, videos, full, early)


def is_here(connection: Connection) -> bool:
    """Whether all servers are on this machine, whose meters then count for them."""
    return all(split(url)[0] in _LOOPBACK for url in connection.urls)


def _draw(items: Iterable[Item]) -> tuple[int, int, list[Item]]:
    """Images, videos, and some of the images, each with the same chance."""
    chance, sample, images, videos = random.Random(0), list[Item](), 0, 0
    for item in items:
        if is_video(item):
            videos += 1
            continue
        images += 1
        if len(sample) < _SAMPLE:
            sample.append(item.held())
        elif (place := chance.randrange(images)) < _SAMPLE:
            sample[place] = item.held()
    chance.shuffle(sample)
    return images, videos, sample


def _measure(client: DetectorClient, sample: list[Item], readable: Mapping[str, Meter]) -> Rate:
    started = ended = time.monotonic()
    before = {what: read() for what, read in readable.items()}
    images, left_out = 0, Counter[str]()

    def until() -> Iterator[Item]:
        for item in cycle(sample):
            if time.monotonic() - started > PROBE_SECONDS:
                return
            yield item

    with closing(client.score_many(until(), ordered=False)) as verdicts:
        for verdict in verdicts:
            images, ended = images + 1, time.monotonic()
            if isinstance(verdict, EarlyVerdict) and verdict.ok:
                left_out.update(set(STREAM_NAMES).difference(verdict.streams_run))
    used = {what: read() - before[what] for what, read in readable.items()}
    return Rate(images, ended - started, {what: joules for what, joules in used.items() if joules > 0}, dict(left_out))
