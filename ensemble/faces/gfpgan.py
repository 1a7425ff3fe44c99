"""Face restoration with GFPGAN, for three attempts of the cascade (paper section 3.2): all but the networks.

What the PyPI packages `gfpgan` and `facexlib` do in `GFPGANer.enhance` (upscale 1, faces found, restored, pasted back)
around their networks, pixel for pixel: faces are found with a RetinaFace of facexlib's own, turned and scaled to
512×512, restored, parsed, and what the parser calls face is blended into the image. Images are RGB here and BGR there.

The networks are callables from a batch to the outputs of the exported graphs, so that any runtime can run them. They
give no outputs (an empty sequence) where they failed: then the image, or that face, stays as it is. The packages know
no bounds; here an image's cost has (`MAX_CANDIDATES`, `MAX_FACES`), and faces that cannot be aligned are left out.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ensemble.images import RgbImage

Network = Callable[[NDArray[np.uint8]], Sequence[NDArray[np.generic]]]
"""A batch of pixels, uint8 [n, height, width, 3], RGB, to the network's outputs in order; none where it failed."""

Affine = NDArray[np.float64]
"""[2, 3]: takes x, y, 1 in the image to x, y in the aligned face."""

ALIGNER_INPUT = "PIXELS"
"""Of the network that finds faces: uint8 [batch, height, width, 3], RGB."""

ALIGNER_OUTPUTS = ("SCORES", "BOXES", "LANDMARKS")
"""Its outputs: float32 [batch, anchors], [batch, anchors, 4] and [batch, anchors, 10]."""

RESTORER_INPUT = "FACES"
"""Of the network that restores them: uint8 [batch, `FACE_SIDE`, `FACE_SIDE`, 3], RGB."""

RESTORER_OUTPUTS = ("RESTORED", "CLASSES")
"""Its outputs: the faces restored, uint8 like the input, and their parsing, uint8 [batch, `FACE_SIDE`, `FACE_SIDE`]."""

FACE_SIDE = 512
"""Of an aligned face, pixels."""

CONFIDENCE = 0.97
"""Candidates must be above."""

OVERLAP = 0.4
"""Of two candidates with more than this intersection over union, the less confident is dropped."""

EYE_DISTANCE = 5
"""Pixels; faces whose eyes are closer are not restored: too small, or seen from the side."""

MAX_CANDIDATES = 4096
"""So many of the most confident candidates are looked at."""

MAX_FACES = 4
"""So many of the most confident faces of an image are restored: each takes about 15 s of a CPU core."""

STRIDES = (8, 16, 32)
"""Pixels between anchors, in the order of the aligner's outputs."""

_ANCHOR_SIDES = {8: (16, 32), 16: (64, 128), 32: (256, 512)}
_CENTRE_VARIANCE, _SIDE_VARIANCE = 0.1, 0.2
_TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Where the five landmarks lie in an aligned face."""
_BORDER = (132, 133, 135)
"""What an aligned face shows where it leaves the image."""
_PASTED_CLASSES = (*range(1, 14), 15)
"""All of the parser's 19 classes but background (0), cloth (14, 16), hair (17) and hat (18)."""
_MASK_BLUR, _MASK_SIGMA = (101, 101), 11
_MASK_BORDER = 10
_LONGEST_SIDE = 32766
"""Pixels; OpenCV warps no longer images."""


def restore_faces(image: RgbImage, align: Network, restore: Network) -> RgbImage:
    """Restores the faces of an image, the rest staying as it is.

    Args:
        image: RGB uint8 [height, width, 3].
        align: From [1, height, width, 3] to `ALIGNER_OUTPUTS`.
        restore: From [1, `FACE_SIDE`, `FACE_SIDE`, 3] to `RESTORER_OUTPUTS`; called for one face after the other, as
            each takes more than a gigabyte meanwhile.

    Returns:
        RGB uint8 of the same size; the very object `image` where nothing was restored.
    """
    if max(image.shape) > _LONGEST_SIDE:
        return image
    outputs = align(image[None])
    if not outputs:
        return image
    height, width = image.shape[:2]
    landmarks = face_landmarks([cast(NDArray[np.float32], output[0]) for output in outputs], (height, width))
    faces = []
    for affine in (alignment(points) for points in landmarks):
        if affine is not None and (restored := restore(aligned_face(image, affine)[None])):
            face, classes = (cast(NDArray[np.uint8], output[0]) for output in restored)
            faces.append((face, classes, affine))
    return paste_faces(image, faces) if faces else image


def face_landmarks(outputs: Sequence[NDArray[np.float32]], size: tuple[int, int]) -> NDArray[np.float32]:
    """Turns the aligner's outputs for one image into its faces' landmarks.

    Candidates with an offset that is not a finite number are dropped. Of equal scores, the one that comes first in the
    outputs goes first (there, the packages' order is left to chance).

    Args:
        outputs: Those of `ALIGNER_OUTPUTS`, [anchors, …].
        size: Height and width of the image.

    Returns:
        float32 [n, 5, 2]: x, y of both eyes, nose and both corners of the mouth, left before right as seen; at most
        `MAX_FACES`, by falling confidence. They may leave the image.
    """
    scores, boxes, landmarks = outputs
    chosen = np.flatnonzero((scores > CONFIDENCE) & (scores <= 1))  # never so for NaN
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:MAX_CANDIDATES]
    anchors = _anchors(size)[chosen]
    centres, sides = anchors[:, :2], anchors[:, 2:]
    scale = np.array(size[::-1], dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        points = landmarks[chosen].reshape(-1, 5, 2) * _CENTRE_VARIANCE * sides[:, None] + centres[:, None]
        box_sides = sides * np.exp(boxes[chosen, 2:] * _SIDE_VARIANCE)
        top_left = centres + boxes[chosen, :2] * _CENTRE_VARIANCE * sides - box_sides / 2
        corners = np.concatenate((top_left * scale, (box_sides + top_left) * scale), axis=1)
        points = points * scale
        finite = np.isfinite(corners).all(axis=1) & np.isfinite(points).all(axis=(1, 2))
        corners, points = corners[finite], points[finite]
        faces = points[_non_maximum_suppression(corners)]
        distant = [not np.linalg.norm(face[0] - face[1]) < EYE_DISTANCE for face in faces]
    restorable: NDArray[np.float32] = faces[np.array(distant, dtype=bool)][:MAX_FACES]
    return restorable


def alignment(landmarks: NDArray[np.float32]) -> Affine | None:
    """The rotation, scaling and shift that brings landmarks [5, 2] to where they lie in an aligned face.

    None where there is none that can be undone: landmarks that coincide, or lie absurdly far away.
    """
    affine = cv2.estimateAffinePartial2D(landmarks, _TEMPLATE, method=cv2.LMEDS)[0]
    if affine is None or not np.isfinite(affine).all():
        return None
    scale = np.hypot(affine[0, 0], affine[1, 0])
    return np.asarray(affine, np.float64) if scale > np.finfo(np.float32).eps else None


def aligned_face(image: RgbImage, affine: Affine) -> RgbImage:
    """Cuts out a face as the restorer wants it: uint8 [`FACE_SIDE`, `FACE_SIDE`, 3]."""
    face = cv2.warpAffine(image, affine, (FACE_SIDE, FACE_SIDE), borderMode=cv2.BORDER_CONSTANT, borderValue=_BORDER)
    return np.asarray(face, np.uint8)


def paste_faces(image: RgbImage, faces: Iterable[tuple[RgbImage, NDArray[np.uint8], Affine]]) -> RgbImage:
    """Blends restored faces into the image they were cut from, one over the other.

    Args:
        image: RGB uint8 [height, width, 3].
        faces: Of each, the face restored, its parsing and the alignment by which it was cut out.
    """
    size = image.shape[1::-1]
    canvas = image.astype(np.float64)
    for face, classes, affine in faces:
        inverse = cv2.invertAffineTransform(affine)
        pasted = cv2.warpAffine(face, inverse, size)
        mask = cv2.warpAffine(_soft_mask(classes), inverse, size, flags=cv2.INTER_LINEAR)[:, :, None]
        canvas = mask * pasted + (1 - mask) * canvas
    return canvas.astype(np.uint8)


def _soft_mask(classes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """From a face's parsing to how much of it is pasted, in [0, 1]."""
    mask = np.where(np.isin(classes, _PASTED_CLASSES), 255.0, 0.0)
    for _ in range(2):
        mask = np.asarray(cv2.GaussianBlur(mask, _MASK_BLUR, _MASK_SIGMA), np.float64)
    inner = slice(_MASK_BORDER, -_MASK_BORDER)
    framed = np.zeros_like(mask)
    framed[inner, inner] = mask[inner, inner] / 255.0
    return framed


def _anchors(size: tuple[int, int]) -> NDArray[np.float32]:
    """All anchors for an image of this height and width, as shares of it: [anchors, 4], centre x, y, width, height.

    By stride, row, column and side, in the order of the aligner's outputs.
    """
    height, width = size
    levels = []
    for stride in STRIDES:
        rows, columns, sides = np.meshgrid(
            np.arange(-(-height // stride)), np.arange(-(-width // stride)), _ANCHOR_SIDES[stride], indexing="ij"
        )
        centres = ((columns + 0.5) * stride / width, (rows + 0.5) * stride / height)
        levels.append(np.stack((*centres, sides / width, sides / height), axis=-1).reshape(-1, 4))
    return np.asarray(np.concatenate(levels), np.float32)


def _non_maximum_suppression(boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """Indices of the boxes [n, 4], most confident first, that overlap none kept before them by more than `OVERLAP`."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    remaining = np.arange(len(boxes))
    kept = []
    while remaining.size:
        first, remaining = remaining[0], remaining[1:]
        kept.append(first)
        top_left = np.maximum(boxes[first, :2], boxes[remaining, :2])
        bottom_right = np.minimum(boxes[first, 2:], boxes[remaining, 2:])
        shared = np.maximum(bottom_right - top_left, 0).prod(axis=1)
        overlap = shared / (areas[first] + areas[remaining] - shared)
        remaining = remaining[~(overlap.astype(np.float64) > OVERLAP)]  # 0/0 is no overlap
    return np.array(kept, dtype=np.int64)
