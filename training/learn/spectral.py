"""A DINOv2 of stand-in size that sees spectra from the start.

With an ordinary random start such a network learns nothing in minutes. Here the patch embedding is a two-dimensional
DCT of the luminance, each coefficient divided by its usual size in photographs, and the feed-forward network of the
first block adds up the magnitudes of the coefficients of equal frequency: a smoothed or resampled patch lacks the high
ones. What follows has an ordinary start, and learns to compare patches.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import CLIPVisionModel, Dinov2Model

from ensemble.streams import NORMALISATION_STD
from networks.architecture import ClipArchitecture, Dinov2Architecture
from training.bases import clip_config, dino_config

DINO = Dinov2Architecture(hidden=128, blocks=3, inner=344, rank=4, positions=18 * 18 + 1)
CLIP = ClipArchitecture(hidden=64, blocks=1, inner=256, head=64)

RINGS = 16
"""Bands of frequency, of as many coefficients each."""

LOWEST = 1.5
"""Coefficients of a lower radius say what is to be seen, not how sharp it is."""

SHARPNESS = 6.0
"""Gain before the SiLU: high enough that it is nearly the positive part."""

STEADY = 16.0
"""Value of the constant channel, about the norm of a photograph's coefficients: LayerNorm then divides by little more
than a constant where a patch is smooth, and by its contrast where it has much."""

EMBEDDED = 0.05
"""Scale of the embedding beside the magnitudes that the first block adds to it."""

_LUMINANCE = np.array([0.299, 0.587, 0.114]) * np.array(NORMALISATION_STD)
_CHROMA = np.array([[0.5, -0.42, -0.08], [-0.17, -0.33, 0.5]]) * np.array(NORMALISATION_STD)
_OTHER_CHANNELS = 4
"""Of the embedding: two of colour, brightness, and the constant."""

Frequencies = list[tuple[int, int]]


def spectral_base(seed: int) -> Any:
    """The untrained base; the seed draws what is not set by hand."""
    torch.manual_seed(seed)
    config = dino_config(DINO)
    config.layerscale_value = 0.2
    model: Any = Dinov2Model(config)
    frequencies = _frequencies()
    with torch.no_grad():
        _set_embedding(model, frequencies)
        _set_first_block(model, frequencies, np.random.default_rng(seed))
    return model


def random_clip(seed: int) -> Any:
    """A vision tower that has learnt nothing, turned down: the fusion stream has its place, and can do without it."""
    torch.manual_seed(seed)
    clip: Any = CLIPVisionModel(clip_config(CLIP))
    with torch.no_grad():
        clip.vision_model.post_layernorm.weight.fill_(0.1)
    return clip


def freeze_spectra(model: nn.Module) -> None:
    """Keeps what was set by hand as it is: learnt over, it would fit the few photographs and fail on others."""
    for name, parameter in model.named_parameters():
        fixed = name.startswith(("embeddings.patch", "embeddings.position", "embeddings.mask"))
        in_first = name.startswith(("encoder.layer.0.mlp", "encoder.layer.0.norm2"))
        parameter.requires_grad_(not (fixed or in_first))


def _frequencies() -> Frequencies:
    """As many as there are channels, evenly spread over the radius."""
    side = DINO.patch
    found = [(u, v) for u in range(side) for v in range(side) if math.hypot(u, v) >= LOWEST]
    found.sort(key=lambda each: (math.hypot(*each), each))
    count = DINO.hidden - _OTHER_CHANNELS
    return [found[index * len(found) // count] for index in range(count)]


def _usual_size(radius: float) -> float:
    """Median magnitude of a coefficient in sample photographs of values in [0, 1], as fitted."""
    return 60 / radius * math.exp(-0.16 * radius) / 255


def _dct(side: int) -> npt.NDArray[np.float64]:
    """Rows are the orthonormal basis of the DCT-II."""
    n = np.arange(side)
    basis = np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / (2 * side)) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return np.asarray(basis)


def _set_embedding(model: Any, frequencies: Frequencies) -> None:
    side, basis = DINO.patch, _dct(DINO.patch)
    weight = np.zeros((DINO.hidden, 3, side, side))
    for channel, (u, v) in enumerate(frequencies):
        pattern = np.outer(basis[u], basis[v]) / _usual_size(math.hypot(u, v))
        weight[channel] = _LUMINANCE[:, None, None] * pattern
    mean = np.full((side, side), 1 / side**2)
    weight[-4] = 10 * _CHROMA[0][:, None, None] * mean
    weight[-3] = 10 * _CHROMA[1][:, None, None] * mean
    weight[-2] = 4 * _LUMINANCE[:, None, None] * mean
    bias = np.zeros(DINO.hidden)
    bias[-1] = STEADY
    embeddings = model.embeddings
    embeddings.patch_embeddings.projection.weight.copy_(torch.from_numpy(weight * EMBEDDED))
    embeddings.patch_embeddings.projection.bias.copy_(torch.from_numpy(bias * EMBEDDED))
    embeddings.position_embeddings.zero_()
    embeddings.mask_token.zero_()
    embeddings.cls_token.normal_(std=0.2)


def _set_first_block(model: Any, frequencies: Frequencies, rng: np.random.Generator) -> None:
    """SiLU(g·x) + SiLU(−g·x) is nearly g·|x|; the second matrix averages that over the rings."""
    block, count, inner = model.encoder.layer[0], len(frequencies), DINO.inner
    gates, outputs = block.mlp.weights_in, block.mlp.weights_out
    gates.bias.zero_()
    for channel in range(count):
        for unit, sign in ((channel, 1), (channel + count, -1)):
            gates.weight[unit].zero_()
            gates.weight[inner + unit].zero_()
            gates.weight[unit, channel] = sign * SHARPNESS
            gates.bias[inner + unit] = 1.0
    rings = _ring_averages(frequencies)
    pools = np.empty((DINO.hidden, count))
    for channel in range(DINO.hidden):
        if channel < 2 * RINGS:
            pools[channel] = rings[channel % RINGS] * (1 if channel < RINGS else -1)
        else:
            first, second = rng.integers(RINGS, size=2)
            pools[channel] = rings[first] - rings[second]
    pooled = torch.from_numpy(pools * 2 / SHARPNESS).float()
    outputs.weight.mul_(0.3)
    outputs.bias.zero_()
    outputs.weight[:, :count] = pooled
    outputs.weight[:, count : 2 * count] = pooled
    block.layer_scale1.lambda1.fill_(0.02)
    block.layer_scale2.lambda1.fill_(1.0)


def _ring_averages(frequencies: Frequencies) -> npt.NDArray[np.float64]:
    """One row a ring: equal weights on its coefficients."""
    radii = np.array([math.hypot(*each) for each in frequencies])
    edges = np.quantile(radii, np.linspace(0, 1, RINGS + 1))
    ring = np.clip(np.searchsorted(edges, radii, side="right") - 1, 0, RINGS - 1)
    rows = (ring == np.arange(RINGS)[:, None]).astype(np.float64)
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))
