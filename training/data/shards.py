"""Tar shards of WebDataset's layout: members alike up to the first dot of their base name are one item."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ensemble.contract import IMAGE_SUFFIXES
from training.errors import DataError

Row = dict[str, Any]


def read_shard(shard: Path) -> Iterator[tuple[tarfile.TarInfo, Row]]:
    """The images of a tar, each with what its `.json` or `.cls` says of it; no image is decoded.

    Raises:
        DataError: It is no whole tar, or an image in it has no name, no label, or a name like another's.
    """
    images: dict[str, tarfile.TarInfo] = {}
    rows: dict[str, Row] = {}
    nameless: list[str] = []
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                path = PurePosixPath(member.name)
                if path.name.startswith("._"):
                    continue  # what macOS's tar keeps of a file beside it; no image, whatever its name says
                stem, _, extension = path.name.partition(".")
                key, extension = str(path.with_name(stem)) if stem else "", extension.lower()
                if f".{path.name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES and (
                    not key or f".{extension}" not in IMAGE_SUFFIXES
                ):
                    nameless.append(member.name)
                elif f".{extension}" in IMAGE_SUFFIXES:
                    if key in images:
                        raise DataError(f"{shard}: {images[key].name} and {member.name} have one key; rename one")
                    images[key] = member
                elif extension in ("json", "cls") and (file := tar.extractfile(member)) is not None:
                    rows[key] = _row(file.read(), extension) | rows.get(key, {})
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(f"{shard}: not a whole shard: {error}; write it again") from error
    if nameless:
        raise DataError(
            f"{shard}: {len(nameless)} images with a dot before their extension ({nameless[0]}): a key ends at "
            "the first dot, so that they would be lost; rename them"
        )
    for key, member in images.items():
        if key not in rows:
            raise DataError(f"{shard}#{member.name}: no {key}.json or {key}.cls beside it that says its label")
        yield member, rows[key]


def _row(content: bytes, extension: str) -> Row:
    if extension == "cls":
        return {"label": content.decode().strip()}
    row = json.loads(content)
    if not isinstance(row, dict):
        raise ValueError(f"{content[:40]!r} is no object of JSON")
    return row
