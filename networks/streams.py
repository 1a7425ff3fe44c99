"""The three streams of the ensemble (paper section 3) as torch modules: pixels in, logits, features, attention out."""

from typing import cast

import torch
from torch import Tensor, nn

from ensemble.streams import CLASSES
from networks.architecture import StreamArchitecture
from networks.clip import ClipVision
from networks.dinov2 import Dinov2
from networks.pixels import centre_pixels


class StreamNetwork(nn.Module):
    """Base of the streams: takes the pixels, classifies the feature, tells where DINOv2 looked.

    Normalisation is in `networks.pixels`, most of it folded into the weights; positions are those of the stream's grid.
    """

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give the feature [batch, D] and attention [batch, patches] of centred images [batch, 3, pixels, pixels]."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """Give the logits [batch, 2] (real, fake) of features [batch, D]."""
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score images.

        Args:
            pixels: [batch, pixels, pixels, 3], RGB; uint8, or floating point in 0..255.

        Returns:
            The logits, [batch, 2] (real, fake); the features that they come from, [batch, D], DINOv2's before CLIP's;
            and the attention of DINOv2 over its patches, [batch, patches] (see `Dinov2`). All float32.
        """
        # The cast comes first: TensorRT takes 8-bit pixels as an input, but does nothing else with them.
        features, attention = self.extract(centre_pixels(pixels.float()).permute(0, 3, 1, 2))
        return self.classify(features), features, attention


class DinoStream(StreamNetwork):
    """Global Texture and Localized Facial: DINOv2 and one linear layer."""

    def __init__(self, architecture: StreamArchitecture, pixels: int) -> None:
        super().__init__()
        self.vision_model = Dinov2(architecture.dino, pixels)
        self.last_layer = nn.Linear(architecture.dino.hidden, len(CLASSES))

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], self.vision_model(images))

    def classify(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.last_layer(features))


class FusionStream(StreamNetwork):
    """Hybrid Semantic Fusion: DINOv2 beside CLIP, and a small network on both features."""

    def __init__(self, architecture: StreamArchitecture, pixels: int) -> None:
        super().__init__()
        if architecture.clip is None:
            raise ValueError("the fusion stream needs the sizes of a CLIP vision tower")
        self.vision_model = Dinov2(architecture.dino, pixels)
        self.clip_model = ClipVision(architecture.clip)
        # Index 2 is the dropout of the training code: it has no weights, but numbers the layer after it.
        self.fusion_head = nn.Sequential(
            nn.Linear(architecture.dino.hidden + architecture.clip.hidden, architecture.clip.head),
            nn.GELU(),
            nn.Identity(),
            nn.Linear(architecture.clip.head, len(CLASSES)),
        )

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, attention = self.vision_model(images)
        return torch.cat((features, self.clip_model(images)), dim=1), attention

    def classify(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.fusion_head(features))


def build_stream(architecture: StreamArchitecture, pixels: int) -> StreamNetwork:
    """Build a stream of the given sizes, in evaluation mode, its weights not yet set."""
    kind = DinoStream if architecture.clip is None else FusionStream
    return kind(architecture, pixels).eval()
