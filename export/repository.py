"""The model repository on disk: its tracked skeleton, a place to stage new models, and putting them in place.

What is published is never a mix of old and new: provenance.json, which tells clients what the models are, goes first
and comes back last, and a model is absent while its two files change. Whatever fails before leaves all as it was.
"""

import fcntl
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ensemble.contract import FACE_MODELS_KEY, PRECISION, SHA256, STATE, STREAMS_KEY, UNTRAINED
from export.configure import configure
from export.errors import RepositoryError
from export.exporters.exporter import ModelExport
from export.exporters.stream_export import StreamExport
from export.layout import (
    CONFIGURATIONS,
    DATA_FILE,
    ENGINE_MANIFEST,
    GENERATED,
    LOADED_FILES,
    PROVENANCE,
    SKELETON,
    VERSION,
)
from export.state import weakest, weights_state
from export.weights.base_weights import compare_bases
from networks.faces import DETECTOR, FACE_MODELS

STAGING_PREFIX = ".staging-"


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """Give a folder to write models into, on the repository's file system; it is removed afterwards.

    A repository other than the checkout's own gets the tracked files (config.pbtxt, configs/, model.py) first. It is
    locked meanwhile, and what a killed export left is removed.

    Raises:
        RepositoryError: It is not a folder, cannot be written, or another export is at work in it.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        lock = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RepositoryError(f"{repository}: cannot be used as a model repository: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RepositoryError(f"{repository}: another export is at work there; wait for it to end") from error
        # In a model's folder, where tritonserver minds only numbered versions: in the root it would be a broken model.
        parent = repository / PROVENANCE.parts[0]
        try:
            _lay_out(repository)
            parent.mkdir(exist_ok=True)
            for leftover in parent.glob(f"{STAGING_PREFIX}*"):
                shutil.rmtree(leftover)
            folder = tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=parent)
        except OSError as error:
            raise RepositoryError(f"{repository}: cannot be written: {error}") from error
        with folder as name:
            yield Path(name)
    finally:
        os.close(lock)


def require_space(repository: Path, needed: int) -> None:
    """Refuse an export that the disk cannot hold.

    Raises:
        RepositoryError: With what is needed and what is free.
    """
    free = shutil.disk_usage(repository).free
    if needed > free:
        raise RepositoryError(
            f"{repository}: the models take {needed / 1e9:.1f} GB until they replace the old ones, "
            f"{free / 1e9:.1f} GB are free; make room or choose another --repository"
        )


def publish(repository: Path, exports: Sequence[StreamExport], face_models: Sequence[ModelExport] = ()) -> None:
    """Move validated models into place, and say what they are.

    Args:
        repository: The model repository.
        exports: All streams, their files on the same file system as the repository.
        face_models: Of `FACE_MODELS`, those that there are weights for; the others are removed.

    Raises:
        RepositoryError: A file cannot be written or moved.
    """
    provenance = repository / PROVENANCE
    with _uninterrupted():
        try:
            provenance.parent.mkdir(parents=True, exist_ok=True)
            provenance.unlink(missing_ok=True)
            for export in exports:
                _replace_model(repository / export.stream.name / VERSION, export.files)
            for name in FACE_MODELS:
                shutil.rmtree(repository / name, ignore_errors=True)
            for model in face_models:
                _replace_model(repository / model.name / VERSION, model.files)
                _copy_configurations(model.name, repository / model.name)
            partial = provenance.with_suffix(".partial")
            partial.write_text(json.dumps(describe(exports, face_models), indent=2) + "\n", encoding="utf-8")
            partial.replace(provenance)
        except OSError as error:
            raise RepositoryError(
                f"{repository}: {error}; the new models are not all in place: mend that and run the export again"
            ) from error


def describe(exports: Sequence[StreamExport], face_models: Sequence[ModelExport] = ()) -> dict[str, object]:
    """What provenance.json says: which weights give the verdicts, and whether they are random or stand-ins."""
    bases = compare_bases({export.checkpoint.name: export.base for export in exports if export.base})
    return {
        STATE: weakest(map(weights_state, (*exports, *face_models))),
        UNTRAINED: any(export.untrained for export in exports) or any(model.untrained for model in face_models),
        "stand_in": next((export.stand_in for export in exports if export.stand_in), ""),
        PRECISION: exports[0].precision,
        "same_base_network": bases.identical,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        STREAMS_KEY: {
            export.stream.name: {
                "checkpoint": export.checkpoint.name,
                SHA256: export.sha256,
                "base_sha256": bases.sha256.get(export.checkpoint.name, ""),
                "untrained": export.untrained,
                STATE: weights_state(export),
            }
            for export in exports
        },
        "face_detector": "retinaface" if DETECTOR in {model.name for model in face_models} else "haar",
        FACE_MODELS_KEY: {
            model.name: {
                "weights": {path.name: sha256 for path, sha256 in zip(model.weights, model.hashes, strict=True)},
                "untrained": model.untrained,
                "precision": model.precision,
            }
            for model in face_models
        },
    }


def _copy_configurations(name: str, folder: Path) -> None:
    """NAME.pbtxt of `CONFIGURATIONS` is the model's config.pbtxt, NAME.OTHER.pbtxt its configs/OTHER.pbtxt."""
    (folder / "configs").mkdir(exist_ok=True)
    for source in CONFIGURATIONS.glob(f"{name}*.pbtxt"):
        _, *other, _ = source.name.split(".")
        shutil.copyfile(source, folder / "configs" / f"{other[0]}.pbtxt" if other else folder / "config.pbtxt")


def _lay_out(repository: Path) -> None:
    if repository.resolve() != SKELETON:
        shutil.copytree(SKELETON, repository, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*GENERATED))
    configure(repository)


def _replace_model(folder: Path, files: Sequence[Path]) -> None:
    """Replace a model's files; in between there is no model at all, rather than one with other weights.

    An engine of the old model goes, too, where the new one has none. Weights and manifest come before what they
    belong to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*LOADED_FILES, DATA_FILE, ENGINE_MANIFEST):
        (folder / name).unlink(missing_ok=True)
    for file in sorted(files, key=lambda file: file.name in LOADED_FILES):
        file.replace(folder / file.name)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and termination for the few renames of a publication.

    Blocking them for this thread would not do: with threads of other libraries about, one of those takes the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread alone
        return
    caught: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: caught.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for waiting in dict.fromkeys(caught):
            signal.raise_signal(waiting)
