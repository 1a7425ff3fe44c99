"""What the repository keeps of `make learn`, for the demonstration: small checkpoints, and images to try them on."""

import shutil
from pathlib import Path

import torch

from ensemble.streams import STREAMS
from networks.checkpoint_file import PREFIXES, read_tensors
from networks.stand_in import MARKER
from networks.weights_manifest import describe_file, write_manifest
from training.learn.photographs import PHOTOGRAPHS, TEST

_IMAGES = "images"
_WEIGHTS = "weights"
_OF_EACH = 1
"""Images of each test photograph and class."""

_README = """# Samples

`weights/` holds stand-in checkpoints in float16, made by `make learn`: {note}.
They are for trying the software. On any other image their scores mean nothing.

`images/` holds crops of photographs that the training never saw: `real_…` as they are, `fake_…` with a region
re-synthesised as `training/learn/manipulation.py` does it.

The photographs, in the images or learnt from:

{credits}
"""


def keep(made: Path, samples: Path) -> None:
    """Copies what `make_stand_ins` left in a folder: weights in half precision, and test images.

    Args:
        made: The folder.
        samples: Where to; what is there is replaced.
    """
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
    for photograph in TEST:
        for kind in ("real", "fake"):
            for path in sorted((made / "data" / "test" / kind).glob(f"{photograph}_*.png"))[:_OF_EACH]:
                shutil.copyfile(path, images / f"{kind}_{photograph}.png")
    note = (weights / MARKER).read_text(encoding="utf-8").strip()
    credits = "\n".join(f"* {name}: {photograph.credit}" for name, photograph in PHOTOGRAPHS.items())
    (samples / "README.md").write_text(_README.format(note=note, credits=credits), encoding="utf-8")
