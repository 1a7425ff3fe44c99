"""What the repository keeps of `make learn`, for the demonstration: small checkpoints, and images to try them on."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from ensemble.streams import STREAMS
from networks.weights.checkpoint_file import PREFIXES, read_tensors
from networks.weights.manifest import describe_file, write_manifest
from networks.weights.stand_in import MARKER
from training.errors import RunError
from training.learn.photographs import PHOTOGRAPHS, TEST

_IMAGES = "images"
_WEIGHTS = "weights"
_README = """# Samples

`weights/` holds stand-in checkpoints in float16, made by `make learn`: {note}.
They are for trying the software. On any other image their scores mean nothing.

`images/` holds crops of photographs that the training never saw: `real_…` as they are, `fake_…` with a region
re-synthesised as `training/learn/manipulation.py` does it. Of each photograph and kind it is the first crop that the
vote judges rightly: they show what a right verdict looks like, not how often there is one. Of all {images} crops of
the test the vote is right on {right}.

The photographs, in the images or learnt from:

{credits}
"""


def keep(made: Path, samples: Path, right: Mapping[str, bool]) -> None:
    """Copies what `make_stand_ins` left in a folder: weights in half precision, and test images.

    Args:
        made: The folder.
        samples: Where to; what is there is replaced.
        right: Of each image of the test, by its path below the test's folder: whether the vote judges it rightly.

    Raises:
        RunError: Of some photograph and kind it judges none rightly.
    """
    chosen = {(kind, name): _first_right(kind, name, right) for name in TEST for kind in ("real", "fake")}
    shutil.rmtree(samples, ignore_errors=True)
    weights = samples / _WEIGHTS
    weights.mkdir(parents=True)
    for stream in STREAMS:
        tensors = read_tensors(made / "weights" / stream.checkpoint)
        half = {PREFIXES[0] + name: value.half() for name, value in tensors.items()}
        torch.save(half, weights / stream.checkpoint)
    shutil.copyfile(made / "weights" / MARKER, weights / MARKER)
    paths = [weights / stream.checkpoint for stream in STREAMS]
    write_manifest(weights, {path.name: describe_file(path, "make learn, in float16") for path in paths})
    images = samples / _IMAGES
    images.mkdir()
    for (kind, photograph), path in chosen.items():
        shutil.copyfile(made / "data" / "test" / path, images / f"{kind}_{photograph}.png")
    note = (weights / MARKER).read_text(encoding="utf-8").strip()
    credits = "\n".join(f"* {name}: {photograph.credit}" for name, photograph in PHOTOGRAPHS.items())
    (samples / "README.md").write_text(
        _README.format(note=note, credits=credits, images=len(right), right=sum(right.values())), encoding="utf-8"
    )


def _first_right(kind: str, photograph: str, right: Mapping[str, bool]) -> str:
    of_it = sorted(path for path in right if path.startswith(f"{kind}/{photograph}_"))
    for path in of_it:
        if right[path]:
            return path
    raise RunError(f"the vote judges none of the {len(of_it)} {kind} images of {photograph} rightly: nothing to show")
