"""Items as tensors: read, framed, augmented; what cannot be read is reported and left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from degradation import from_bytes
from ensemble.faces.crop import check_box, crop_face
from ensemble.images import ImageError, Limits, RgbImage, read_image
from ensemble.streams import Stream
from training.data.augmentation import Floats, TooSmallError, augmented, degraded, frame, normalised
from training.data.manifest import Item
from training.recipe import Augmentation

LIMITS = Limits()


@dataclass(frozen=True)
class Loaded:
    """One item of a batch.

    Attributes:
        index: Of the item in the list.
        pixels: float32 [3, side, side]; None where the item cannot be used.
        problem: Why not, with the item's name; empty otherwise.
    """

    index: int
    pixels: Tensor | None
    problem: str = ""


def read_framed(item: Item, stream: Stream) -> RgbImage:
    """The stream's input of an item, uint8 [side, side, 3].

    Raises:
        ImageError, TooSmallError, OSError: It cannot be decoded, is too small, its face box is not one of a face in
            it, or its file is gone.
    """
    return framed(read_image(item.read(), LIMITS), item, stream)


def framed(image: RgbImage, item: Item, stream: Stream) -> RgbImage:
    """The stream's input of a decoded item: a stream of faces sees the crop around its box.

    Without a box the image is taken for a face crop already, as `prepare` makes them.

    Raises:
        ImageError: The box is not one of a face in the image.
        TooSmallError: Its centre is to be cut, and a side is too short.
    """
    if stream.sees_face and item.box is not None:
        check_box(item.box, *image.shape[:2])
        image = crop_face(image, item.box)
    return frame(image, stream)


class TrainingImages(Dataset[Loaded]):
    """Augmented images by (epoch, index): the same pair gives the same pixels in any process, at any time."""

    def __init__(self, items: Sequence[Item], stream: Stream, augmentation: Augmentation, seed: int) -> None:
        self._items, self._stream, self._augmentation, self._seed = items, stream, augmentation, seed

    def __getitem__(self, key: tuple[int, int]) -> Loaded:
        cv2.setNumThreads(0)  # the loader's workers are the parallelism
        epoch, index = key
        rng = np.random.default_rng((self._seed, epoch, index))
        other = self._items[int(rng.integers(len(self._items)))]
        return load(
            index,
            self._items[index],
            lambda item: augmented(
                read_framed(item, self._stream), self._augmentation, rng, lambda: read_framed(other, self._stream)
            ),
        )


class ValidationImages(Dataset[Loaded]):
    """Framed images by index, clean, or all degraded at the training's settings, the same every time."""

    def __init__(self, items: Sequence[Item], stream: Stream, operation: float | None, seed: int) -> None:
        self._items, self._stream, self._operation, self._seed = items, stream, operation, seed

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Loaded:
        cv2.setNumThreads(0)
        return load(index, self._items[index], lambda item: self._prepare(item, index))

    def _prepare(self, item: Item, index: int) -> Floats:
        image = read_framed(item, self._stream)
        pixels = from_bytes(image)
        if self._operation is not None:
            rng = np.random.default_rng((self._seed, index))
            pixels = degraded(pixels, self._operation, rng, lambda: image)
        return normalised(pixels)


def load(index: int, item: Item, prepare: Callable[[Item], Floats]) -> Loaded:
    """One item, or why it cannot be used: an unreadable file is no reason to end a run of days."""
    try:
        return Loaded(index, torch.from_numpy(prepare(item)))
    except (ImageError, TooSmallError, OSError) as error:
        return Loaded(index, None, f"{item.name}: {error}")


@dataclass(frozen=True)
class Batch:
    """Images of one micro-batch.

    Attributes:
        pixels: float32 [N, 3, side, side]; N may be 0.
        labels: int64 [N].
        indices: Which items they are.
        problems: Of those left out.
    """

    pixels: Tensor
    labels: Tensor
    indices: list[int]
    problems: list[str]


def collate(loaded: Sequence[Loaded], labels: Sequence[int], side: int) -> Batch:
    """Joins the usable ones."""
    usable = [(each.index, each.pixels) for each in loaded if each.pixels is not None]
    pixels = torch.stack([image for _, image in usable]) if usable else torch.empty(0, 3, side, side)
    indices = [index for index, _ in usable]
    return Batch(
        pixels,
        torch.tensor([labels[index] for index in indices], dtype=torch.int64),
        indices,
        [each.problem for each in loaded if each.problem],
    )
