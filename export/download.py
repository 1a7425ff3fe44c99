"""The command line: `python -m export.download`."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ensemble.streams import STREAMS
from export import hub
from export.errors import DownloadError, ExportError, ManifestError, NoNetworkError
from export.manifest import Entry, read_manifest, record, require_hashes, require_sizes, sha256_of
from export.transfer import Location, fetch_file, unfinished
from export.weights import FACE_DETECTOR_FILE
from networks import WeightsError

CHECKPOINTS = tuple(stream.checkpoint for stream in STREAMS)

FACE_DETECTOR_URL = "https://github.com/serengil/deepface_models/releases/download/v1.0/retinaface.h5"
"""Where the PyPI package `retina-face` takes its weights from."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


@click.command(
    "download",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""Examples:

    \b
    python -m export.download --weights weights
    HF_ENDPOINT=https://hub.example python -m export.download --weights weights    # a mirror

    HF_TOKEN, HF_ENDPOINT and the proxy variables are honoured. Run the command again to go on after an interruption,
    or to verify what is there.

    Exit status: 0 all there and as recorded, 1 failed, 2 wrong usage, 3 no network, 130 interrupted.""",
)
@click.option(
    "--weights",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help=f"Folder for {', '.join(CHECKPOINTS)}; made where it is not there.",
)
@click.option(
    "--revision",
    help="Branch, tag or commit of the published checkpoints.  [default: the manifest's, else main]",
)
@click.option(
    "--face-detector/--no-face-detector",
    default=True,
    show_default=True,
    help=f"Also fetch {FACE_DETECTOR_FILE} (119 MB), the paper's face detector.",
)
@click.option("--face-detector-url", default=FACE_DETECTOR_URL, help="A mirror of that file.")
def main(weights: Path, revision: str | None, face_detector: bool, face_detector_url: str) -> None:
    """Fetch the published weights, and verify them ever after.

    The three checkpoints come from the Hugging Face hub, the face detector from its package's releases. Sizes, SHA-256
    and the hub's commit are recorded in manifest.json of the folder when a file is first seen; from then on this
    command and `python -m export` refuse a file that is not what was recorded. Files that were put there by hand are
    compared with what the hub says of them.
    """
    console = Console()
    try:
        try:
            weights.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DownloadError(f"{weights}: cannot be used as a folder: {error.strerror}") from error
        with _alone_in(weights):
            _verify_recorded(weights)
            _checkpoints(console, weights, revision)
            if face_detector:
                _face_detector(console, weights, face_detector_url)
    except (ExportError, WeightsError) as error:
        Console(stderr=True).print(f"[bold red]download failed:[/] {_escape(str(error))}", soft_wrap=True)
        sys.exit(3 if isinstance(error, NoNetworkError) else 1)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; run the same command again to go on")
        sys.exit(INTERRUPTED)
    for name, entry in read_manifest(weights).items():
        console.print(
            f"{name}  {entry.size / 1e6:,.0f} MB  sha256 {entry.sha256[:12]}…  {entry.source}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"All there, and as recorded in {weights / 'manifest.json'}", highlight=False, soft_wrap=True)


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
    from networks.retinaface import load_retinaface

    path = weights / FACE_DETECTOR_FILE
    if path.name in read_manifest(weights) and path.is_file():
        return
    source = "local"
    if path.is_file():
        load_retinaface(path)
    else:
        source = url
        console.print(f"fetching {path.name}", highlight=False)
        advice = f"give a mirror by --face-detector-url, put the file at {path} by hand, or add --no-face-detector"
        _fetch(lambda: Location(url, advice=advice), path, lambda partial, advance: load_retinaface(partial))
    entry = Entry(path.stat().st_size, _hashes([path])[path], source)
    _record(weights, path.name, entry)


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


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


if __name__ == "__main__":
    main(prog_name="python -m export.download")
