"""Multi-head self-attention, shared by DINOv2 and CLIP."""

import torch
from torch import Tensor

HEAD_SIZE = 64
"""Channels of one attention head, in every vision transformer of the method; the number of heads follows from it."""


def split_heads(tokens: Tensor) -> Tensor:
    """Reshape [batch, tokens, hidden] into [batch, heads, tokens, HEAD_SIZE]."""
    batch, count, hidden = tokens.shape
    return tokens.reshape(batch, count, hidden // HEAD_SIZE, HEAD_SIZE).transpose(1, 2)


def attention_probabilities(query: Tensor, key: Tensor) -> Tensor:
    """How much every query looks at every key: [batch, heads, queries, keys], each row summing to 1.

    Written out instead of scaled_dot_product_attention, so that the exported graph holds the plain
    MatMul, Softmax, MatMul pattern that TensorRT and `export.onnx.fused_attention` fuse, and so that attention maps can
    be had. The scale comes first, which is exact, since it is a power of two. Written by hand, or over another axis,
    the softmax is not fused (`make check-engines`).
    """
    scores = split_heads(query * HEAD_SIZE**-0.5) @ split_heads(key).transpose(-1, -2)
    return torch.softmax(scores, dim=-1)


def attend(probabilities: Tensor, value: Tensor) -> Tensor:
    """Average the values ([batch, tokens, hidden]) by the probabilities and join the heads again."""
    return (probabilities @ split_heads(value)).transpose(1, 2).flatten(2)
