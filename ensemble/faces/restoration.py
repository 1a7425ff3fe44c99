"""The cascade of restored images in which a face is looked for when the image itself shows none (paper section 3.2).

An attempt is a restoration and a way back: what the detector sees, and where a box found there lies in the image.
Attempts build on one another (`Attempt.source`), so expensive work is done once:

    for attempt, restored in restored_images(image):
        if boxes := detect(restored):
            return [attempt.to_image(box, image.shape) for box in boxes]

Images are RGB uint8 [H, W, 3] of any size from 1×1 up; the restorations keep that layout. The authors' code works on
OpenCV's BGR images: the results here are theirs, pixel for pixel, with the channels the other way round.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ensemble.faces.detection import Box
from ensemble.images import RgbImage

_SHARPEN_KERNEL = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], dtype=np.float32)
_GAMMA_LOOKUP = (((np.arange(256) / 255.0) ** (1.0 / 0.5)) * 255).astype(np.uint8)
_PADDING = 0.2
_PADDING_GREY = 128
_UPSCALE = 2


def _unchanged(image: RgbImage) -> RgbImage:
    return image


def _box_unchanged(box: Box, shape: Sequence[int]) -> Box:
    return box


@dataclass(frozen=True)
class Attempt:
    """One attempt at finding a face.

    Attributes:
        name: What `FACE_SOURCE` says when this attempt finds the face.
        restore: Pure function from the source's image to the image that the detector sees, RGB uint8 [H, W, 3].
        source: Name of the earlier attempt whose image is restored.
        to_image: Pure function from a box in the restored image and the shape of the original image (height, width, …)
            to that box in the original image. Boxes are x1, y1, x2, y2 in pixels.
    """

    name: str
    restore: Callable[[RgbImage], RgbImage]
    source: str = "raw"
    to_image: Callable[[Box, Sequence[int]], Box] = _box_unchanged


def restored_images(image: RgbImage, attempts: Sequence[Attempt] | None = None) -> Iterator[tuple[Attempt, RgbImage]]:
    """Yields the attempts with the images that the detector is to see, each made only when it is asked for.

    An attempt whose restoration gives back the very image that it was given, changing nothing, is left out.

    Args:
        image: The decoded image, RGB uint8 [H, W, 3].
        attempts: Which, in order; `ATTEMPTS` unless given. The sources of an attempt must stand before it.

    Raises:
        KeyError: An attempt stands before its source.
    """
    attempts = ATTEMPTS if attempts is None else attempts
    sources = {attempt.source for attempt in attempts}
    made = {"raw": image}
    for attempt in attempts:
        restored = attempt.restore(made[attempt.source])
        if attempt.name in sources:
            made[attempt.name] = restored
        if restored is not made[attempt.source] or attempt.restore is _unchanged:
            yield attempt, restored


def _bilateral(image: RgbImage) -> RgbImage:
    return _image(cv2.bilateralFilter(image, 9, 75, 75))


def _median(size: int) -> Callable[[RgbImage], RgbImage]:
    return lambda image: _image(cv2.medianBlur(image, size))


def _clahe(clip_limit: float) -> Callable[[RgbImage], RgbImage]:
    """Contrast-limited adaptive histogram equalisation of the lightness, in 8×8 tiles."""

    def equalise_lightness(image: RgbImage) -> RgbImage:
        lightness, a, b = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
        # Made anew each time: an OpenCV CLAHE object keeps buffers and must not be shared between threads.
        lightness = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(8, 8)).apply(lightness)
        return _image(cv2.cvtColor(cv2.merge((lightness, a, b)), cv2.COLOR_LAB2RGB))

    return equalise_lightness


def _sharpen_clahe(image: RgbImage) -> RgbImage:
    return _clahe(3.0)(_image(cv2.filter2D(image, -1, _SHARPEN_KERNEL)))


def _nlmeans(image: RgbImage) -> RgbImage:
    # OpenCV takes the channels for BGR here and goes through LAB, so their order matters.
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    denoised = cv2.fastNlMeansDenoisingColored(bgr, None, 15, 15, 7, 21)
    return _image(cv2.cvtColor(denoised, cv2.COLOR_BGR2RGB))


def _equalise(image: RgbImage) -> RgbImage:
    grey = cv2.equalizeHist(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    return _image(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))


def _minmax_equalise(image: RgbImage) -> RgbImage:
    stretched = np.empty_like(image)
    return _equalise(_image(cv2.normalize(image, stretched, 0, 255, cv2.NORM_MINMAX)))


def _gamma_upscale_unsharp(image: RgbImage) -> RgbImage:
    darkened = cv2.LUT(image, _GAMMA_LOOKUP)
    upscaled = cv2.resize(darkened, None, fx=_UPSCALE, fy=_UPSCALE, interpolation=cv2.INTER_CUBIC)
    blurred = cv2.GaussianBlur(upscaled, (0, 0), 3)
    return _clahe(4.0)(_image(cv2.addWeighted(upscaled, 2.0, blurred, -1.0, 0)))


def _downscaled_box(box: Box, shape: Sequence[int]) -> Box:
    x1, y1, x2, y2 = (float(int(side / _UPSCALE)) for side in box)
    return x1, y1, x2, y2


def _padding(shape: Sequence[int]) -> int:
    return int(_PADDING * max(shape[:2]))


def _pad_equalise(image: RgbImage) -> RgbImage:
    sides = (_padding(image.shape),) * 4
    return _equalise(_image(cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=(_PADDING_GREY,) * 3)))


def _unpadded_box(box: Box, shape: Sequence[int]) -> Box:
    padding = _padding(shape)
    x1, y1, x2, y2 = (side - padding for side in box)
    return x1, y1, x2, y2


def _image(pixels: NDArray[np.generic]) -> RgbImage:
    """OpenCV's annotations say any number type; what goes in as uint8 comes out as uint8."""
    return pixels.astype(np.uint8, copy=False)


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("raw", _unchanged),
    Attempt("bilateral", _bilateral),
    Attempt("median9", _median(9)),
    Attempt("sharpen_clahe", _sharpen_clahe),
    Attempt("nlmeans", _nlmeans),
    Attempt("median5", _median(5)),
    Attempt("nlmeans_clahe", _clahe(2.5), source="nlmeans"),
    Attempt("minmax_equalize", _minmax_equalise),
    Attempt("gamma_upscale_unsharp", _gamma_upscale_unsharp, to_image=_downscaled_box),
    Attempt("pad_equalize", _pad_equalise, to_image=_unpadded_box),
)
"""The method's attempts in its order, without those that need GFPGAN: the image as it is, then the restorations."""


def with_face_restoration(restore_faces: Callable[[RgbImage], RgbImage]) -> tuple[Attempt, ...]:
    """All the method's attempts, the three with GFPGAN in their place.

    Args:
        restore_faces: From an image to one of its size with its faces restored; the very image where it has none.
    """
    behind = 1 + [attempt.name for attempt in ATTEMPTS].index("median9")
    restored = (
        Attempt("gfpgan", restore_faces),
        Attempt("gfpgan_bilateral", restore_faces, source="bilateral"),
        Attempt("gfpgan_median9", restore_faces, source="median9"),
    )
    return (*ATTEMPTS[:behind], *restored, *ATTEMPTS[behind:])
