"""Where a map of saliency lies in the image, and numbers for spatial drift; pure functions.

A map is float [N, N], none negative, over the patches of a stream's input; its mass is the map divided by its sum. All
numbers are of the mass on this grid, so that maps of both methods compare.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ensemble.faces.crop import MARGIN, square_around
from ensemble.faces.detection import Box
from ensemble.images import SQUARE
from ensemble.images.framing import SMALLEST_NATIVE
from ensemble.streams import Stream
from forensics.common.attention import attention_entropy

Map = npt.NDArray[np.float32]
Mass = npt.NDArray[np.float64]

TOP_SHARE = 0.2
"""Share of the mass that the most salient region holds."""


@dataclass(frozen=True)
class Drift:
    """How far a map moved from another, in the image's coordinates.

    Attributes:
        shared_mass: Histogram intersection Σ min(p, q) of the two masses, 1 for equal ones.
        top_iou: Intersection over union of the two smallest sets of cells that hold `TOP_SHARE` of their mass.
    """

    shared_mass: float
    top_iou: float

    @property
    def moved_mass(self) -> float:
        """Share of the mass that has to move to turn one map into the other: total variation, 0 for equal ones."""
        return 1 - self.shared_mass


def stream_window(
    stream: Stream, height: int, width: int, face: Box | None, framing: str = "square", face_margin: float = MARGIN
) -> Box:
    """The part of an image that a stream sees: x1, y1, x2, y2 in pixels of the image; a square at a face may leave it.

    Args:
        stream: The stream.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        face: The box that was cropped; None where the whole image was taken.
        framing: Of the server, one of `FRAMINGS`.
        face_margin: Of the framing `face`.
    """
    if framing == "face" and face is not None and (height, width) != (SQUARE, SQUARE):
        frame = _square_window(square_around(face, face_margin))
        if stream.sees_face:
            in_frame = (frame.to_frame(face[0], face[1]), frame.to_frame(face[2], face[3]))
            crop = square_around((*in_frame[0], *in_frame[1]))
            (x1, y1), (x2, y2) = frame.to_image(crop[0], crop[1]), frame.to_image(crop[2], crop[3])
            frame = _Window(x1, y1, (x2 - x1) / SQUARE, (y2 - y1) / SQUARE, SQUARE, SQUARE)
    elif stream.sees_face and face is not None:
        frame = _square_window(square_around(face))
    elif framing == "native" and min(height, width) >= SMALLEST_NATIVE:
        frame = _Window(0.0, 0.0, 1.0, 1.0, width, height)
    else:
        short = min(height, width)
        scaled_width, scaled_height = round(width * SQUARE / short), round(height * SQUARE / short)
        scale_x, scale_y = width / scaled_width, height / scaled_height
        left, top = (scaled_width - SQUARE) // 2 * scale_x, (scaled_height - SQUARE) // 2 * scale_y
        frame = _Window(left, top, scale_x, scale_y, SQUARE, SQUARE)
    if stream.is_resized:
        return (*frame.to_image(0, 0), *frame.to_image(frame.width, frame.height))
    x, y, side = (frame.width - stream.pixels) // 2, (frame.height - stream.pixels) // 2, stream.pixels
    return (*frame.to_image(x, y), *frame.to_image(x + side, y + side))


@dataclass(frozen=True)
class _Window:
    """A frame of `width` × `height` px, whose corner lies at left, top of the image, each px of it so many there."""

    left: float
    top: float
    scale_x: float
    scale_y: float
    width: int
    height: int

    def to_image(self, x: float, y: float) -> tuple[float, float]:
        return self.left + x * self.scale_x, self.top + y * self.scale_y

    def to_frame(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.left) / self.scale_x, (y - self.top) / self.scale_y


def _square_window(corners: tuple[int, int, int, int]) -> _Window:
    left, top, right, bottom = corners
    return _Window(left, top, (right - left) / SQUARE, (bottom - top) / SQUARE, SQUARE, SQUARE)


def to_patches(saliency: Map, side: int) -> Map:
    """A map of a stream's whole input brought to its grid of patches, side × side, by averaging."""
    return np.asarray(cv2.resize(saliency, (side, side), interpolation=cv2.INTER_AREA), np.float32)


def mass_of(saliency: Map) -> Mass | None:
    """The map divided by its sum, float64; None where nothing is salient."""
    total = float(saliency.sum(dtype=np.float64))
    return saliency.astype(np.float64) / total if total > 0 else None


def unit_scaled(saliency: Map) -> Map:
    """The map scaled to [0, 1] by its least and largest value, to be looked at; a constant one becomes 0."""
    low, high = float(saliency.min()), float(saliency.max())
    return np.asarray((saliency - low) / (high - low) if high > low else np.zeros_like(saliency), np.float32)


def outside_share(mass: Mass, window: Box, box: Box) -> float:
    """Share of the mass outside a box; of a cell that the box cuts, the part outside by area."""
    rows, columns = mass.shape
    across = _overlaps(np.linspace(window[0], window[2], columns + 1), np.array([box[0], box[2]]))[0]
    down = _overlaps(np.linspace(window[1], window[3], rows + 1), np.array([box[1], box[3]]))[0]
    return float(np.clip(1 - down @ mass @ across, 0, 1))


def entropy(mass: Mass) -> float:
    """Entropy −Σ p ln p in nats: the higher, the more spread out; at most ln N²."""
    return attention_entropy(mass.ravel())


def drift(clean: Mass, clean_window: Box, degraded: Mass, degraded_window: Box) -> Drift:
    """How far a map moved; windows differ where the face was found elsewhere.

    Both masses are first laid on one grid, over the smallest window that holds both, exactly by area.
    """
    union = (
        min(clean_window[0], degraded_window[0]),
        min(clean_window[1], degraded_window[1]),
        max(clean_window[2], degraded_window[2]),
        max(clean_window[3], degraded_window[3]),
    )
    p, q = _laid_on(union, clean, clean_window), _laid_on(union, degraded, degraded_window)
    top_p, top_q = _top_cells(p), _top_cells(q)
    return Drift(
        shared_mass=min(1.0, float(np.minimum(p, q).sum())),
        top_iou=float((top_p & top_q).sum() / (top_p | top_q).sum()),
    )


def _laid_on(target: Box, mass: Mass, window: Box) -> Mass:
    if target == window:
        return mass
    rows, columns = mass.shape
    across = _overlaps(np.linspace(window[0], window[2], columns + 1), np.linspace(target[0], target[2], columns + 1))
    down = _overlaps(np.linspace(window[1], window[3], rows + 1), np.linspace(target[1], target[3], rows + 1))
    return np.asarray(down @ mass @ across.T, np.float64)


def _overlaps(cells: Mass, targets: Mass) -> Mass:
    """Share of each cell that lies in each target, [targets, cells]; both are given by their borders."""
    shared = np.minimum(cells[None, 1:], targets[1:, None]) - np.maximum(cells[None, :-1], targets[:-1, None])
    return np.asarray(np.maximum(shared, 0) / np.diff(cells)[None], np.float64)


def _top_cells(mass: Mass) -> npt.NDArray[np.bool_]:
    """The fewest cells that hold `TOP_SHARE` of the mass; of equal cells, the first ones."""
    order = np.argsort(-mass, axis=None, kind="stable")
    count = 1 + int(np.searchsorted(np.cumsum(mass.ravel()[order]), TOP_SHARE * mass.sum() * (1 - 1e-12)))
    chosen = np.zeros(mass.size, np.bool_)
    chosen[order[:count]] = True
    return chosen.reshape(mass.shape)
