"""From the inputs on the command line to images, lazily: one folder at a time is in memory."""

import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from ..contract.contract import IMAGE_SUFFIXES
from ..images.items import Item
from .lists import STDIN, Columns, read_list
from .shards import is_shard, read_shard

IMAGE_EXTENSIONS = IMAGE_SUFFIXES
"""Files of a folder, and members of a shard, that are scored as images, in upper or lower case."""


VIDEO_EXTENSIONS = (
    *(".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg"),
    *(".mts", ".m2ts", ".3gp", ".wmv", ".flv", ".ogv"),
)
"""The same that are scored as videos. (`.ts` is more often a program.)"""


_EXTENSIONS = IMAGE_EXTENSIONS + VIDEO_EXTENSIONS


def is_video(item: Item) -> bool:
    """Whether an item is a video, by its name."""
    return item.error is None and item.path is not None and item.path.lower().endswith(VIDEO_EXTENSIONS)


@dataclass(frozen=True)
class Inputs:
    """What the command line names.

    Attributes:
        paths: Images, folders, shards, patterns, or `STDIN`.
        lists: Files that list images, folders and shards.
        columns: Where such a list is a table, what to take from it.
        follow_links: Whether links in folders are followed.
    """

    paths: tuple[str, ...]
    lists: tuple[str, ...] = ()
    columns: Columns = Columns()  # noqa: RUF009 - it is frozen
    follow_links: bool = False

    @property
    def are_absolute(self) -> bool:
        """Whether they are the same wherever they are named, as far as that can be told without reading lists."""
        return not self.lists and all(Path(path).is_absolute() for path in self.paths)

    @property
    def are_files(self) -> bool:
        """Whether they can be read a second time, as pipes cannot."""
        return STDIN not in self.paths and all(Path(each).is_file() or Path(each).is_dir() for each in self.lists)


_Told = Callable[[str], None]

_Id = tuple[int, int]
"""What tells a folder from all others, by whatever name: device and inode."""


def find_images(inputs: Inputs, not_followed: _Told = lambda link: None) -> Iterator[Item]:
    """The images of some inputs, as given; those of a folder by name, before those of its subfolders.

    Folders are searched with all their subfolders, by extension. A pattern is expanded as a shell does, where no file
    is called so. Any other path is taken as it is, whatever its name and whether or not it exists. What is named is
    followed where it is a link; links in folders are followed on request.

    Args:
        inputs: Where to search.
        not_followed: Called with each link to a folder that is passed over.
    """
    search = _Search(inputs, not_followed)
    for path in inputs.paths:
        if path == STDIN:
            yield from search.listed(STDIN)
        else:
            for each in search.expand(path):
                yield from search.images(each)
    for source in inputs.lists:
        yield from search.listed(source)


class _Search:
    def __init__(self, inputs: Inputs, not_followed: _Told) -> None:
        self._columns, self._follow = inputs.columns, inputs.follow_links
        self._not_followed = not_followed

    def listed(self, source: str) -> Iterator[Item]:
        for entry in read_list(source, self._columns):
            if entry.error is not None or entry.path is None:
                yield entry
            elif entry.box is None:
                yield from self.images(entry.path)
            else:
                yield from (replace(item, box=entry.box) for item in self.images(entry.path))

    def images(self, path: str) -> Iterator[Item]:
        try:
            is_folder = Path(path).is_dir()
        except (OSError, ValueError):  # a name too long, or with a NUL character
            is_folder = False
        if is_folder:
            yield from self._walk(path)
        elif is_shard(path):
            yield from read_shard(path, _EXTENSIONS)
        else:
            yield Item(path, None, None)

    def expand(self, path: str) -> Iterator[str]:
        """The files and folders that a pattern matches, or the path itself where it is none or matches nothing."""
        if not glob.has_magic(path) or os.path.lexists(path):
            yield path
            return
        matched = False
        for match in self._match("", path.split("/")):
            if not ("**" in path and Path(match).is_dir()):  # what is in it matches itself
                matched = True
                yield match
        if not matched:
            yield path

    def _match(self, base: str, parts: list[str], above: tuple[_Id, ...] = ()) -> Iterator[str]:
        """What is below a folder, whose name ends in a separator, and matches the rest of a pattern."""
        part, *rest = parts
        if part == "**":
            if rest:
                yield from self._match(base, rest)
            above = (*above, _id_of(base or os.curdir))
            for entry in _entries(base or os.curdir):
                if not entry.name.startswith("."):
                    if self._is_searched(entry, above):
                        yield from self._match(f"{base}{entry.name}{os.sep}", parts, above)
                    elif not rest:
                        yield base + entry.name
        elif not glob.has_magic(part):
            if rest:
                yield from self._match(f"{base}{part}{os.sep}", rest)
            elif os.path.lexists(base + part):
                yield base + part
        else:
            for entry in _entries(base or os.curdir):
                hidden = entry.name.startswith(".") and not part.startswith(".")
                if not hidden and fnmatch(entry.name, part):
                    if not rest:
                        yield base + entry.name
                    elif entry.is_dir():
                        yield from self._match(f"{base}{entry.name}{os.sep}", rest)

    def _walk(self, folder: str) -> Iterator[Item]:
        folders: list[tuple[str, tuple[_Id, ...]]] = [(folder, ())]
        while folders:
            folder, above = folders.pop()
            try:
                entries = _entries(folder, strict=True)
                above = (*above, _id_of(folder))
            except OSError:
                # Reading it fails likewise, and so it gets its row instead of being left out silently.
                yield Item(folder, None, None)
                continue
            searched = []
            for entry in entries:
                if self._is_searched(entry, above):
                    searched.append((entry.path, above))
                elif entry.name.lower().endswith(_EXTENSIONS):
                    yield self._image(entry)
            folders += reversed(searched)

    def _image(self, entry: os.DirEntry[str]) -> Item:
        # A pipe or a device gets its row when it is read, and so does a link that leads nowhere.
        if entry.is_symlink() and not self._follow:
            error = "it is a link, which is not followed in a folder; name it, or give --follow-links"
            return Item(entry.path, None, None, error=error)
        return Item(entry.path, None, None)

    def _is_searched(self, entry: os.DirEntry[str], above: tuple[_Id, ...]) -> bool:
        """Whether an entry is a folder to be searched. One that a link leads back to was searched already."""
        try:
            if not entry.is_symlink():
                return entry.is_dir()
            if not entry.is_dir():
                return False
            if not self._follow:
                if not entry.name.lower().endswith(_EXTENSIONS):  # else it has a row
                    self._not_followed(entry.path)
                return False
            return _id_of(entry.path) not in above
        except OSError:
            return False


def _id_of(folder: str) -> _Id:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _entries(folder: str, *, strict: bool = False) -> list[os.DirEntry[str]]:
    """The entries of a folder by name: one folder at a time is in memory."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        if strict:
            raise
        return []
