"""The compound engine: a random chain of operations, drawn first, then applied."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from degradation.artefacts import draw_aberration, draw_distractor, draw_glitch, draw_moire
from degradation.blur import draw_blur, draw_motion_blur
from degradation.colour import draw_colour, draw_tone, draw_vignetting
from degradation.compression import draw_banding, draw_chroma, draw_jpeg
from degradation.noise import draw_gaussian_noise, draw_sensor_noise
from degradation.pixels import Image, Operation, chance, check_image, draw_seed, generator, integer
from degradation.resampling import Resize, draw_resize, restored

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

LARGEST_SCALE = 4.0
"""No chain of resizes makes the sides longer than this many times the original ones.

The method has no such bound: six enlargements in a row would ask for 4096 times the pixels. At the training
settings the bound changes one degraded image in about 700.
"""

LONGEST_SIDE = 16_000
"""px; four times this is still within JPEG's 65 500."""


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
    """One applied operation: its name in `OPERATIONS`, its strength, and its parameters."""

    name: str
    strength: float
    operation: Operation


def degrade(
    image: Image, rng: np.random.Generator, settings: Settings | None = None, thumbnails: Sequence[Image] = ()
) -> tuple[Image, list[Step]]:
    """Degrades one image by a random chain of operations; the generator alone decides.

    Operations see the image at the size that earlier resizes gave it; last, it is brought back to its own size (area
    when it shrinks, cubic when it grows).

    Args:
        image: float32 [height, width, 3], RGB in [0, 1], at least 1 × 1; not modified.
        rng: Makes every choice: the same state gives the same pixels.
        settings: The method's training settings where None.
        thumbnails: Other images, one of which a distractor may paste.

    Returns:
        A new image of the same shape, and the steps that made it, in order; none for an image left as it is.

    Raises:
        TypeError: The image is not float32.
        ValueError: Its shape or its values are not an image's, or a side is over `LONGEST_SIDE`.
    """
    check_image(image)
    if max(image.shape) > LONGEST_SIDE:
        height, width = image.shape[:2]
        raise ValueError(f"image of {width}×{height} pixels; the longest side is {LONGEST_SIDE}: resize it first")
    steps = draw_steps(rng, settings or Settings(), thumbnails)
    return apply_steps(image, steps), steps


def degrade_once(name: str, image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Applies one of `OPERATIONS` alone, and restores the image's size.

    Args:
        name: Key of `OPERATIONS`.
        image: float32 [height, width, 3], RGB in [0, 1].
        strength: In [0, 1].
        rng: Draws the parameters (banding and distractors may sit out).

    Raises:
        KeyError: No such operation.
        TypeError, ValueError: As `degrade`, and a strength outside [0, 1].
    """
    check_image(image)
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength:g}; it must lie in [0, 1]")
    operation = OPERATIONS[name](rng, strength)
    return apply_steps(image, [Step(name, strength, operation)] if operation else [])


def apply_steps(image: Image, steps: Sequence[Step]) -> Image:
    """A new image: the steps applied in order, then the original size restored."""
    degraded = image.copy()
    for step in steps:
        degraded = step.operation.apply(degraded)
    return restored(degraded, *image.shape[:2])


def draw_steps(rng: np.random.Generator, settings: Settings, thumbnails: Sequence[Image] = ()) -> list[Step]:
    """Draws a chain of operations, which does not depend on the image.

    With probability `global_p` there is one: with probability `op_p` it starts with one to five cycles of JPEG and
    resize, either first; then come the operations in random order, each with probability `op_p`. Each operation draws
    from a generator of its own, so that with a fixed strength the same seed gives the same chain at every strength but
    for the parameters that strength acts on.
    """
    if not chance(rng, settings.global_p):
        return []
    names = _draw_cycles(rng) if chance(rng, settings.op_p) else []
    order = [str(name) for name in rng.permutation(list(OPERATIONS))]
    names += [name for name in order if chance(rng, settings.op_p) and (settings.distractor or name != "distractor")]
    steps = (_draw_step(name, rng, settings.strength, thumbnails) for name in names)
    return _within_largest_scale([step for step in steps if step])


def _draw_cycles(rng: np.random.Generator) -> list[str]:
    cycle = ["jpeg", "resize"] if chance(rng, 0.5) else ["resize", "jpeg"]
    return cycle * integer(rng, 1, 5)


def _draw_step(name: str, rng: np.random.Generator, strength: float | None, thumbnails: Sequence[Image]) -> Step | None:
    own = generator(draw_seed(rng))
    strength = float(own.beta(1.2, 1.2)) if strength is None else strength
    draw = partial(draw_distractor, thumbnails=thumbnails) if name == "distractor" else OPERATIONS[name]
    operation = draw(own, strength)
    return Step(name, strength, operation) if operation else None


def _within_largest_scale(steps: list[Step]) -> list[Step]:
    """The same steps, with the factor of a resize lowered where it would lead beyond `LARGEST_SCALE`."""
    scale, bounded = 1.0, []
    for step in steps:
        if isinstance(step.operation, Resize):
            factor = min(step.operation.factor, LARGEST_SCALE / scale)
            scale *= factor
            step = replace(step, operation=replace(step.operation, factor=factor))
        bounded.append(step)
    return bounded
