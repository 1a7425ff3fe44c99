"""What is prepared: image and video files with a label, and the pictures in them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from ensemble.images import ImageError, Limits, RgbImage, read_image
from training.data.manifest import EXTENSIONS, LABELS
from training.errors import DataError

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})

LIMITS = Limits()


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        path: Where it is.
        name: The group that its frames belong to: its path under the folder given, or the whole path where two such
            would be alike.
        label: real or fake.
    """

    path: Path
    name: str
    label: str

    @property
    def is_video(self) -> bool:
        """By its extension."""
        return self.path.suffix.lower() in VIDEOS


class UnusableError(ValueError):
    """A file without a picture that can be used; the message says why."""


def find_sources(inputs: Iterable[Path], label: str | None) -> list[Source]:
    """All files, those of folders at any depth, by name.

    Args:
        inputs: Files and folders.
        label: Of all of them; None takes it from the nearest folder called real or fake.

    Raises:
        DataError: Nothing is there, or a file has no label.
    """
    sources: dict[Path, Source] = {}
    for given in inputs:
        if not given.exists():
            raise DataError(f"{given}: no such file or folder")
        files = sorted(each for each in given.rglob("*") if each.is_file()) if given.is_dir() else [given]
        root = given if given.is_dir() else given.parent
        for path in files:
            if path.suffix.lower() in VIDEOS | EXTENSIONS:
                name = str(path.relative_to(root))
                sources[path.resolve()] = Source(path, name, label or _label(path))
    if not sources:
        raise DataError(f"{', '.join(map(str, inputs))}: no image and no video there")
    names = Counter(source.name for source in sources.values())
    return [replace(each, name=str(each.path)) if names[each.name] > 1 else each for each in sources.values()]


def read_pictures(source: Source, count: int) -> Iterator[tuple[int, RgbImage]]:
    """Pictures of a file with their frame number: the image itself, or frames spread evenly over a video.

    Raises:
        UnusableError: It cannot be read.
    """
    if source.is_video:
        yield from _frames(source.path, count)
        return
    try:
        yield 0, read_image(source.path.read_bytes(), LIMITS)
    except (ImageError, OSError) as error:
        raise UnusableError(str(error)) from error


def spread(total: int, count: int) -> Sequence[int]:
    """`count` numbers spread evenly over 0 … total − 1; all of them where there are no more."""
    if total <= count:
        return range(total)
    return [int((index + 0.5) * total / count) for index in range(count)]


def _frames(path: Path, count: int) -> Iterator[tuple[int, RgbImage]]:
    try:
        with av.open(str(path)) as container:
            # A packet is a frame; the header's own count is often absent or wrong.
            total = sum(packet.size > 0 for packet in container.demux(video=0))
        if not total:
            raise UnusableError("no frame in it")
        wanted = set(spread(total, count))
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    yield number, np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise UnusableError(f"not a video that can be decoded: {error}") from error


def _label(path: Path) -> str:
    for folder in reversed(path.absolute().parts[:-1]):
        if folder.lower() in LABELS and not folder.isdigit():
            return folder.lower()
    raise DataError(f"{path}: no label; put it under a folder real/ or fake/, or give --label")
