"""`prepare`: every source once, its frames and its rows written, so that a stopped run goes on at the next one."""

import csv
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console
from rich.progress import track

from ensemble.faces.detection import FaceDetector
from ensemble.images import RgbImage
from training.data.manifest import COLUMNS
from training.errors import DataError
from training.prepare.faces import face_frame
from training.prepare.sources import Source, UnusableError, read_pictures

JOURNAL_FILE, MANIFEST_FILE, REPORT_FILE = "prepared.jsonl", "manifest.csv", "unusable.txt"
Entry = dict[str, Any]
"""What came of one source: `source`, its path; `problem`, empty or why it gave no frame; `rows` of the manifest."""

_HEADER = ("path", "label", "dataset", "group", "video")


@dataclass(frozen=True)
class Settings:
    """How faces are prepared.

    Attributes:
        dataset: Name of the data set, which caps and drop rates go by.
        detector: Which finds the faces, with the hash of its weights.
        label: Of all sources; empty where their folders say it.
        frames: Of a video.
        keep_faceless: Whether a picture without a face is kept whole.
        shard: Sources of one tar; 0 writes files.
    """

    dataset: str
    detector: str
    label: str
    frames: int
    keep_faceless: bool
    shard: int


def prepare(
    sources: Sequence[Source], output: Path, detector: FaceDetector, settings: Settings, console: Console
) -> tuple[int, int]:
    """Prepares what is not yet prepared in a folder.

    Files go to `frames/`, or tar shards of WebDataset's layout to the folder itself; then the manifest is written.
    What cannot be used is a line in `unusable.txt`.

    Returns:
        Frames in the folder, and sources that gave none.

    Raises:
        DataError: The folder was prepared with other settings, or cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    journal = output / JOURNAL_FILE
    units_done = _read_journal(journal, settings)
    done = {entry["source"] for unit in units_done for entry in unit}
    todo = [source for source in sources if str(source.path.resolve()) not in done]
    units = [todo[start : start + (settings.shard or 1)] for start in range(0, len(todo), settings.shard or 1)]
    number = len(units_done)  # a shard that was written and not noted is written again
    try:
        with journal.open("a", encoding="utf-8") as file:
            if not journal.stat().st_size:
                file.write(json.dumps({"settings": settings.__dict__}) + "\n")
            for index, unit in enumerate(track(units, "sources", console=console, disable=not console.is_terminal)):
                results = [(source, *_frames_of(source, detector, settings)) for source in unit]
                if settings.shard:
                    _write_shard(output / f"data-{number + index:06}.tar", results, settings)
                else:
                    for source, frames, _ in results:
                        for name, image in frames:
                            _write_file(output / "frames" / source.label / f"{name}.png", image)
                file.write(json.dumps([_entry(*result, settings) for result in results]) + "\n")
                file.flush()
    except OSError as error:
        raise DataError(
            f"{output}: cannot be written: {error}; the same command goes on after that is mended"
        ) from error
    return _write_lists(output, _read_journal(journal, settings), settings)


def _entry(source: Source, frames: list[tuple[str, RgbImage]], problem: str, settings: Settings) -> Entry:
    rows = [_row(source, name, settings) for name, _ in frames]
    return {"source": str(source.path.resolve()), "problem": problem, "rows": rows}


def _frames_of(source: Source, detector: FaceDetector, settings: Settings) -> tuple[list[tuple[str, RgbImage]], str]:
    """Names and frames of a source, and why there is none."""
    frames = []
    try:
        for number, picture in read_pictures(source, settings.frames):
            image = face_frame(picture, detector)
            if image is None and settings.keep_faceless:
                image = picture
            if image is not None:
                frames.append((f"{_key(source)}_{number:06}", image))
    except UnusableError as error:
        return frames, str(error)
    return frames, "" if frames else "no face found"


def _key(source: Source) -> str:
    """A name that files and shards can have; no two sources share one."""
    digest = hashlib.sha256(str(source.path.resolve()).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', source.name)}-{digest[:8]}"


def _row(source: Source, name: str, settings: Settings) -> dict[str, str]:
    path = f"frames/{source.label}/{name}.png"
    return dict(zip(_HEADER, (path, source.label, settings.dataset, source.name, source.name), strict=True))


def _encoded(image: RgbImage) -> bytes:
    """As PNG: whatever a source's compression was, preparing adds none."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def _write_file(path: Path, image: RgbImage) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encoded(image))


def _write_shard(
    path: Path, results: Sequence[tuple[Source, list[tuple[str, RgbImage]], str]], settings: Settings
) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with tarfile.open(partial, "w") as tar:
        for source, frames, _ in results:
            for name, image in frames:
                row = {key: value for key, value in _row(source, name, settings).items() if key != "path"}
                _add(tar, f"{name}.png", _encoded(image))
                _add(tar, f"{name}.json", json.dumps(row).encode())
    partial.replace(path)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _read_journal(path: Path, settings: Settings) -> list[list[Entry]]:
    """What was prepared, a line for each file or shard; a half-written last one is left out, and made again."""
    if not path.exists():
        return []
    head, *units = [json.loads(line) for line in _whole_lines(path)] or [None]
    if head is not None and head["settings"] != settings.__dict__:
        before = head["settings"]
        other = [
            f"{name} {before.get(name)!r}, not {v!r}" for name, v in settings.__dict__.items() if before.get(name) != v
        ]
        raise DataError(f"{path.parent} was prepared with {'; '.join(other)}: give the same again, or another --output")
    return units


def _whole_lines(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) != len(content):
        path.write_bytes(whole)
    yield from whole.splitlines()


def _write_lists(output: Path, units: Sequence[Sequence[Entry]], settings: Settings) -> tuple[int, int]:
    entries = [entry for unit in units for entry in unit]
    rows = [row for entry in entries for row in entry["rows"]]
    with (output / REPORT_FILE).open("w", encoding="utf-8") as report:
        report.writelines(f"{entry['source']}: {entry['problem']}\n" for entry in entries if entry["problem"])
    if not settings.shard:
        partial = output / f".{MANIFEST_FILE}.partial"
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [name for name in COLUMNS if name in _HEADER])
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(output / MANIFEST_FILE)
    return len(rows), sum(not entry["rows"] for entry in entries)
