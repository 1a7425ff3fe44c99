"""The vision tower of CLIP (arXiv 2103.00020, openai/clip-vit-large-patch14), for inference at one resolution.

Module names follow Hugging Face transformers 4.x, the misspelt `pre_layrnorm` included, so that parameter
names equal those of the published checkpoints (`networks.weights.checkpoints`).
"""

from typing import cast

import torch
from torch import Tensor, nn

from networks.architecture import ClipArchitecture
from networks.attention import attend, attention_probabilities
from networks.pixels import PatchEmbedding

LAYER_NORM_EPSILON = 1e-5


class SelfAttention(nn.Module):
    """The projections of one block and its attention."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(hidden, hidden)
        self.k_proj = nn.Linear(hidden, hidden)
        self.v_proj = nn.Linear(hidden, hidden)
        self.out_proj = nn.Linear(hidden, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        probabilities = attention_probabilities(self.q_proj(tokens), self.k_proj(tokens))
        return cast(Tensor, self.out_proj(attend(probabilities, self.v_proj(tokens))))


class FeedForward(nn.Module):
    """Two layers around the quick GELU x·sigmoid(1.702 x)."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, inner)
        self.fc2 = nn.Linear(inner, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        inner = self.fc1(tokens)
        return cast(Tensor, self.fc2(inner * torch.sigmoid(1.702 * inner)))


class Block(nn.Module):
    """One transformer block: normalised before, each half added to its input."""

    def __init__(self, architecture: ClipArchitecture) -> None:
        super().__init__()
        hidden = architecture.hidden
        self.layer_norm1 = nn.LayerNorm(hidden, eps=LAYER_NORM_EPSILON)
        self.self_attn = SelfAttention(hidden)
        self.layer_norm2 = nn.LayerNorm(hidden, eps=LAYER_NORM_EPSILON)
        self.mlp = FeedForward(hidden, architecture.inner)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.self_attn(self.layer_norm1(tokens))
        return cast(Tensor, tokens + self.mlp(self.layer_norm2(tokens)))


class Embeddings(nn.Module):
    """Images to tokens: the class token before the patches, positions added."""

    def __init__(self, architecture: ClipArchitecture) -> None:
        super().__init__()
        hidden = architecture.hidden
        self.class_embedding = nn.Parameter(torch.zeros(hidden))
        self.patch_embedding = PatchEmbedding(hidden, architecture.patch)
        self.position_embedding = nn.Embedding(architecture.positions, hidden)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embedding(images)
        tokens = torch.cat((self.class_embedding.expand(patches.shape[0], 1, -1), patches), dim=1)
        return tokens + self.position_embedding.weight


class ClipVision(nn.Module):
    """The vision transformer up to its feature, at the resolution of its position table."""

    def __init__(self, architecture: ClipArchitecture) -> None:
        super().__init__()
        self.embeddings = Embeddings(architecture)
        self.pre_layrnorm = nn.LayerNorm(architecture.hidden, eps=LAYER_NORM_EPSILON)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Block(architecture) for _ in range(architecture.blocks))})
        self.post_layernorm = nn.LayerNorm(architecture.hidden, eps=LAYER_NORM_EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        """Give the feature of each image: its class token after the last LayerNorm, before any projection.

        Args:
            images: [batch, 3, pixels, pixels], RGB, centred (`networks.pixels`).

        Returns:
            [batch, hidden].
        """
        tokens = self.pre_layrnorm(self.embeddings(images))
        for block in cast(nn.ModuleList, self.encoder["layers"]):
            tokens = block(tokens)
        return cast(Tensor, self.post_layernorm(tokens[:, 0]))
