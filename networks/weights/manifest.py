"""What the files of a weights folder are known to be: `manifest.json`, written once and compared ever after."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from networks.errors import ManifestError

MANIFEST_FILE = "manifest.json"

TRAINING_RUN = "training run "
"""How the source of a checkpoint begins that `training` left; the run's name follows."""
_CHUNK = 16 * 1024**2


@dataclass(frozen=True)
class Entry:
    """One file of the folder.

    Attributes:
        size: Bytes.
        sha256: Hash, hexadecimal.
        source: Where it came from: a URL, or `local` for a file that lay there and was not compared.
        revision: The hub's commit; empty where there is none.
    """

    size: int
    sha256: str
    source: str
    revision: str = ""


def read_manifest(folder: Path) -> dict[str, Entry]:
    """What is recorded of the files, by name; empty without a manifest.

    Raises:
        ManifestError: There is one, and it cannot be read.
    """
    path = folder / MANIFEST_FILE
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        entries = {name: Entry(**fields) for name, fields in files.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{path} cannot be read ({type(error).__name__}: {error}); restore it, or remove it "
            "to record the files anew"
        ) from error
    return entries


def record(folder: Path, name: str, entry: Entry) -> None:
    """Add a file to the manifest, or replace what is said of it."""
    write_manifest(folder, read_manifest(folder) | {name: entry})


def write_manifest(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Write the manifest anew, in one step: an interruption leaves the old one or the new one."""
    partial = folder / f"{MANIFEST_FILE}.partial"
    content = {"files": {name: asdict(entries[name]) for name in sorted(entries)}}
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST_FILE)


def describe_file(path: Path, source: str, revision: str = "", sha256: str = "") -> Entry:
    """The entry of a file.

    Args:
        path: The file.
        source: Where it came from.
        revision: Of the source.
        sha256: Its hash, where that is known already.
    """
    return Entry(path.stat().st_size, sha256 or sha256_of(path), source, revision)


def sha256_of(path: Path, on_bytes: Callable[[int], object] = lambda count: None) -> str:
    """The SHA-256 of a file, hexadecimal; `on_bytes` is called with the bytes of each part read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()
