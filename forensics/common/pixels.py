"""Images as studies degrade them: decoded as the server does, and never of more than a megapixel."""

import hashlib
import math

import cv2
import numpy as np

from ensemble.images import Limits, RgbImage, read_image

LARGEST_PIXELS = 1_000_000
"""Larger images are reduced to so many pixels first, and count as clean then. The method degrades images of 256×256;
in one of 50 megapixels a blur of a few pixels, or a noise of a pixel's grain, would not be seen by any stream."""


def image_seed(data: bytes, seed: int) -> int:
    """The seed of an image's degradations: of its contents, so that neither its name nor its neighbours matter."""
    digest = hashlib.sha256(seed.to_bytes(8, "little") + data).digest()
    return int.from_bytes(digest[:7], "little")


def read_pixels(data: bytes) -> RgbImage:
    """Decodes an image as the server does, and reduces it to `LARGEST_PIXELS`.

    Raises:
        ImageError: It cannot be scored.
    """
    image = read_image(data, Limits())
    scale = math.sqrt(LARGEST_PIXELS / (image.shape[0] * image.shape[1]))
    if scale >= 1:
        return image
    size = (max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def encode_png(image: RgbImage) -> bytes:
    """The image as a PNG, without loss."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
