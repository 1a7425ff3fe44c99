"""The labelled images of a data set: a folder with real/ and fake/, a CSV or Parquet manifest, or tar shards."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.contract import IMAGE_SUFFIXES
from training.data.shards import read_shard
from training.errors import DataError

EXTENSIONS = frozenset(IMAGE_SUFFIXES)
LABELS = {"real": 0, "fake": 1, "0": 0, "1": 1}
LABEL_NAMES = ("real", "fake")
SPLITS = ("train", "validation", "test")
COLUMNS = ("path", "label", "dataset", "group", "video", "split", "x1", "y1", "x2", "y2")
"""Columns of a manifest; path and label are required, the others may be left out or empty."""

NO_DATASET = "data"


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image.

    Attributes:
        path: Its file, or the tar that holds it.
        offset: Where it begins in the tar, bytes; None for a file.
        size: Its length in the tar, bytes.
        name: What people know it by: the path, or `tar#member`.
        label: 0 real, 1 fake.
        dataset: Its data set, which caps and drop rates go by.
        group: Person or video; no group is in two splits.
        video: Frames of one video share it; caps and drop rates go by video.
        split: train, validation, test, or empty: to be drawn by group.
        box: x1, y1, x2, y2 of its face in pixels, if known.
    """

    path: Path
    name: str
    label: int
    dataset: str = NO_DATASET
    group: str = ""
    video: str = ""
    split: str = ""
    offset: int | None = None
    size: int = 0
    box: tuple[float, float, float, float] | None = None

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: The file is gone or cannot be read.
        """
        if self.offset is None:
            return self.path.read_bytes()
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def read_manifest(source: Path) -> list[Item]:
    """Reads a data set; images are not opened, shards are gone through once for where their members lie.

    Args:
        source: A folder with real/ and fake/ at any depth inside, or with tar shards; a `.csv` or `.parquet` with
            `COLUMNS`, paths relative to it; or one `.tar` of WebDataset's layout (`key.png` and `key.json`, which has
            `label` and the other columns, or `key.cls` with the label alone).

    Raises:
        DataError: There is no such data set, or a line of it is wrong; the message names it.
    """
    if source.is_dir():
        shards = sorted(source.glob("*.tar"))
        items = [item for shard in shards for item in _read_shard(shard)] if shards else list(_read_folder(source))
    elif not source.is_file():
        raise DataError(f"{source}: no such file or folder; give a folder with real/ and fake/, a manifest or shards")
    elif source.suffix == ".tar":
        items = list(_read_shard(source))
    else:
        items = list(_read_rows(source))
    if not items:
        raise DataError(f"{source}: no image in it; nothing can be learnt")
    twice = _first_repeated(item.name for item in items)
    if twice is not None:
        raise DataError(f"{source}: {twice} is there twice; keep one, with one label")
    return items


def require_both_classes(items: Iterable[Item], where: str, fix: str = "add some") -> None:
    """Refuses a set in which one class is absent.

    Args:
        items: The set.
        where: Its name in the error.
        fix: What to do about it.

    Raises:
        DataError: There is no real or no fake image.
    """
    counts = [0, 0]
    for item in items:
        counts[item.label] += 1
    for name, count in zip(LABEL_NAMES, counts, strict=True):
        if not count:
            raise DataError(f"{where}: no {name} image among {sum(counts)}; both classes are needed: {fix}")


def item_from_row(row: Mapping[str, Any], folder: Path, where: str, **place: Any) -> Item:
    """One item from a row's columns; `where` names the line in errors, `place` says where in a tar it lies."""
    unknown = [name for name in row if name not in COLUMNS]
    if unknown:
        raise DataError(f"{where}: unknown column {unknown[0]!r}; known are {', '.join(COLUMNS)}")
    text = {name: "" if value is None or value != value else str(value).strip() for name, value in row.items()}
    label = text.get("label", "").lower()
    if label not in LABELS:
        raise DataError(f"{where}: the label is {text.get('label', '')!r}; it must be real or fake, 0 or 1")
    if not text.get("path"):
        raise DataError(f"{where}: no path")
    if "\0" in text["path"]:
        raise DataError(f"{where}: the path {text['path']!r} holds a NUL, which no file's name can")
    if (split := text.get("split", "")) not in ("", *SPLITS):
        raise DataError(f"{where}: the split is {split!r}; it must be one of {', '.join(SPLITS)}, or empty")
    name = place.get("name", text["path"])
    video = text.get("video") or text.get("group") or name
    return Item(
        path=place.get("path", folder / text["path"]),
        name=name,
        label=LABELS[label],
        dataset=text.get("dataset") or NO_DATASET,
        group=text.get("group") or video,
        video=video,
        split=split,
        offset=place.get("offset"),
        size=place.get("size", 0),
        box=_box(text, where),
    )


def _box(text: Mapping[str, str], where: str) -> tuple[float, float, float, float] | None:
    given = [text.get(name, "") for name in ("x1", "y1", "x2", "y2")]
    if not any(given):
        return None
    try:
        x1, y1, x2, y2 = map(float, given)
    except ValueError:
        raise DataError(f"{where}: the face box is {','.join(given)!r}; it must be four numbers, or empty") from None
    if not (x1 < x2 and y1 < y2):
        raise DataError(f"{where}: the face box {given} must have x1 < x2 and y1 < y2")
    return x1, y1, x2, y2


def _read_folder(source: Path) -> Iterator[Item]:
    for label, name in enumerate(LABEL_NAMES):
        folder = source / name
        if not folder.is_dir():
            found = ", ".join(sorted(each.name for each in source.iterdir())[:8]) or "nothing"
            raise DataError(f"{source}: no subfolder {name}/; it must have real/ and fake/, and it has: {found}")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in EXTENSIONS and path.is_file():
                relative = path.relative_to(source)
                # Frames in a subfolder of their own are those of one video.
                group = str(relative.parent) if path.parent != folder else str(relative)
                yield Item(path, str(relative), label, group=group, video=group)


def _read_rows(source: Path) -> Iterator[Item]:
    rows = _read_parquet(source) if source.suffix == ".parquet" else _read_csv(source)
    for line, row in rows:
        yield item_from_row(row, source.absolute().parent, f"{source}, line {line}")


def _read_csv(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _require_columns(source, reader.fieldnames or ())
            for row in reader:
                if None in row or None in row.values():
                    columns = len(reader.fieldnames or ())
                    raise DataError(f"{source}, line {reader.line_num}: not {columns} values, as the first line has")
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source}: not a CSV file in UTF-8: {error}") from error


def _read_parquet(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow  # the extra of those who have such files
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(source)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source}: not a Parquet file: {error}") from error
    _require_columns(source, table.column_names)
    yield from enumerate(table.to_pylist(), start=1)


def _require_columns(source: Path, columns: Iterable[str]) -> None:
    given = list(columns)
    if unknown := [name for name in given if name not in COLUMNS]:
        raise DataError(f"{source}: unknown column {unknown[0]!r}; known are {', '.join(COLUMNS)}")
    if len(set(given)) < len(given):
        raise DataError(f"{source}: the column {_first_repeated(given)!r} is there twice; keep one")
    if missing := [name for name in ("path", "label") if name not in given]:
        raise DataError(f"{source}: no column {missing[0]!r}; path and label are required")


def _read_shard(shard: Path) -> Iterator[Item]:
    for member, row in read_shard(shard):
        name = f"{shard.name}#{member.name}"
        place = {"path": shard, "name": name, "offset": member.offset_data, "size": member.size}
        yield item_from_row({"path": member.name} | row, shard.parent, name, **place)


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
