"""Around the RetinaFace network: from an image to its pixels, and from its outputs to faces (paper section 3.2).

What the PyPI package `retina-face` does before and after its network, to the last bit where its outcome is defined;
where the network answers nonsense (not finite, no probability) or floods (more than `MAX_CANDIDATES`), bounded instead.
Pure functions of arrays: who runs the network, and on how many images at once, is the caller's affair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ensemble.faces.detection import Detection
from ensemble.images import RgbImage

SHORTER_SIDE = 1024
"""What the image is scaled to, in pixels, up as well as down."""

LONGEST_SIDE = 1980
"""The longer side is kept within this, in pixels."""

CONFIDENCE = 0.9
"""Candidates below are no faces."""

OVERLAP = 0.4
"""Of two candidates with this intersection over union or more, the less confident is dropped."""

MAX_CANDIDATES = 4096
"""So many of the most confident candidates are looked at: a bound on an image's cost that the package does not have."""

STRIDES = (32, 16, 8)
"""Pixels between anchors, in the order of the network's outputs."""

ANCHORS_PER_CELL = 2

MAX_BATCH_SIZE = 4
"""Images that the network sees at once: at 1024 pixels, one takes about 0.5 GB of memory meanwhile."""

INPUT = "PIXELS"
"""Name of the network's input in the model repository: uint8 [batch, height, width, 3], RGB."""

OUTPUTS = tuple(f"{head}_{stride}" for stride in STRIDES for head in ("SCORES", "BOXES", "LANDMARKS"))
"""Names of its outputs in order: float32 [batch, rows, columns, channels]."""

_ANCHORS = {
    32: ((-248, -248, 263, 263), (-120, -120, 135, 135)),
    16: ((-56, -56, 71, 71), (-24, -24, 39, 39)),
    8: ((-8, -8, 23, 23), (0, 0, 15, 15)),
}
"""Of the cell in row 0, column 0: x1, y1, x2, y2, both corners inside."""


@dataclass(frozen=True)
class Faces:
    """The faces of one image, in the package's order of keys (`face_1`, `face_2`, …): by falling confidence.

    Attributes:
        boxes: int64 [n, 4]; x1, y1, x2, y2 in pixels of the image. Never outside it, but possibly without area.
        scores: float32 [n], in [`CONFIDENCE`, 1].
        landmarks: float32 [n, 5, 2]; x, y of right eye, left eye, nose, right and left corner of the mouth, the
            person's right. They may leave the image.
    """

    boxes: NDArray[np.int64]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]

    def detections(self) -> list[Detection]:
        """The same faces without their landmarks."""
        return [
            Detection((float(x1), float(y1), float(x2), float(y2)), float(score))
            for (x1, y1, x2, y2), score in zip(self.boxes, self.scores, strict=True)
        ]


def prepare(image: RgbImage) -> tuple[RgbImage, float]:
    """Scales an image for the network: shorter side 1024 pixels, longer at most 1980, bilinear.

    Args:
        image: RGB uint8 [height, width, 3], at least 1×1.

    Returns:
        The network's pixels, RGB uint8 [H, W, 3], and the factor by which they were scaled.
    """
    shorter, longer = sorted(image.shape[:2])
    scale = SHORTER_SIDE / shorter
    if np.round(scale * longer) > LONGEST_SIDE:
        scale = LONGEST_SIDE / longer
    if scale == 1.0:
        return image, scale
    if shorter * scale <= 0.5:  # OpenCV would round the shorter side to nothing, and raise
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    else:
        scaled = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    return scaled.astype(np.uint8, copy=False), scale


def decode(outputs: Sequence[NDArray[np.float32]], size: tuple[int, int], scale: float) -> Faces:
    """Turns the network's outputs for one image into its faces.

    Candidates whose score is no probability or that have an offset which is not a finite number are dropped. Of equal
    scores, the one that comes first in the outputs goes first.

    Args:
        outputs: The nine in the order of `OUTPUTS`, float32 [rows, columns, channels], one image's.
        size: Height and width of the pixels that the network saw.
        scale: By which they were scaled; boxes are given in pixels of the image before that.
    """
    heads = (outputs[0::3], outputs[1::3], outputs[2::3])
    levels = [_candidates(*level, size, scale) for level in zip(*heads, STRIDES, strict=True)]
    boxes, scores, landmarks = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    order = order[_non_maximum_suppression(boxes[order])]
    return Faces(boxes[order].astype(np.int64), scores[order], landmarks[order])


def _candidates(
    scores: NDArray[np.float32],
    box_offsets: NDArray[np.float32],
    landmark_offsets: NDArray[np.float32],
    stride: int,
    size: tuple[int, int],
    scale: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Boxes [n, 4], scores [n] and landmarks [n, 5, 2] of the anchors of one stride that are confident enough."""
    columns = scores.shape[1]
    scores = scores[:, :, ANCHORS_PER_CELL:].reshape(-1)
    box_offsets = box_offsets.reshape(-1, 4)
    landmark_offsets = landmark_offsets.reshape(-1, 5, 2)
    chosen = np.flatnonzero((scores >= CONFIDENCE) & (scores <= 1))  # never so for NaN
    finite = np.isfinite(box_offsets[chosen]).all(axis=1) & np.isfinite(landmark_offsets[chosen]).all(axis=(1, 2))
    chosen = chosen[finite]
    scores, box_offsets, landmark_offsets = scores[chosen], box_offsets[chosen], landmark_offsets[chosen]

    cells, anchors = np.divmod(chosen, ANCHORS_PER_CELL)
    rows, columns_of = np.divmod(cells, columns)
    corners = np.array(_ANCHORS[stride], dtype=np.float64)[anchors]
    corners += stride * np.stack((columns_of, rows, columns_of, rows), axis=1)
    sides = corners[:, 2:] - corners[:, :2] + 1.0
    centres = corners[:, :2] + 0.5 * (sides - 1.0)

    box_centres = box_offsets[:, :2] * sides + centres
    with np.errstate(over="ignore"):  # an endless box ends at the image's border
        box_sides = np.exp(box_offsets[:, 2:]) * sides
        landmarks = (landmark_offsets * sides[:, None] + centres[:, None]).astype(np.float32)
    half = 0.5 * (box_sides - 1.0)
    boxes = np.concatenate((box_centres - half, box_centres + half), axis=1)
    height, width = size
    boxes = np.clip(boxes, 0, (width - 1, height - 1, width - 1, height - 1)) / scale
    # Boxes are float64 up to here and landmarks float32 before they are scaled, as the package has them.
    return boxes.astype(np.float32), scores.astype(np.float32), landmarks / np.float32(scale)


def _non_maximum_suppression(boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """Indices of the boxes [n, 4], most confident first, that overlap none kept before them by `OVERLAP` or more."""
    lengths = boxes[:, 2:] - boxes[:, :2] + np.float32(1)
    areas = lengths[:, 0] * lengths[:, 1]
    remaining = np.arange(len(boxes))
    kept = []
    while remaining.size:
        first, remaining = remaining[0], remaining[1:]
        kept.append(first)
        top_left = np.maximum(boxes[first, :2], boxes[remaining, :2])
        bottom_right = np.minimum(boxes[first, 2:], boxes[remaining, 2:])
        # The package's overlaps are float64 from the differences on (scalars under NumPy 1), its areas float32.
        shared = np.maximum(0.0, (bottom_right - top_left).astype(np.float64) + 1).prod(axis=1)
        union = (areas[first] + areas[remaining]).astype(np.float64) - shared
        # Two boxes without area would overlap by 0/0: not at all.
        remaining = remaining[shared / np.where(union == 0, 1, union) < OVERLAP]
    return np.array(kept, dtype=np.int64)
