"""From the inputs on the command line to images, lazily: one folder at a time is in memory."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from ..items import Item
from .lists import STDIN, Columns, read_list
from .shards import is_shard, read_shard

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Files of a folder, and members of a shard, that are sent, in upper or lower case."""


@dataclass(frozen=True)
class Inputs:
    """What the command line names.

    Attributes:
        paths: Images, folders, shards, patterns, or `STDIN`.
        lists: Files that list images, folders and shards.
        columns: Where such a list is a table, what to take from it.
    """

    paths: tuple[str, ...]
    lists: tuple[str, ...] = ()
    columns: Columns = Columns()  # noqa: RUF009 - it is frozen

    @property
    def are_absolute(self) -> bool:
        """Whether they are the same wherever they are named, as far as that can be told without reading lists."""
        return not self.lists and all(Path(path).is_absolute() for path in self.paths)

    @property
    def are_files(self) -> bool:
        """Whether they can be read a second time, as pipes cannot."""
        return STDIN not in self.paths and all(Path(each).is_file() or Path(each).is_dir() for each in self.lists)


def find_images(inputs: Inputs) -> Iterator[Item]:
    """The images of some inputs, as given; those of a folder by name, before those of its subfolders.

    Folders are searched with all their subfolders, by extension; links to folders are followed only where they are
    named themselves. A pattern is expanded as a shell does, where no file is called so. Any other path is taken as it
    is, whatever its name and whether or not it exists.
    """
    for path in inputs.paths:
        if path == STDIN:
            yield from _listed(STDIN, inputs.columns)
        else:
            for each in _expand(path):
                yield from _images(each)
    for source in inputs.lists:
        yield from _listed(source, inputs.columns)


def _listed(source: str, columns: Columns) -> Iterator[Item]:
    for entry in read_list(source, columns):
        if entry.error is not None or entry.path is None:
            yield entry
        elif entry.box is None:
            yield from _images(entry.path)
        else:
            yield from (replace(item, box=entry.box) for item in _images(entry.path))


def _images(path: str) -> Iterator[Item]:
    try:
        is_folder = Path(path).is_dir()
    except (OSError, ValueError):  # a name too long, or with a NUL character
        is_folder = False
    if is_folder:
        yield from _walk(path)
    elif is_shard(path):
        yield from read_shard(path, IMAGE_EXTENSIONS)
    else:
        yield Item(path, None, None)


def _expand(path: str) -> Iterator[str]:
    if not glob.has_magic(path) or os.path.lexists(path):
        yield path
        return
    matched = False
    # One folder at a time is sorted, so that millions of matches need no memory.
    for _, matches in groupby(glob.iglob(path, recursive=True), key=os.path.dirname):  # noqa: PTH207 - keeps names as given
        for match in sorted(matches):
            matched = True
            if not ("**" in path and Path(match).is_dir()):  # what is in it matches itself
                yield match
    if not matched:
        yield path


def _walk(folder: str) -> Iterator[Item]:
    folders = [folder]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            # Reading it fails likewise, and so it gets its row instead of being left out silently.
            yield Item(folder, None, None)
            continue
        folders += [entry.path for entry in reversed(ordered) if entry.is_dir(follow_symlinks=False)]
        for entry in ordered:
            if (
                entry.name.lower().endswith(IMAGE_EXTENSIONS)
                and not entry.is_dir(follow_symlinks=False)
                and _is_file_or_broken(entry)
            ):
                yield Item(entry.path, None, None)


def _is_file_or_broken(entry: os.DirEntry[str]) -> bool:
    # Pipes and devices would hang the reader; a broken link is a missing image, which deserves its row.
    try:
        return entry.is_file() or not entry.stat().st_mode
    except OSError:
        return True
