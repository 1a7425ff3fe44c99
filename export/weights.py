"""Finding the checkpoints to export."""

from pathlib import Path

from ensemble.streams import STREAMS, Stream
from export.errors import MissingWeightsError

PUBLISHED_WEIGHTS = "https://huggingface.co/lpmkhoa/hcmusaqua-ntire26-weights"
"""Where the authors publish the checkpoints."""


def find_checkpoints(weights: Path) -> dict[Stream, Path]:
    """Find the checkpoint of every stream in a folder.

    Raises:
        MissingWeightsError: Some are absent, or there twice.
    """
    found: dict[Stream, Path] = {}
    missing = []
    for stream in STREAMS:
        path = weights / stream.checkpoint
        there = [candidate for candidate in (path, path.with_suffix(".safetensors")) if candidate.exists()]
        if len(there) > 1:
            raise MissingWeightsError(f"{weights} holds both {there[0].name} and {there[1].name}: remove one of them")
        if there:
            found[stream] = there[0]
        else:
            missing.append(stream.checkpoint)
    if missing:
        raise MissingWeightsError(
            f"{weights}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. "
            f"Put the published checkpoints there (from {PUBLISHED_WEIGHTS}), "
            "or make random ones, which detect nothing, to try the software: "
            f"python -m export --weights {weights} --random-weights tiny"
        )
    return found


FACE_DETECTOR_WEIGHTS = "retinaface.h5"
"""Weights of RetinaFace as the PyPI package `retina-face` uses them."""


def find_face_detector(weights: Path) -> Path | None:
    """The weights of RetinaFace, where they are in the folder: without them, OpenCV's cascade detects faces."""
    path = weights / FACE_DETECTOR_WEIGHTS
    return path if path.exists() else None
