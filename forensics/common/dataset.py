"""Labelled images: a folder with `real/` and `fake/`, or a CSV of path and label."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepfake_client.bulk.inputs import IMAGE_EXTENSIONS

from forensics.common.errors import ForensicsError

LABELS = {"real": False, "fake": True, "0": False, "1": True}
"""Labels of a CSV, and whether they say fake."""


@dataclass(frozen=True)
class LabelledImage:
    """One image of a data set.

    Attributes:
        path: Its file, absolute.
        fake: Whether it is fake.
        video: Of which video it is a frame; None where of none.
        group: Person, photograph or video that it shares with images that are not independent of it; None where none is
            named: then it is independent of all others.
    """

    path: Path
    fake: bool
    video: str | None = None
    group: str | None = None


def read_dataset(source: Path) -> list[LabelledImage]:
    """Reads a data set; the images themselves are not opened.

    Args:
        source: A folder whose subfolders `real` and `fake` hold the images, at any depth; or a CSV file with the
            columns `path` (relative to the CSV's folder, or absolute) and `label` (real or fake, 0 or 1); where
            the images are frames `video`; and where they are not independent `group`, which may hold both kinds and
            is the video where it is left out. In a folder, the images of one subfolder of `real` or `fake` are one
            video and one group.

    Returns:
        The images, those of a folder by name, real ones first.

    Raises:
        ForensicsError: There is no such data set, a line of the CSV is wrong, or a class has no image.
    """
    if source.is_dir():
        images = list(_read_folder(source))
    elif source.is_file():
        images = list(_read_csv(source))
    else:
        raise ForensicsError(f"{source}: no such file or folder; give a folder with real/ and fake/, or a CSV")
    for name, fake in (("real", False), ("fake", True)):
        if not any(image.fake is fake for image in images):
            raise ForensicsError(f"{source}: no {name} image; both real and fake ones are needed to measure anything")
    return images


def find_images(folder: Path) -> list[Path]:
    """The images of a folder at any depth, absolute, by name.

    Raises:
        ForensicsError: It has none.
    """
    found = sorted(path.absolute() for path in folder.rglob("*") if _is_image(path))
    if not found:
        raise ForensicsError(f"{folder}: no image ({' '.join(IMAGE_EXTENSIONS)}) in this folder")
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.is_dir()


def _read_folder(source: Path) -> Iterator[LabelledImage]:
    for name, fake in (("real", False), ("fake", True)):
        folder = source / name
        if not folder.is_dir():
            found = ", ".join(sorted(each.name for each in source.iterdir())[:8]) or "nothing"
            raise ForensicsError(f"{source}: no subfolder {name}/; it must have real/ and fake/, and it has: {found}")
        for path in sorted(folder.rglob("*")):
            if _is_image(path):
                video = None if path.parent == folder else str(path.parent.relative_to(source))
                yield LabelledImage(path.absolute(), fake, video, group=video)


def _read_csv(source: Path) -> Iterator[LabelledImage]:
    lines: dict[Path, int] = {}
    kinds: dict[str, bool] = {}
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
            if not {"path", "label"} <= set(columns):
                raise ForensicsError(
                    f"{source}: the first line must name the columns path and label; it is {','.join(columns)[:80]!r}"
                )
            reader.fieldnames = columns
            for row in reader:
                image = _read_row(source, reader.line_num, row)
                if (first := lines.setdefault(image.path, reader.line_num)) != reader.line_num:
                    where = f"{source}, line {reader.line_num}"
                    raise ForensicsError(f"{where}: {row['path']} is there twice, first in line {first}; keep one")
                if image.video is not None and kinds.setdefault(image.video, image.fake) is not image.fake:
                    raise ForensicsError(
                        f"{source}, line {reader.line_num}: the video {image.video!r} has real frames and fake ones"
                    )
                yield image
    except (UnicodeDecodeError, csv.Error) as error:
        raise ForensicsError(f"{source}: not a CSV file in UTF-8: {error}") from error


def _read_row(source: Path, line: int, row: dict[str, str | None]) -> LabelledImage:
    path, label = (row["path"] or "").strip(), (row["label"] or "").strip()
    if not path:
        raise ForensicsError(f"{source}, line {line}: no path")
    if label.lower() not in LABELS:
        raise ForensicsError(f"{source}, line {line}: the label is {label!r}; it must be real or fake, 0 or 1")
    video = (row.get("video") or "").strip() or None
    group = (row.get("group") or "").strip() or video
    return LabelledImage((source.absolute().parent / path), LABELS[label.lower()], video, group)
