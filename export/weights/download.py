"""Fetching the published weights into a folder, and verifying what lies there."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ensemble.streams import GLOBAL_TEXTURE, LOCAL_FACIAL, SEMANTIC_FUSION, STREAMS
from export.errors import DownloadError, NoNetworkError
from export.weights import hub
from export.weights.checkpoints import FACE_DETECTOR_FILE
from export.weights.manifest import require_hashes, require_sizes
from export.weights.published import KNOWN, is_known
from export.weights.transfer import Location, fetch_file, unfinished
from networks.errors import ManifestError
from networks.weights.manifest import Entry, read_manifest, record, sha256_of

_PUBLISHED = (GLOBAL_TEXTURE, LOCAL_FACIAL, SEMANTIC_FUSION)

CHECKPOINTS = tuple(stream.checkpoint for stream in STREAMS if stream in _PUBLISHED)
"""Of the streams whose weights the authors publish."""

FACE_DETECTOR_URL = "https://github.com/serengil/deepface_models/releases/download/v1.0/retinaface.h5"
"""Where the PyPI package `retina-face` takes its weights from."""


def download(console: Console, weights: Path, revision: str | None, face_detector_url: str | None) -> None:
    """Verify what the folder's manifest knows, and fetch what is missing.

    Args:
        console: For what people want to know.
        weights: The folder; made where it is not there.
        revision: Of the published checkpoints; None for the manifest's, else main.
        face_detector_url: Where the face detector's weights are; None to do without.

    Raises:
        DownloadError: A file cannot be fetched, or another download is at work in the folder.
        NoNetworkError: A server cannot be reached.
        ManifestError: A file is not what was recorded or published.
        CheckpointError: The face detector's file is not one.
    """
    try:
        weights.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"{weights}: cannot be used as a folder: {error.strerror}") from error
    with _alone_in(weights):
        _verify_recorded(weights)
        _checkpoints(console, weights, revision)
        _face_files_found(console, weights)
        if face_detector_url is not None:
            _face_detector(console, weights, face_detector_url)


@contextmanager
def _alone_in(weights: Path) -> Iterator[None]:
    """Two downloads would write into the same unfinished files."""
    handle = os.open(weights, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"{weights}: another download is at work there; wait for it to end") from error
        yield
    finally:
        os.close(handle)


def _verify_recorded(weights: Path) -> None:
    """Compare every file that the manifest knows."""
    there = [weights / name for name in read_manifest(weights) if (weights / name).is_file()]
    require_sizes(there)
    require_hashes(_hashes(there))


def _checkpoints(console: Console, weights: Path, revision: str | None) -> None:
    _refuse_stand_ins(weights)
    recorded = read_manifest(weights)
    pinned = {entry.revision for name, entry in recorded.items() if name in CHECKPOINTS and entry.revision}
    there = [name for name in CHECKPOINTS if (weights / name).is_file()]
    unknown = [name for name in there if name not in recorded]
    missing = [name for name in CHECKPOINTS if name not in there]
    if not (unknown or missing or revision):
        return
    try:
        published = hub.look_up(CHECKPOINTS, revision or next(iter(pinned), "main"))
    except NoNetworkError:
        if missing or revision:
            raise
        console.print(f"[yellow]no network: {', '.join(unknown)} recorded as found, not compared with the hub[/]")
        _record_found(weights, unknown)
        return
    commit = published[CHECKPOINTS[0]].revision
    if pinned - {commit}:
        raise DownloadError(
            f"{weights} holds files of revision {', '.join(sorted(pinned))}, not of {commit}: "
            "give another --weights folder, or leave --revision out"
        )
    for path, sha256 in _hashes([weights / name for name in unknown]).items():
        _require_published(path, published[path.name], sha256)
        _record_checkpoint(weights, published[path.name], sha256)
    _require_space(weights, sum(published[name].size - unfinished(weights / name) for name in missing))
    for name in missing:
        _fetch_checkpoint(console, weights, published[name])


def _fetch_checkpoint(console: Console, weights: Path, published: hub.PublishedFile) -> None:
    console.print(f"fetching {published.name} ({published.size / 1e9:.2f} GB)", highlight=False)
    sha256 = ""

    def check(path: Path, advance: Callable[[int], object]) -> None:
        nonlocal sha256
        sha256 = sha256_of(path, advance)
        _require_published(path, published, sha256)

    _fetch(lambda: hub.locate(published), weights / published.name, check)
    _record_checkpoint(weights, published, sha256)


def _fetch(
    locate: Callable[[], Location], target: Path, check: Callable[[Path, Callable[[int], object]], object]
) -> None:
    with _progress() as progress:
        task = progress.add_task(target.name, total=None)

        def verify(path: Path) -> None:
            progress.reset(task, description=f"verifying {target.name}", total=path.stat().st_size)
            check(path, lambda count: progress.advance(task, count))

        fetch_file(locate, target, verify, lambda there, total: progress.update(task, completed=there, total=total))


def _face_detector(console: Console, weights: Path, url: str) -> None:
    path = weights / FACE_DETECTOR_FILE
    if path.is_file():
        return
    known = KNOWN[path.name]
    console.print(f"fetching {path.name}", highlight=False)
    advice = f"give a mirror by --face-detector-url, put the file at {path} by hand, or add --no-face-detector"

    def check(partial: Path, advance: Callable[[int], object]) -> None:
        sha256 = sha256_of(partial, advance)
        if sha256 != known.sha256:
            raise ManifestError(
                f"{url}: sha256 {sha256}, the published {path.name} has {known.sha256}: damaged on its way, or another "
                f"file, and not kept; {advice}"
            )

    _fetch(lambda: Location(url, size=known.size, content=known.sha256, advice=advice), path, check)
    _record(weights, path.name, Entry(known.size, known.sha256, url))


def _face_files_found(console: Console, weights: Path) -> None:
    """Record files of the face crop that were put there by hand; whoever has made weights of his own may use them."""
    from networks.faces.retinaface_weights import load_retinaface

    recorded = read_manifest(weights)
    found = [weights / name for name in KNOWN if name not in recorded and (weights / name).is_file()]
    for path, sha256 in _hashes(found).items():
        if path.name == FACE_DETECTOR_FILE:
            load_retinaface(path)
        if not is_known(path.name, sha256):
            console.print(f"[yellow]{path.name} is not the published file: recorded as found[/]")
        _record(weights, path.name, Entry(path.stat().st_size, sha256, "local"))


def _refuse_stand_ins(weights: Path) -> None:
    names = [Path(name).with_suffix(".safetensors").name for name in CHECKPOINTS]
    if converted := [name for name in names if (weights / name).exists()]:
        raise DownloadError(
            f"{weights} holds {', '.join(converted)}, which would stand beside the published files: "
            "remove it, or give another --weights folder"
        )


def _require_published(path: Path, published: hub.PublishedFile, sha256: str) -> None:
    """Refuse a file that is not what the hub says."""
    if published.sha256 and sha256 != published.sha256:
        raise ManifestError(
            f"{path.parent / published.name}: sha256 {sha256}, published at {published.source} is {published.sha256}: "
            "damaged on its way, or another file. Remove it where it is still there, and run the command again"
        )


def _record_checkpoint(weights: Path, published: hub.PublishedFile, sha256: str) -> None:
    _record(weights, published.name, Entry(published.size, sha256, published.source, published.revision))


def _record_found(weights: Path, names: Sequence[str]) -> None:
    for path, sha256 in _hashes([weights / name for name in names]).items():
        _record(weights, path.name, Entry(path.stat().st_size, sha256, "local"))


def _record(weights: Path, name: str, entry: Entry) -> None:
    """Record a file, unless it was recorded as another one before and has been fetched again since."""
    require_hashes({weights / name: entry.sha256})
    try:
        record(weights, name, entry)
    except OSError as error:
        raise ManifestError(f"{weights}: the manifest cannot be written: {error}") from error


def _hashes(paths: Sequence[Path]) -> dict[Path, str]:
    hashes = {}
    with _progress() as progress:
        for path in paths:
            task = progress.add_task(f"verifying {path.name}", total=path.stat().st_size)
            hashes[path] = sha256_of(path, lambda count, task=task: progress.advance(task, count))  # type: ignore[misc]
    return hashes


def _require_space(weights: Path, needed: int) -> None:
    free = shutil.disk_usage(weights).free
    if needed > free:
        raise DownloadError(
            f"{weights}: the checkpoints take {needed / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free; "
            "make room or give another --weights folder"
        )


def _progress() -> Progress:
    console = Console(stderr=True)
    text = TextColumn("{task.description}")
    rates = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(text, BarColumn(), *rates, console=console, transient=True, disable=not console.is_terminal)
