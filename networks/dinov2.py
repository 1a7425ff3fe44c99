"""DINOv2 (arXiv 2304.07193) with the SwiGLU feed-forward of its giant size, for inference at one resolution.

Module names follow Hugging Face transformers 4.x, so that parameter names equal those of the published
checkpoints once LoRA is merged (`networks.weights.checkpoints`).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from networks.architecture import Dinov2Architecture
from networks.attention import attend, attention_probabilities
from networks.pixels import PatchEmbedding

LAYER_NORM_EPSILON = 1e-6


class SelfAttention(nn.Module):
    """The projections of one block and its attention."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, hidden)})

    def forward(self, tokens: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Let some tokens look at all, both [batch, …, hidden] and normalised.

        Returns:
            What each query takes in, [batch, queries, hidden]; and how much it looks at each token,
            [batch, heads, queries, tokens].
        """
        probabilities = attention_probabilities(self.attention["query"](queries), self.attention["key"](tokens))
        attended = attend(probabilities, self.attention["value"](tokens))
        return self.output["dense"](attended), probabilities


class SwiGLU(nn.Module):
    """Gated feed-forward network: the first half of the inner channels gates the second."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.weights_in = nn.Linear(hidden, 2 * inner)
        self.weights_out = nn.Linear(inner, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        gate, value = self.weights_in(tokens).chunk(2, dim=-1)
        return cast(Tensor, self.weights_out(F.silu(gate) * value))


class LayerScale(nn.Module):
    """A learned gain per channel."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(hidden))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.lambda1


class Block(nn.Module):
    """One transformer block: normalised before, scaled after, each half added to its input."""

    def __init__(self, architecture: Dinov2Architecture) -> None:
        super().__init__()
        hidden = architecture.hidden
        self.norm1 = nn.LayerNorm(hidden, eps=LAYER_NORM_EPSILON)
        self.attention = SelfAttention(hidden)
        self.layer_scale1 = LayerScale(hidden)
        self.norm2 = nn.LayerNorm(hidden, eps=LAYER_NORM_EPSILON)
        self.mlp = SwiGLU(hidden, architecture.inner)
        self.layer_scale2 = LayerScale(hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        normalised = self.norm1(tokens)
        return self._add_up(tokens, self.attention(normalised, normalised)[0])

    def cls_token(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Give the CLS token alone: all that is read of the last block, for a sixth of its work at the giant size.

        Args:
            tokens: [batch, tokens, hidden], CLS first.

        Returns:
            The first token of what `forward` gives, [batch, hidden], and its attention, [batch, heads, tokens].
        """
        normalised = self.norm1(tokens)
        attended, probabilities = self.attention(normalised, normalised[:, :1])
        return self._add_up(tokens[:, :1], attended)[:, 0], probabilities[:, :, 0]

    def _add_up(self, tokens: Tensor, attended: Tensor) -> Tensor:
        tokens = tokens + self.layer_scale1(attended)
        return cast(Tensor, tokens + self.layer_scale2(self.mlp(self.norm2(tokens))))


class Embeddings(nn.Module):
    """Images to tokens: the CLS token before the patches, positions added."""

    def __init__(self, architecture: Dinov2Architecture, pixels: int) -> None:
        super().__init__()
        hidden = architecture.hidden
        grid = pixels // architecture.patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.position_embeddings = nn.Parameter(torch.zeros(1, grid * grid + 1, hidden))
        self.patch_embeddings = nn.ModuleDict({"projection": PatchEmbedding(hidden, architecture.patch)})

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embeddings["projection"](images)
        tokens = torch.cat((self.cls_token.expand(patches.shape[0], -1, -1), patches), dim=1)
        return tokens + self.position_embeddings


class Dinov2(nn.Module):
    """The vision transformer up to its feature, and where its CLS token looks.

    A forward hook on `encoder.layer[-1].norm1` sees the tokens that attributions are made of.

    Args:
        architecture: Sizes.
        pixels: Side of the square images.
    """

    def __init__(self, architecture: Dinov2Architecture, pixels: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(architecture, pixels)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Block(architecture) for _ in range(architecture.blocks))})
        self.layernorm = nn.LayerNorm(architecture.hidden, eps=LAYER_NORM_EPSILON)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give the feature of each image, its CLS token after the last LayerNorm, and that token's last attention.

        Args:
            images: [batch, 3, pixels, pixels], RGB, centred (`networks.pixels`).

        Returns:
            The features, [batch, hidden], and attention over the patches, [batch, patches]: row by row, the mean over
            the heads, what CLS gives itself left out and the rest renormalised to sum to 1.
        """
        *blocks, last = cast(list[Block], list(cast(nn.ModuleList, self.encoder["layer"])))
        tokens = self.embeddings(images)
        for block in blocks:
            tokens = block(tokens)
        cls_token, attention = last.cls_token(tokens)
        patches = attention[:, :, 1:].mean(dim=1)
        return self.layernorm(cls_token), patches / patches.sum(dim=1, keepdim=True)


def interpolate_positions(table: Tensor, grid: int) -> Tensor:
    """Fit a position table to another grid of patches, as transformers 4.x does it for Dinov2Model.

    Args:
        table: [1, side·side + 1, hidden], CLS first.
        grid: Patches along one side of the images.

    Returns:
        [1, grid·grid + 1, hidden]; the table itself where the grid is its own.
    """
    side = round((table.shape[1] - 1) ** 0.5)
    if side == grid:
        return table
    patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat((table[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
