"""Finding the checkpoints to export."""

from pathlib import Path

from ensemble.streams import STREAMS, Stream
from export.errors import MissingWeightsError
from export.weights.manifest import require_sizes
from networks.faces import ALIGNER, DETECTOR, RESTORER
from networks.faces.gfpgan_checkpoints import ALIGNER_FILE, GFPGAN_FILE, PARSENET_FILE

PUBLISHED_WEIGHTS = "https://huggingface.co/lpmkhoa/hcmusaqua-ntire26-weights"
"""Where the authors publish the checkpoints."""


def find_checkpoints(weights: Path) -> dict[Stream, Path]:
    """Find the checkpoint of every stream in a folder.

    Raises:
        MissingWeightsError: Some are absent, or there twice.
        ManifestError: One has another size than the folder's manifest says.
    """
    found: dict[Stream, Path] = {}
    missing = []
    for stream in STREAMS:
        path = weights / stream.checkpoint
        forms = [path] if stream.is_of_another_method else [path, path.with_suffix(".safetensors")]
        there = [candidate for candidate in forms if candidate.exists()]
        if len(there) > 1:
            raise MissingWeightsError(f"{weights} holds both {there[0].name} and {there[1].name}: remove one of them")
        if there:
            found[stream] = there[0]
        else:
            missing.append(stream.checkpoint)
    if missing:
        raise MissingWeightsError(
            f"{weights}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. "
            f"Fetch the published checkpoints (python -m export.download --weights {weights}; "
            f"they are at {PUBLISHED_WEIGHTS}), "
            "or make random ones, which detect nothing, to try the software: "
            f"python -m export --weights {weights} --random-weights tiny"
        )
    require_sizes(found.values())
    return found


FACE_DETECTOR_FILE = "retinaface.h5"
"""Weights of RetinaFace as the PyPI package `retina-face` uses them."""

FACE_RESTORER_FILES = (ALIGNER_FILE, GFPGAN_FILE, PARSENET_FILE)
"""Weights of GFPGAN and of what facexlib aligns and pastes its faces by, as the PyPI package `gfpgan` uses them."""


def find_face_weights(weights: Path) -> dict[str, tuple[Path, ...]]:
    """Find the weights of the face crop's models, by the model's name: those that are there.

    Raises:
        MissingWeightsError: Some of GFPGAN's files are there and others are not.
        ManifestError: The detector's has another size than the folder's manifest says.
    """
    detector = weights / FACE_DETECTOR_FILE
    aligner, *restorer = (weights / name for name in FACE_RESTORER_FILES)
    found: dict[str, tuple[Path, ...]] = {DETECTOR: (detector,)} if detector.exists() else {}
    require_sizes(found.get(DETECTOR, ()))
    missing = [path.name for path in (aligner, *restorer) if not path.exists()]
    if not missing:
        return {**found, ALIGNER: (aligner,), RESTORER: tuple(restorer)}
    if len(missing) < len(FACE_RESTORER_FILES):
        raise MissingWeightsError(
            f"{weights} holds some of GFPGAN's files and lacks {', '.join(missing)}: add what is missing, or remove "
            f"the rest of {', '.join(FACE_RESTORER_FILES)} to do without the attempts that restore faces"
        )
    return found
