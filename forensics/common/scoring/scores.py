"""Scored and labelled images as arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from deepfake_client import explain

from ensemble.streams import STREAMS
from forensics.common.arrays import Floats, Groups, Labels
from forensics.common.dataset import LabelledImage
from forensics.common.errors import ForensicsError
from forensics.common.groups import count_independent

MEAN = "mean"
VOTE = "vote"

TITLES = {**{stream.name: stream.title for stream in STREAMS}, MEAN: "Unrounded mean", VOTE: "Vote"}
"""For people, by the name of a column, in the order of every table."""


@dataclass(frozen=True)
class Scores:
    """N images with what the server says of them; every number lies in [0, 1].

    Attributes:
        labels: bool [N], True for fake.
        streams: float32 [N, 3], probability of fake of each stream.
        votes: float32 [N, 3], those as they enter the vote.
        mean: float64 [N], weighted mean of the streams before rounding.
        vote: float64 [N], the score.
        videos: int64 [N], the number of the video that an image is a frame of, from 0; None where there are no videos.
        groups: int64 [N], the number of the group of an image (person, photograph, video), from 0; None where no group
            is named, and every image is taken as independent.
    """

    labels: Labels
    streams: npt.NDArray[np.float32]
    votes: npt.NDArray[np.float32]
    mean: Floats
    vote: Floats
    videos: Groups | None = None
    groups: Groups | None = None

    @property
    def columns(self) -> dict[str, Floats]:
        """All that ranks images, by the names of `TITLES`: float64 [N] each."""
        streams = {
            stream.name: values.astype(np.float64) for stream, values in zip(STREAMS, self.streams.T, strict=True)
        }
        return {**streams, MEAN: self.mean, VOTE: self.vote}

    @property
    def kinds(self) -> str:
        """How many real and fake images, in words."""
        return f"{self.real} real and {self.fake} fake images"

    @property
    def independent_real(self) -> int:
        """How many independent images the real ones are worth (`count_independent`)."""
        return count_independent(~self.labels, self.groups)

    @property
    def independent_fake(self) -> int:
        """The same of the fake ones."""
        return count_independent(self.labels, self.groups)

    @property
    def real(self) -> int:
        """Number of real images."""
        return int((~self.labels).sum())

    @property
    def fake(self) -> int:
        """Number of fake images."""
        return int(self.labels.sum())


@dataclass(frozen=True)
class Unscored:
    """An image that is left out of every number.

    Attributes:
        path: Its file.
        status: Why, as a code.
        reason: Why, in words.
    """

    path: str
    status: str
    reason: str


def collect(images: Sequence[LabelledImage], rows: Sequence[Mapping[str, Any]]) -> tuple[Scores, list[Unscored]]:
    """Arrays of the images that were scored, and a list of the others.

    Args:
        images: The images.
        rows: The row of each, as `deepfake_client.Verdict.to_dict` gives it.

    Raises:
        ForensicsError: Of real or of fake images none was scored.
    """
    kept = [(image, row) for image, row in zip(images, rows, strict=True) if row["status"] == "ok"]
    scored = [(image.fake, row) for image, row in kept]
    unscored = [Unscored(str(row["path"]), row["status"], reason(row)) for row in rows if row["status"] != "ok"]
    labels = np.array([fake for fake, _ in scored], np.bool_)
    if not labels.any() or labels.all():
        counts = (
            f"{int((~labels).sum())} real and {int(labels.sum())} fake images were scored, {len(unscored)} were not"
        )
        example = f": {unscored[0].path}: {unscored[0].reason}" if unscored else ""
        raise ForensicsError(f"{counts}; both kinds are needed to measure anything{example}")

    def by_stream(field: str) -> npt.NDArray[np.float32]:
        return np.array([[row["streams"][s.name][field] for s in STREAMS] for _, row in scored], np.float32)

    scores = Scores(
        labels=labels,
        streams=by_stream("probability"),
        votes=by_stream("vote"),
        mean=np.array([row["probability"] for _, row in scored], np.float64),
        vote=np.array([row["score"] for _, row in scored], np.float64),
        videos=_numbers([(image.video, image.path) for image, _ in kept]),
        groups=group_numbers([image for image, _ in kept]),
    )
    return scores, unscored


def reason(row: Mapping[str, Any]) -> str:
    """Why an image has no score, in words."""
    return str(row.get("error") or explain(row["status"]))


def group_numbers(images: Sequence[LabelledImage]) -> Groups | None:
    """Groups of images as `Scores` has them: int64 [N]; None where none is named."""
    return _numbers([(image.group, image.path) for image in images])


def _numbers(named: Sequence[tuple[str | None, Path]]) -> Groups | None:
    """The number of each image's video or group; an image without one is one of its own. None where none is named."""
    if all(name is None for name, _ in named):
        return None
    keys = [(name, "") if name is not None else (None, str(path)) for name, path in named]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
