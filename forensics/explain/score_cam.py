"""Score-CAM (Wang et al. 2020) of a stream: which regions, shown alone, raise the fake logit.

As the authors compute it with the package grad-cam (version 1.5.7): the channels of the first LayerNorm of DINOv2's
last block, each upsampled to the input and scaled to [0, 1], mask the normalised input; the softmax over channels of
the fake logits weighs the channels themselves, on the grid of patches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from ensemble.images import RgbImage
from ensemble.streams import CLASSES, NORMALISATION_MEAN
from forensics.common.progress import Advance, silent
from networks import StreamNetwork

Saliency = npt.NDArray[np.float32]

FAKE = CLASSES.index("fake")


def forwards(network: StreamNetwork) -> int:
    """How many images the network is run on for one map: one for the channels, and one for each."""
    return 1 + cast(nn.LayerNorm, _target(network)).normalized_shape[0]


@torch.inference_mode()
def score_cam(
    network: StreamNetwork,
    pixels: RgbImage,
    *,
    batch_size: int = 8,
    advance: Advance = silent,
) -> Saliency:
    """Computes the map of one image.

    Args:
        network: A stream, in evaluation mode, on any device.
        pixels: uint8 [S, S, 3], RGB: the stream's input.
        batch_size: Masked images in one forward.
        advance: Called after each image that the network was run on, `forwards` times in all.

    Returns:
        float32 [S, S] in [0, 1]; all zeros where no region counts for fake.
    """
    image = torch.from_numpy(pixels.copy()).float().to(next(network.parameters()).device)
    channels = channel_maps(network, image)
    advance()
    logits = [_masked_logits(network, image, some, advance) for some in torch.split(channels, batch_size)]
    weights = torch.softmax(torch.cat(logits), dim=0)
    total = torch.einsum("c,cij->ij", weights, channels).relu().cpu().numpy()
    side = len(pixels)
    enlarged = cv2.resize(_scaled(total), (side, side), interpolation=cv2.INTER_LINEAR)
    return _scaled(np.asarray(enlarged, np.float32))


def channel_maps(network: StreamNetwork, image: Tensor) -> Tensor:
    """The target layer's tokens without CLS, [hidden, N, N], for an image [S, S, 3] of pixels in 0..255."""
    with _recorded(_target(network)) as seen:
        network(image[None])
    patches = seen[0][0, 1:]
    side = round(len(patches) ** 0.5)
    return patches.T.reshape(-1, side, side)


def upsample(maps: Tensor, side: int) -> Tensor:
    """[channels, N, N] to [channels, side, side], bilinearly; the centres of the corner pixels are aligned."""
    return F.interpolate(maps[None], size=(side, side), mode="bilinear", align_corners=True)[0]


def unit_range(maps: Tensor) -> Tensor:
    """Each map [channels, height, width] scaled to [0, 1] by its least and largest value; a constant one becomes 0."""
    low, high = (each[:, None, None] for each in (maps.amin(dim=(1, 2)), maps.amax(dim=(1, 2))))
    return (maps - low) / (high - low + 1e-8)


def _scaled(saliency: Saliency) -> Saliency:
    """By its least and largest value to [0, 1]; a constant map becomes 0."""
    raised = saliency - saliency.min()
    return np.asarray(raised / (1e-7 + raised.max()), np.float32)


def _masked_logits(network: StreamNetwork, image: Tensor, channels: Tensor, advance: Advance) -> Tensor:
    masks = unit_range(upsample(channels, image.shape[0]))[..., None]
    # The normalised input times the mask is, in pixels, a mixture of the image with the mean colour.
    mean = 255 * torch.tensor(NORMALISATION_MEAN, device=image.device)
    logits: Tensor = network(mean + masks * (image - mean))[0]
    for _ in channels:
        advance()
    return logits[:, FAKE]


def _target(network: StreamNetwork) -> nn.Module:
    blocks = cast(nn.ModuleList, network.get_submodule("vision_model.encoder.layer"))
    return blocks[-1].get_submodule("norm1")


@contextmanager
def _recorded(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module gives while the block runs."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()
