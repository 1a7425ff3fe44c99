"""The compound engine: a random chain of operations, drawn first, then applied."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from degradation.artefacts import draw_aberration, draw_glitch, draw_moire
from degradation.blur import draw_blur, draw_motion_blur
from degradation.colour import draw_colour, draw_tone, draw_vignetting
from degradation.compression import draw_banding, draw_chroma, draw_jpeg
from degradation.distractors import draw_distractor
from degradation.noise import draw_gaussian_noise, draw_sensor_noise
from degradation.pixels import Image, Operation, chance, check_image, draw_seed, generator, integer
from degradation.resampling import Resize, Restore, draw_resize, draw_smooth, scaled

Draw = Callable[[np.random.Generator, float], Operation | None]
"""From a generator and a strength in [0, 1], an operation with its parameters; None where it sits out."""

OPERATIONS: dict[str, Draw] = {
    "blur": draw_blur,
    "motion_blur": draw_motion_blur,
    "sensor_noise": draw_sensor_noise,
    "resize": draw_resize,
    "colour": draw_colour,
    "gaussian_noise": draw_gaussian_noise,
    "jpeg": draw_jpeg,
    "chroma_subsampling": draw_chroma,
    "banding": draw_banding,
    "tone": draw_tone,
    "chromatic_aberration": draw_aberration,
    "moire": draw_moire,
    "glitch": draw_glitch,
    "vignetting": draw_vignetting,
    "distractor": draw_distractor,
}
"""The method's operations 0 … 14, in that order."""

RESTORE = "restore"
"""Name of the last step, which brings the image back to its size."""

LARGEST_SCALE = 4.0
"""No chain of resizes makes the sides longer than this many times the original ones.

The method has no such bound: six enlargements in a row would ask for 4096 times the pixels. At the training
settings the bound changes one degraded image in about 700.
"""

LONGEST_SIDE = 16_000
"""px; four times this is still within JPEG's 65 500."""

_SMALLEST_IN_CYCLES = 10
"""px; an image with a side no longer than this is not resized in the leading cycles any more."""


@dataclass(frozen=True)
class Settings:
    """How often and how strongly the engine degrades.

    Attributes:
        global_p: Probability that an image is degraded at all.
        op_p: Probability of the initial JPEG/resize cycles and of each operation.
        strength: Of every operation, in [0, 1]; None draws it anew for each from Beta(1.2, 1.2).
        distractor: Whether operation 14 takes part.

    Raises:
        ValueError: A value outside [0, 1].
    """

    global_p: float = 0.5
    op_p: float = 0.3
    strength: float | None = None
    distractor: bool = True

    def __post_init__(self) -> None:
        for name, value in (("global_p", self.global_p), ("op_p", self.op_p), ("strength", self.strength)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value:g}; it must lie in [0, 1]")


@dataclass(frozen=True)
class Step:
    """One applied operation: its name in `OPERATIONS` (or `RESTORE`), its strength, and its parameters."""

    name: str
    strength: float
    operation: Operation


def degrade(
    image: Image, rng: np.random.Generator, settings: Settings | None = None, thumbnails: Sequence[Image] = ()
) -> tuple[Image, list[Step]]:
    """Degrades one image by a random chain of operations; the generator alone decides.

    Operations see the image at the size that earlier resizes gave it; last, it is brought back to its own size
    (linear, cubic or area, equally likely). As in the method nothing clips after that, or after a pasted thumbnail:
    the result may leave [0, 1] by some tenths, and `to_bytes` or `numpy.clip` brings it back.

    Args:
        image: float32 [height, width, 3], RGB in [0, 1], at least 1 × 1; not modified.
        rng: Makes every choice: the same state gives the same pixels.
        settings: The method's training settings where None.
        thumbnails: Other images, float32 RGB in [0, 1], one of which a distractor may paste.

    Returns:
        A new image of the same shape, and the steps that made it, in order; none for an image left as it is.

    Raises:
        TypeError: The image is not float32.
        ValueError: Its shape or its values are not an image's, or a side is over `LONGEST_SIDE`.
    """
    check_image(image)
    height, width = image.shape[:2]
    if max(height, width) > LONGEST_SIDE:
        raise ValueError(f"image of {width}×{height} pixels; the longest side is {LONGEST_SIDE}: resize it first")
    steps = draw_steps(rng, settings or Settings(), (height, width), thumbnails)
    return apply_steps(image, steps), steps


def degrade_once(
    name: str, image: Image, strength: float, rng: np.random.Generator, thumbnails: Sequence[Image] = ()
) -> Image:
    """Applies one of `OPERATIONS` alone, and restores the image's size.

    Args:
        name: Key of `OPERATIONS`.
        image: float32 [height, width, 3], RGB in [0, 1].
        strength: In [0, 1].
        rng: Draws the parameters (banding and distractors may sit out).
        thumbnails: As in `degrade`.

    Raises:
        KeyError: No such operation.
        TypeError, ValueError: As `degrade`, and a strength outside [0, 1].
    """
    check_image(image)
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength:g}; it must lie in [0, 1]")
    height, width = image.shape[:2]
    operation = _drawer(name, (height, width), thumbnails)(rng, strength)
    restore = Restore(height, width, draw_smooth(rng))
    return restore.apply(operation.apply(image) if operation else image)


def apply_steps(image: Image, steps: Sequence[Step]) -> Image:
    """A new image: the steps applied in order."""
    degraded = image.copy()
    for step in steps:
        degraded = step.operation.apply(degraded)
    return degraded


def draw_steps(
    rng: np.random.Generator, settings: Settings, size: tuple[int, int], thumbnails: Sequence[Image] = ()
) -> list[Step]:
    """Draws a chain of operations for an image of `size` = (height, width).

    With probability `global_p` there is one: with probability `op_p` it starts with one to five cycles of JPEG and
    resize, either first, all resizes at one strength; then come the operations in random order, each with probability
    `op_p`; `RESTORE` is last. Each operation draws from a generator of its own, so that with a fixed strength the same
    seed gives the same chain at every strength but for the parameters that strength acts on.
    """
    if not chance(rng, settings.global_p):
        return []
    cycles = _draw_cycles(rng, settings) if chance(rng, settings.op_p) else []
    order = [str(name) for name in rng.permutation(list(OPERATIONS))]
    names = [name for name in order if chance(rng, settings.op_p) and (settings.distractor or name != "distractor")]
    drawn = [_draw_step(name, rng, settings.strength, size, thumbnails) for name in names]
    steps = _of_bounded_size(size, cycles, [step for step in drawn if step])
    return [*steps, Step(RESTORE, 1.0, Restore(*size, draw_smooth(rng)))]


def _draw_cycles(rng: np.random.Generator, settings: Settings) -> list[Step]:
    cycle = ["jpeg", "resize"] if chance(rng, 0.5) else ["resize", "jpeg"]
    names, own = cycle * integer(rng, 1, 5), generator(draw_seed(rng))
    strength = _draw_strength(own, settings.strength)
    return [step for name in names if (step := _draw_step(name, rng, strength))]


def _draw_step(
    name: str,
    rng: np.random.Generator,
    fixed: float | None,
    size: tuple[int, int] = (0, 0),
    thumbnails: Sequence[Image] = (),
) -> Step | None:
    own = generator(draw_seed(rng))
    strength = _draw_strength(own, fixed)
    operation = _drawer(name, size, thumbnails)(own, strength)
    return Step(name, strength, operation) if operation else None


def _draw_strength(rng: np.random.Generator, fixed: float | None) -> float:
    return float(rng.beta(1.2, 1.2)) if fixed is None else fixed


def _drawer(name: str, size: tuple[int, int], thumbnails: Sequence[Image]) -> Draw:
    if name == "distractor":
        return partial(draw_distractor, size=size, thumbnails=thumbnails)
    return OPERATIONS[name]


def _of_bounded_size(size: tuple[int, int], cycles: Sequence[Step], steps: Sequence[Step]) -> list[Step]:
    """All steps, but for resizes of an image too small for it in the cycles; none leads beyond `LARGEST_SCALE`."""
    height, width = size
    scale, kept = 1.0, []
    for index, step in enumerate((*cycles, *steps)):
        if isinstance(step.operation, Resize):
            if index < len(cycles) and min(height, width) <= _SMALLEST_IN_CYCLES:
                continue
            factor = min(step.operation.factor, LARGEST_SCALE / scale)
            scale *= factor
            height, width = scaled(height, factor), scaled(width, factor)
            step = replace(step, operation=replace(step.operation, factor=factor))
        kept.append(step)
    return kept
