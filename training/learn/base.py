"""Training the stand-in base: it learns which patches were manipulated, and from its CLS token whether any was."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from ensemble.images import RgbImage
from ensemble.streams import CLASSES, SEMANTIC_FUSION
from training.data.augmentation import normalised
from training.learn.samples import Sample, lightly_degraded
from training.learn.spectral import DINO, freeze_spectra, random_clip, spectral_base

Report = Callable[[int, float], None]


@dataclass(frozen=True)
class Settings:
    """Of the base's training.

    Attributes:
        updates: How many.
        batch: Images of one update, half of them fake.
        side: Pixels of the crops: patches are judged, and most can be judged by what is around them.
        rate: Highest learning rate; warm-up over the first tenth, then a cosine down to half.
        patch_weight: Of the patches' loss beside the image's.
    """

    updates: int = 260
    batch: int = 64
    side: int = 126
    rate: float = 5e-4
    patch_weight: float = 2.0


class _Pretraining(nn.Module):
    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base
        self.image = nn.Linear(DINO.hidden, len(CLASSES))
        self.patches = nn.Linear(DINO.hidden, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.base(pixels).last_hidden_state
        return self.image(tokens[:, 0]), self.patches(tokens[:, 1:])[..., 0]


def train_base(
    samples: Sequence[Sample], seed: int, settings: Settings, report: Report = lambda update, loss: None
) -> Any:
    """Trains the base on samples, real and fake ones in turn.

    Args:
        samples: Of the training photographs.
        seed: Of the start and of every draw.
        settings: How long, and on what.
        report: Called after each update with its number and loss.
    """
    base = spectral_base(seed)
    freeze_spectra(base)
    network = _Pretraining(base).train()
    optimiser = torch.optim.AdamW(
        [each for each in network.parameters() if each.requires_grad], weight_decay=0.05, betas=(0.9, 0.98)
    )
    rng = np.random.default_rng((seed, 1))
    by_label = [[each for each in samples if each.label == label] for label in (0, 1)]
    for update in range(settings.updates):
        chosen = [by_label[n % 2][int(rng.integers(len(by_label[n % 2])))] for n in range(settings.batch)]
        pixels, shares = _batch(chosen, settings.side, rng)
        labels = (shares.amax(dim=1) > 0.5).long()
        logits, patches = network(pixels)
        loss = F.cross_entropy(logits, labels)
        loss = loss + settings.patch_weight * F.binary_cross_entropy_with_logits(patches, shares)
        torch.autograd.backward(loss)
        for group in optimiser.param_groups:
            group["lr"] = _rate(update, settings)
        optimiser.step()
        optimiser.zero_grad()
        report(update + 1, loss.item())
    return base.eval()


def save_bases(base: Any, folder: Path, seed: int) -> tuple[Path, Path]:
    """Writes the base, and the random CLIP of the fusion stream, as the library's folders."""
    dino, clip = folder / "dinov2", folder / "clip"
    base.save_pretrained(dino)
    random_clip(seed).save_pretrained(clip)
    return dino, clip


def _rate(update: int, settings: Settings) -> float:
    warmup = max(1, settings.updates // 10)
    cosine = 0.75 + 0.25 * math.cos(math.pi * update / settings.updates)
    return settings.rate * min(1.0, (update + 1) / warmup) * cosine


def _batch(samples: Sequence[Sample], side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Crops, turned and mirrored, and what share of each patch was manipulated."""
    images, masks = zip(*(_crop(each, side, rng) for each in samples), strict=True)
    pixels = torch.stack(
        [torch.from_numpy(normalised(np.asarray(image, np.float32) / np.float32(255))) for image in images]
    )
    grid = side // DINO.patch
    shares = np.stack(masks).reshape(len(masks), grid, DINO.patch, grid, DINO.patch).mean(axis=(2, 4))
    return pixels, torch.from_numpy(shares.reshape(len(masks), -1)).float()


def _crop(sample: Sample, side: int, rng: np.random.Generator) -> tuple[RgbImage, npt.NDArray[np.float32]]:
    image, mask = sample.image, sample.mask
    if rng.random() < 0.3:  # as the fusion stream sees it
        size = (SEMANTIC_FUSION.pixels, SEMANTIC_FUSION.pixels)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.float32)
    top, left = rng.integers(image.shape[0] - side + 1, size=2)
    turns, mirror = int(rng.integers(4)), rng.random() < 0.5
    image, mask = (np.rot90(each[top : top + side, left : left + side], turns) for each in (image, mask))
    if mirror:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return lightly_degraded(np.ascontiguousarray(image), rng), np.ascontiguousarray(mask)
