"""Compare the files of a weights folder with what its manifest says of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from networks.errors import ManifestError
from networks.weights.manifest import MANIFEST_FILE, read_manifest


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


def _differs(path: Path, found: str, recorded: str) -> ManifestError:
    return ManifestError(
        f"{path}: {found}, {MANIFEST_FILE} says {recorded}: the file was changed or damaged since it was recorded. "
        f"Remove it and fetch it again (python -m export.download --weights {path.parent}), "
        f"or, if the change was meant, remove its entry from {path.parent / MANIFEST_FILE}"
    )
