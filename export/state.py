"""What weights are: random, stand-ins, of unknown origin, trained here, or the published ones."""

from collections.abc import Iterable
from pathlib import Path

from ensemble.contract import WEIGHTS_STATES
from export.exporters.exporter import ModelExport
from export.weights.hub import REPOSITORY
from export.weights.published import is_known
from networks.weights.manifest import TRAINING_RUN, read_manifest


def weights_state(export: ModelExport) -> str:
    """What one network's weights are, a word of `WEIGHTS_STATES`.

    "published" are files with the digests that the hub gave for the authors' files when these were fetched, which the
    folder's manifest keeps, or that were known before. "own" are those of a training run. Any others that were learnt
    are "unknown".

    Raises:
        ManifestError: The folder's manifest cannot be read.
    """
    if export.untrained:
        return "untrained"
    if export.stand_in:
        return "stand-in"
    return weakest(map(_origin, export.weights, export.hashes))


def weakest(states: Iterable[str]) -> str:
    """What is said of several networks together: the word that promises least."""
    return min(states, key=WEIGHTS_STATES.index)


def _origin(path: Path, sha256: str) -> str:
    if is_known(path.name, sha256):
        return "published"
    entry = read_manifest(path.parent).get(path.name)
    if entry is None or entry.sha256 != sha256:
        return "unknown"
    if entry.source.endswith(f"/{REPOSITORY}") and entry.revision:
        return "published"
    return "own" if entry.source.startswith(TRAINING_RUN) else "unknown"
