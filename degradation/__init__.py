"""The method's degradation engine: fifteen operations, their random compound, and controlled sweeps.

    image = from_bytes(pixels)                                     # uint8 RGB to float32 in [0, 1]
    degraded, steps = degrade(image, generator(1024), Settings())  # as in training
    blurred = degrade_once("blur", image, 0.5, generator(1024))    # one operation
    pixels = SWEEPS["jpeg"].apply(pixels, level=20, seed=1024)     # uint8 in, uint8 out

Every operation is drawn first (a small frozen dataclass, which says all there is to know) and then applied, a pure
function of the image. The same seed gives the same pixels on every machine: choices come from NumPy's PCG64, results
are computed in float64 and laid on a grid that its last digits do not reach (`pixels.on_grid`). It holds within a
version of NumPy, whose generators may change between versions, and of OpenCV, which brings the JPEG codec.

The operations are those of the authors' code (training/dataset/noise_augment_wrapper.py), accidents included: motion
blur that hardly blurs where it is steep (`blur.motion_kernel`), covariances that are none (`noise.correlated_factor`),
thumbnails of wrong contrast (`distractors.ThumbnailDistractor`), results that leave [0, 1] (`resampling.Restore`). What
differs is said where it does: how far a chain may enlarge (`engine.LARGEST_SCALE`).
"""

from degradation.engine import OPERATIONS, Settings, Step, apply_steps, degrade, degrade_once, draw_steps
from degradation.pixels import Image, Operation, from_bytes, generator, to_bytes
from degradation.sweeps import SWEEPS, Sweep

__all__ = [
    "OPERATIONS",
    "SWEEPS",
    "Image",
    "Operation",
    "Settings",
    "Step",
    "Sweep",
    "apply_steps",
    "degrade",
    "degrade_once",
    "draw_steps",
    "from_bytes",
    "generator",
    "to_bytes",
]
