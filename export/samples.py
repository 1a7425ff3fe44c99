"""Images to compare an exported model with its network on."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

SCENE = "scene"
"""Name of the batch that has the statistics of a photograph."""


def sample_batches(pixels: int) -> dict[str, Pixels]:
    """Give square images by what they are: uint8 [batch, pixels, pixels, 3], batch 1 and 3.

    Random pixels, and scenes with the statistics of photographs: smooth shading, edges, grain, JPEG blocks.
    """
    random = np.random.default_rng(20260425)
    noise = random.integers(0, 256, (pixels, pixels, 3), dtype=np.uint8)
    white = np.full((pixels, pixels, 3), 255, np.uint8)
    return {
        "random": noise[None],
        SCENE: _scene(pixels, random)[None],
        "mixed": np.stack([noise[::-1], _scene(pixels, random), white]),
    }


def batches_of_sizes(pixels: int, sizes: Sequence[int]) -> dict[str, Pixels]:
    """Give batches of these sizes, each of different images: uint8 [size, pixels, pixels, 3]."""
    pool = np.concatenate(list(sample_batches(pixels).values()))
    batches = {}
    for size in sizes:
        images = [np.roll(pool[index % len(pool)], 7 * index, axis=1) for index in range(size)]
        batches[f"batch of {size}"] = np.stack(images)
    return batches


def batches_of_two_sizes() -> dict[str, Pixels]:
    """Give images whose sides are multiples of all strides of a face network, and of none."""
    return {
        f"{name} {height}×{width}": sample_batches(max(height, width))[name][:, :height, :width].copy()
        for name, height, width in ((SCENE, 96, 128), ("mixed", 101, 75))
    }


def _scene(pixels: int, random: np.random.Generator) -> Pixels:
    shading = random.uniform(40, 200, (4, 4, 3)).astype(np.float32)
    canvas = cv2.resize(shading, (pixels, pixels), interpolation=cv2.INTER_CUBIC)
    for _ in range(8):
        centre, axes = random.integers(0, pixels, 2).tolist(), random.integers(pixels // 16, pixels // 3, 2).tolist()
        colour = random.uniform(0, 255, 3).tolist()
        cv2.ellipse(canvas, centre, axes, float(random.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    grain = random.normal(0, 4, canvas.shape)
    encoded = cv2.imencode(".jpg", np.clip(canvas + grain, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
