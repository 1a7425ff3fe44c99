"""What the files of a weights folder are known to be: `manifest.json`, written once and compared ever after."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from export.errors import ManifestError

MANIFEST_FILE = "manifest.json"
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
    """Add a file to the manifest, replacing it whole, so that an interruption leaves the old one or the new one."""
    files = read_manifest(folder) | {name: entry}
    partial = folder / f"{MANIFEST_FILE}.partial"
    content = {"files": {name: asdict(files[name]) for name in sorted(files)}}
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST_FILE)


def require_sizes(paths: Iterable[Path]) -> None:
    """Compare files with the manifest beside them by size alone, at once; those that are not in one pass.

    Raises:
        ManifestError: One has another size, or the manifest cannot be read.
    """
    for path in paths:
        entry = read_manifest(path.parent).get(path.name)
        size = path.stat().st_size
        if entry and size != entry.size:
            raise _differs(path, f"{size} bytes", f"{entry.size}")


def require_hashes(hashes: Mapping[Path, str]) -> None:
    """Compare the hashes of files with the manifest beside them; those that are not in one pass.

    Args:
        hashes: SHA-256 by file, hexadecimal.

    Raises:
        ManifestError: One has another hash, or the manifest cannot be read.
    """
    for path, sha256 in hashes.items():
        entry = read_manifest(path.parent).get(path.name)
        if entry and sha256 != entry.sha256:
            raise _differs(path, f"sha256 {sha256}", entry.sha256)


def sha256_of(path: Path, on_bytes: Callable[[int], object] = lambda count: None) -> str:
    """The SHA-256 of a file, hexadecimal; `on_bytes` is called with the bytes of each part read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


def _differs(path: Path, found: str, recorded: str) -> ManifestError:
    return ManifestError(
        f"{path}: {found}, {MANIFEST_FILE} says {recorded}: the file was changed or damaged since it was recorded. "
        f"Remove it and fetch it again (python -m export.download --weights {path.parent}), "
        f"or, if the change was meant, remove its entry from {path.parent / MANIFEST_FILE}"
    )
