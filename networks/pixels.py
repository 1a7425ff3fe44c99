"""From 8-bit pixels to patch tokens, with the normalisation folded into the projection.

Folding (x/255 - mean) / std whole would add up large numbers that cancel, and cost a digit of the logits. So pixels
are first brought near zero by steps that are exact in every floating-point type, float16 too: less an integer, divided
by a power of two. What then remains of the normalisation is in the weights, which keep their magnitude.
"""

import torch
from torch import Tensor, nn

from ensemble.streams import NORMALISATION_MEAN, NORMALISATION_STD

CENTRE = tuple(round(255 * mean) for mean in NORMALISATION_MEAN)
"""What is subtracted from each channel."""

SPAN = 64.0
"""What the difference is divided by: the power of two nearest to 255·std."""


class PatchEmbedding(nn.Conv2d):
    """Project each patch of centred pixels onto one token.

    `weight` and `bias` are those of `fold_normalisation`.
    """

    def __init__(self, hidden: int, patch: int) -> None:
        super().__init__(3, hidden, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, pixels, pixels] to [batch, patches, hidden], patches row by row."""
        return super().forward(images).flatten(2).transpose(1, 2)


def centre_pixels(pixels: Tensor) -> Tensor:
    """Bring pixels in 0..255, channels last, into about -2..2, exactly: (pixels - CENTRE) / SPAN."""
    return (pixels - torch.tensor(CENTRE, dtype=pixels.dtype, device=pixels.device)) * (1 / SPAN)


def fold_normalisation(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Fold what `centre_pixels` leaves of the normalisation into a patch projection.

    Computed in float64 and rounded once.

    Args:
        weight: [hidden, 3, patch, patch], made for normalised RGB.
        bias: [hidden], or None where the projection has none (CLIP).

    Returns:
        The weight and bias for centred pixels, float32.
    """
    mean, std, centre = (
        torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
        for values in (NORMALISATION_MEAN, NORMALISATION_STD, CENTRE)
    )
    scaled = weight.double() / std
    shift = (scaled * (centre / 255 - mean)).sum(dim=(1, 2, 3))
    if bias is not None:
        shift += bias.double()
    return (scaled * (SPAN / 255)).float(), shift.float()
