"""The streams as torch runs them on a GPU: seeded there, in 16 bits as they are exported, with fused attention.

Types are those of `export.half.conversion`: products in 16 bits; every LayerNorm, the residual stream, the heads and,
with bfloat16, the projection of the patches in single. Attention is `scaled_dot_product_attention`, save in the last
block, whose probabilities are an output.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from networks import clip, dinov2
from networks.attention import split_heads
from networks.pixels import CENTRE, SPAN
from networks.streams import StreamNetwork

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Served(nn.Module):
    """A stream from pixels to logits; its weights are those of the network, which is used up.

    Args:
        network: In single.
        precision: Of `HALVES`, or `fp32`.
    """

    centre: Tensor

    def __init__(self, network: StreamNetwork, precision: str) -> None:
        super().__init__()
        self.network = network
        _fuse_attention(network)
        if precision != "fp32":
            _halve(network, HALVES[precision])
        device = next(network.parameters()).device
        # Made once: a copy from the host cannot be part of a CUDA graph.
        self.register_buffer("centre", torch.tensor(CENTRE, dtype=torch.float32, device=device))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [batch, side, side, 3] to float32 [batch, 2]."""
        images = ((pixels.float() - self.centre) * (1 / SPAN)).permute(0, 3, 1, 2)
        return self.network.classify(self.network.extract(images)[0].float())

    def compile_blocks(self, backend: str) -> None:
        """Have torch.compile do each block: one compilation serves all of a kind."""
        for block in blocks_of(self.network):
            block.compile(backend=backend, dynamic=False)


def blocks_of(network: StreamNetwork) -> list[nn.Module]:
    """The transformer blocks that are run whole: DINOv2's but the last, and CLIP's."""
    found: Any = network
    blocks = list(found.vision_model.encoder["layer"])[:-1]
    if hasattr(network, "clip_model"):
        blocks += list(found.clip_model.encoder["layers"])
    return cast(list[nn.Module], blocks)


class _InHalf(nn.Module):
    """A layer with weights of 16 bits; it casts its input."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer.to(dtype)
        self.dtype = dtype

    def forward(self, values: Tensor) -> Tensor:
        return cast(Tensor, self.layer(values.to(self.dtype)))


def _halve(network: nn.Module, dtype: torch.dtype) -> None:
    heads = {layer for name, layer in network.named_modules() if name.startswith(("last_layer", "fusion_head"))}
    kinds = (nn.Linear,) if dtype is torch.bfloat16 else (nn.Linear, nn.Conv2d)
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, kinds) and layer not in heads:
                setattr(parent, name, _InHalf(layer, dtype))


class _FusedDino(nn.Module):
    def __init__(self, attention: dinov2.SelfAttention) -> None:
        super().__init__()
        self.attention, self.output = attention.attention, attention.output

    def forward(self, tokens: Tensor, queries: Tensor) -> tuple[Tensor, None]:
        query, key, value = (
            self.attention["query"](queries),
            self.attention["key"](tokens),
            self.attention["value"](tokens),
        )
        return self.output["dense"](_attend(query, key, value)), None


class _FusedClip(nn.Module):
    def __init__(self, attention: clip.SelfAttention) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.out_proj = attention.out_proj

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.out_proj(_attend(self.q_proj(tokens), self.k_proj(tokens), self.v_proj(tokens))))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attended = F.scaled_dot_product_attention(split_heads(query), split_heads(key), split_heads(value))
    return attended.transpose(1, 2).flatten(2)


def _fuse_attention(network: StreamNetwork) -> None:
    for block in blocks_of(network):
        if isinstance(block, dinov2.Block):
            block.attention = cast(dinov2.SelfAttention, _FusedDino(block.attention))
        elif isinstance(block, clip.Block):
            block.self_attn = cast(clip.SelfAttention, _FusedClip(block.self_attn))
