"""From the paths on the command line to the paths of images, lazily: one folder at a time is in memory."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Files of a folder that are sent, in upper or lower case."""

STDIN = "-"
"""The path that stands for a list of paths on standard input, one a line."""


def find_images(paths: Iterable[str]) -> Iterator[str]:
    """The images under some paths, as given; those of a folder by name, before those of its subfolders.

    Folders are searched with all their subfolders, by extension; links to folders are followed only where they are
    named themselves. Any other path is taken as it is, whatever its name and whether or not it exists.
    """
    for path in paths:
        if path == STDIN:
            yield from find_images(_read_list())
        elif Path(path).is_dir():
            yield from _walk(path)
        else:
            yield path


def _read_list() -> Iterator[str]:
    for line in sys.stdin.buffer:
        if path := os.fsdecode(line.rstrip(b"\r\n")):
            yield path


def _walk(folder: str) -> Iterator[str]:
    folders = [folder]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            yield folder  # reading it fails likewise, and so it gets its row instead of being left out silently
            continue
        folders += [entry.path for entry in reversed(ordered) if entry.is_dir(follow_symlinks=False)]
        for entry in ordered:
            if (
                entry.name.lower().endswith(IMAGE_EXTENSIONS)
                and not entry.is_dir(follow_symlinks=False)
                and _is_file_or_broken(entry)
            ):
                yield entry.path


def _is_file_or_broken(entry: os.DirEntry[str]) -> bool:
    # Pipes and devices would hang the reader; a broken link is a missing image, which deserves its row.
    try:
        return entry.is_file() or not entry.stat().st_mode
    except OSError:
        return True
