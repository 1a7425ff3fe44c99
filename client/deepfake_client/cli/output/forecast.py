"""`deepfake-client score --forecast`: what a run would take, from a probe of half a minute. It writes no rows."""

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import cycle
from operator import itemgetter
from typing import Any

from ...balancing.addresses import split
from ...bulk.inputs import is_video
from ...client import DetectorClient
from ...early import EarlyVerdict
from ...images.items import Item
from ...results import STREAM_NAMES
from ...status import STATUS_HINTS
from ..connection import Connection
from .energy import Meter, meters

PROBE_SECONDS = 15.0
"""Of each of the two probes: with all streams, and with verdicts alone."""

ROUNDS = 3
"""Of each probe, by turns: what changes meanwhile on the server meets both, and each tells its own spread."""

_SAMPLE = 1024
"""Images, drawn at random from all, that the probes go through."""

_TAIL_SECONDS = 2.0
"""What is under way when a round ends should take no longer than this."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class NothingScoredError(Exception):
    """No image of the sample could be scored, so that there is nothing to forecast from."""


@dataclass(frozen=True)
class Rate:
    """What a probe measured.

    Attributes:
        images: That it scored.
        seconds: That they took, and those that could not be scored.
        joules: That this machine consumed meanwhile, by what; empty where that cannot be read.
        left_out: By stream, how many images it was not needed for.
        failed: By status, how many images could not be scored.
        rounds: Images a second of each round.
    """

    images: int
    seconds: float
    joules: Mapping[str, float]
    left_out: Mapping[str, int]
    failed: Mapping[str, int] = field(default_factory=dict)
    rounds: Sequence[float] = ()

    @property
    def per_second(self) -> float:
        """Images scored a second."""
        return self.images / self.seconds

    @property
    def tried(self) -> int:
        """Images, those that could not be scored among them."""
        return self.images + sum(self.failed.values())


@dataclass(frozen=True)
class Forecast:
    """What a run of so many images would take, with all streams and with verdicts alone.

    In the run as many images are taken to fail, of a hundred, as in the probes.
    """

    images: int
    videos: int
    full: Rate
    early: Rate

    @property
    def saves(self) -> float | None:
        """Share of the time that verdicts alone save; None where there is no saving beyond what rounds differ by."""
        if not self.early.left_out or min(self.early.rounds) <= max(self.full.rounds):
            return None
        return 1 - self._hours(self.early) / self._hours(self.full)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        document: dict[str, Any] = {"images": self.images, "videos": self.videos}
        for name, rate in (("full", self.full), ("verdict_only", self.early)):
            document[name] = {
                "images_per_second": rate.per_second,
                "hours": self._hours(rate),
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
        if failed := Counter(self.full.failed) + Counter(self.early.failed):
            share = failed.total() / (self.full.tried + self.early.tried)
            lines.append(f"  {share:.1%} of the images could not be scored: {most_often(failed)}")
        names = ", ".join(f"{name} for {n / self.early.images:.0%}" for name, n in self.early.left_out.items())
        what = "saves no time beyond noise" if self.saves is None else f"saves {self.saves:.0%} of the time"
        lines.append(f"  --verdict-only {what}: not needed is {names or 'no stream for any'} of the images")
        return "\n".join(lines)

    def _line(self, name: str, rate: Rate, why_no_energy: str) -> str:
        energy = [f"{self._kwh(rate, joules):.3g} kWh of the {what}" for what, joules in rate.joules.items()]
        hours = self._hours(rate)
        measured = f"{rate.images} images in {rate.seconds:.0f} s"
        told = ", ".join(energy) or f"energy unknown ({why_no_energy})"
        return f"  {name}: {hours:.2g} h, {rate.per_second:.3g} images/s (measured: {measured}), {told}"

    def _hours(self, rate: Rate) -> float:
        return rate.seconds / rate.tried * self.images / 3600

    def _kwh(self, rate: Rate, joules: float) -> float:
        return joules / rate.tried * self.images / 3.6e6


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
        NothingScoredError: No image could be scored; it says why.
        DetectorError: As `DetectorClient.score_many`.
    """
    images, videos, sample = _draw(items)
    if not sample:
        return None
    # The sample is gone through again and again: past the answers that a server keeps, or these would be measured.
    with connection.make_client(timeout=timeout, batch_size=1, max_in_flight=1, fresh=True) as client:
        one = _seconds_of_one(client, sample)
    # Where an image takes long, few are under way, so that a round ends in time.
    batch = max(1, min(batch_size, int(_TAIL_SECONDS / one)))
    flight = max(1, min(in_flight, int(_TAIL_SECONDS / one / batch)))
    readable = meters() if is_here(connection) else {}
    with connection.make_client(timeout=timeout, batch_size=batch, max_in_flight=flight, fresh=True) as client:
        early = client.deciding(threshold)
        rounds = [(_measure(client, sample, readable), _measure(early, sample, readable)) for _ in range(ROUNDS)]
    full_rounds, early_rounds = zip(*rounds, strict=True)
    return Forecast(images, videos, _together(full_rounds), _together(early_rounds))


def most_often(failed: Mapping[str, int]) -> str:
    """The most frequent of some statuses, for people."""
    status, count = max(failed.items(), key=itemgetter(1))
    hint = STATUS_HINTS.get(status)
    return f"most often {status} ({count / sum(failed.values()):.0%} of these)" + (f", {hint}" if hint else "")


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


def _seconds_of_one(client: DetectorClient, sample: Sequence[Item]) -> float:
    """Seconds of the first image that is scored, of those tried within the time of a probe."""
    failed, started = Counter[str](), time.monotonic()
    begun = started
    with closing(client.score_many(sample)) as verdicts:
        for verdict in verdicts:
            ended = time.monotonic()
            if verdict.ok:
                return ended - begun
            failed[verdict.status] += 1
            begun = ended
            if ended - started > PROBE_SECONDS:
                break
    raise _nothing_scored(failed)


def _measure(client: DetectorClient, sample: Sequence[Item], readable: Mapping[str, Meter]) -> Rate:
    """One round."""
    started = ended = time.monotonic()
    before = {what: read() for what, read in readable.items()}
    images, left_out, failed = 0, Counter[str](), Counter[str]()

    def until() -> Iterator[Item]:
        for item in cycle(sample):
            yield item
            if time.monotonic() - started > PROBE_SECONDS / ROUNDS:
                return

    with closing(client.score_many(until(), ordered=False)) as verdicts:
        for verdict in verdicts:
            ended = time.monotonic()
            if not verdict.ok:
                failed[verdict.status] += 1
                continue
            images += 1
            if isinstance(verdict, EarlyVerdict):
                left_out.update(set(STREAM_NAMES).difference(verdict.streams_run))
    used = {what: read() - before[what] for what, read in readable.items()}
    return Rate(images, ended - started, used, left_out, failed)


def _together(rounds: Sequence[Rate]) -> Rate:
    """What the rounds of a probe measured.

    Raises:
        NothingScoredError: None scored an image.
    """
    left_out, failed = Counter[str](), Counter[str]()
    for each in rounds:
        left_out.update(each.left_out)
        failed.update(each.failed)
    images = sum(each.images for each in rounds)
    if not images:
        raise _nothing_scored(failed)
    return Rate(
        images,
        sum(each.seconds for each in rounds),
        {what: joules for what in rounds[0].joules if (joules := sum(each.joules[what] for each in rounds)) > 0},
        dict(left_out),
        dict(failed),
        [each.per_second for each in rounds],
    )


def _nothing_scored(failed: Counter[str]) -> NothingScoredError:
    return NothingScoredError(
        f"nothing to forecast from: none of {failed.total()} images tried could be scored, {most_often(failed)}"
    )
