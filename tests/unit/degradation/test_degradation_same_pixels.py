"""The same seed gives the same pixels: golden hashes, and again on a processor stripped of its vector instructions.

The hashes hold within the pinned minor version of OpenCV (its JPEG codec, its fonts) and NumPy (its generators).
After a change that is meant, print them with `python -m tests.unit.degradation.test_degradation_same_pixels`.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.core import _multiarray_umath

from degradation import (
    OPERATIONS,
    SWEEPS,
    Settings,
    degrade,
    degrade_once,
    from_bytes,
    generator,
)
from degradation.pixels import Image
from tests.golden import IMAGES, read_rgb

HASHES = json.loads(Path(__file__).with_name("hashes.json").read_text()) if __name__ != "__main__" else {}


def digest(images: list[Image]) -> str:
    """Of the exact float32 values."""
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()[:16]


def hashes() -> dict[str, str]:
    """One hash per operation (eight draws, enough to meet its branches), of the engine and of each sweep."""
    photographs = [from_bytes(read_rgb(path)) for path in IMAGES]
    image = np.ascontiguousarray(photographs[0][40:168, 60:189])
    found = {
        name: digest([degrade_once(name, image, 0.7, generator(seed)) for seed in range(8)]) for name in OPERATIONS
    }
    everything = Settings(global_p=1, op_p=0.5)
    found["engine"] = digest(
        [degrade(photographs[seed % 8][:150], generator(seed), everything, photographs)[0] for seed in range(24)]
    )
    for sweep in SWEEPS.values():
        found[f"sweep {sweep.name}"] = digest([sweep.degrade(image, level, 1024) for level in sweep.levels])
    return found


def test_pixels_are_those_of_the_golden_hashes() -> None:
    assert hashes() == HASHES


def test_pixels_are_the_same_without_vector_instructions() -> None:
    supported = _multiarray_umath.__cpu_features__
    numpy_features = [name for name in _multiarray_umath.__cpu_dispatch__ if supported[name]]
    # Those that OpenCV chooses among at run time carry a star, and a question mark where this processor lacks them.
    opencv_features = [word.strip("*?") for word in cv2.getCPUFeaturesLine().split() if word.startswith("*")]
    plain = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(numpy_features),
        "OPENCV_CPU_DISABLE": ",".join(opencv_features),
        "OPENCV_IPP": "disabled",
        "JSIMD_FORCENONE": "1",
        "OPENBLAS_CORETYPE": "Prescott",
    }
    command = [sys.executable, "-m", "tests.unit.degradation.test_degradation_same_pixels"]
    process = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True, check=True)
    assert json.loads(process.stdout) == HASHES


if __name__ == "__main__":
    print(json.dumps(hashes(), indent=2))
