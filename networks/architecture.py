"""Sizes of a stream's networks, and the tensors that a checkpoint of those sizes holds.

`tensor_shapes` is the one description of the checkpoint layout: the strict reader expects what it lists, the
random weights are made of it. Names are those of the published files without their prefix `backbone.` or
`module.backbone.`: transformers 4.x under PEFT.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ensemble.streams import CLASSES
from networks.attention import HEAD_SIZE

Shape = tuple[int, ...]

DINO = "vision_model.base_model.model."
"""Where the DINOv2 of a checkpoint lies."""

CLIP = "clip_model.vision_model."
"""Where the CLIP vision tower of a fusion checkpoint lies."""

LORA_TARGETS = ("attention.attention.query", "attention.attention.key", "attention.attention.value",
                "attention.output.dense")  # fmt: skip
"""The linear layers of each DINOv2 block that LoRA adapts."""


class ArchitectureError(ValueError):
    """The tensors are not those of any size of the networks; the message says why."""


@dataclass(frozen=True)
class Dinov2Architecture:
    """Sizes of a DINOv2 with LoRA.

    Attributes:
        hidden: Channels of a token, a multiple of 64 (the size of a head).
        blocks: Transformer blocks.
        inner: Channels between the two layers of the feed-forward network.
        rank: Rank of LoRA.
        positions: Rows of the position table: a square grid, and one for CLS.
        patch: Side of a patch, pixels.
    """

    hidden: int
    blocks: int
    inner: int
    rank: int
    positions: int = 37 * 37 + 1
    patch: int = 14


@dataclass(frozen=True)
class ClipArchitecture:
    """Sizes of a CLIP vision tower, and of the head that joins it to DINOv2.

    Attributes:
        hidden: Channels of a token, a multiple of 64 (the size of a head).
        blocks: Transformer blocks.
        inner: Channels between the two layers of the feed-forward network.
        positions: Rows of the position table: a square grid, and one for the class token.
        patch: Side of a patch, pixels.
        head: Channels between the two layers of the fusion head.
    """

    hidden: int
    blocks: int
    inner: int
    positions: int = 16 * 16 + 1
    patch: int = 14
    head: int = 512


@dataclass(frozen=True)
class StreamArchitecture:
    """Sizes of one stream; `clip` is None where it has DINOv2 alone."""

    dino: Dinov2Architecture
    clip: ClipArchitecture | None = None


def tensor_shapes(architecture: StreamArchitecture) -> dict[str, Shape]:
    """Name and shape of every tensor that a checkpoint of these sizes holds."""
    shapes = dict(_dino_shapes(architecture.dino))
    if architecture.clip is None:
        shapes |= _affine("last_layer", len(CLASSES), architecture.dino.hidden)
        return shapes
    clip = architecture.clip
    shapes |= dict(_clip_shapes(clip))
    shapes |= _affine("fusion_head.0", clip.head, architecture.dino.hidden + clip.hidden)
    shapes |= _affine("fusion_head.3", len(CLASSES), clip.head)
    return shapes


def infer_architecture(shapes: Mapping[str, Shape]) -> StreamArchitecture:
    """Read the sizes off the shapes of a checkpoint's tensors.

    Only a few tensors are looked at; whether the others agree is for the comparison with `tensor_shapes` to tell.

    Raises:
        ArchitectureError: A tensor that tells a size is absent or has the wrong number of dimensions, blocks are
            absent or not numbered 0, 1, 2 …, or a size cannot be.
    """
    block = f"{DINO}encoder.layer.0."
    dino = Dinov2Architecture(
        hidden=_size(shapes, f"{DINO}embeddings.cls_token", 3, 2),
        blocks=_count_blocks(shapes, f"{DINO}encoder.layer."),
        inner=_size(shapes, f"{block}mlp.weights_out.weight", 2, 1),
        rank=_size(shapes, f"{block}{LORA_TARGETS[0]}.lora_A.default.weight", 2, 0),
        positions=_size(shapes, f"{DINO}embeddings.position_embeddings", 3, 1),
        patch=_size(shapes, f"{DINO}embeddings.patch_embeddings.projection.weight", 4, 3),
    )
    _check_sizes("DINOv2", dino.hidden, dino.positions)
    if not holds_clip(shapes):
        return StreamArchitecture(dino)
    clip = ClipArchitecture(
        hidden=_size(shapes, f"{CLIP}embeddings.class_embedding", 1, 0),
        blocks=_count_blocks(shapes, f"{CLIP}encoder.layers."),
        inner=_size(shapes, f"{CLIP}encoder.layers.0.mlp.fc1.weight", 2, 0),
        positions=_size(shapes, f"{CLIP}embeddings.position_embedding.weight", 2, 0),
        patch=_size(shapes, f"{CLIP}embeddings.patch_embedding.weight", 4, 3),
        head=_size(shapes, "fusion_head.0.weight", 2, 0),
    )
    _check_sizes("CLIP", clip.hidden, clip.positions)
    return StreamArchitecture(dino, clip)


def holds_clip(names: Iterable[str]) -> bool:
    """Whether tensors of these names are those of the fusion stream."""
    return any(name.startswith(("clip_model.", "fusion_head.")) for name in names)


def _affine(name: str, outputs: int, inputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, hidden: int) -> dict[str, Shape]:
    return {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}


def _dino_shapes(sizes: Dinov2Architecture) -> Iterator[tuple[str, Shape]]:
    hidden = sizes.hidden
    embeddings = f"{DINO}embeddings."
    yield f"{embeddings}cls_token", (1, 1, hidden)
    yield f"{embeddings}mask_token", (1, hidden)
    yield f"{embeddings}position_embeddings", (1, sizes.positions, hidden)
    yield f"{embeddings}patch_embeddings.projection.weight", (hidden, 3, sizes.patch, sizes.patch)
    yield f"{embeddings}patch_embeddings.projection.bias", (hidden,)
    for index in range(sizes.blocks):
        block = f"{DINO}encoder.layer.{index}."
        yield from _norm(f"{block}norm1", hidden).items()
        for target in LORA_TARGETS:
            yield from _affine(f"{block}{target}.base_layer", hidden, hidden).items()
            yield f"{block}{target}.lora_A.default.weight", (sizes.rank, hidden)
            yield f"{block}{target}.lora_B.default.weight", (hidden, sizes.rank)
        yield f"{block}layer_scale1.lambda1", (hidden,)
        yield from _norm(f"{block}norm2", hidden).items()
        yield from _affine(f"{block}mlp.weights_in", 2 * sizes.inner, hidden).items()
        yield from _affine(f"{block}mlp.weights_out", hidden, sizes.inner).items()
        yield f"{block}layer_scale2.lambda1", (hidden,)
    yield from _norm(f"{DINO}layernorm", hidden).items()


def _clip_shapes(sizes: ClipArchitecture) -> Iterator[tuple[str, Shape]]:
    hidden = sizes.hidden
    yield f"{CLIP}embeddings.class_embedding", (hidden,)
    yield f"{CLIP}embeddings.patch_embedding.weight", (hidden, 3, sizes.patch, sizes.patch)
    yield f"{CLIP}embeddings.position_embedding.weight", (sizes.positions, hidden)
    yield from _norm(f"{CLIP}pre_layrnorm", hidden).items()
    for index in range(sizes.blocks):
        block = f"{CLIP}encoder.layers.{index}."
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _affine(f"{block}self_attn.{projection}", hidden, hidden).items()
        yield from _norm(f"{block}layer_norm1", hidden).items()
        yield from _affine(f"{block}mlp.fc1", sizes.inner, hidden).items()
        yield from _affine(f"{block}mlp.fc2", hidden, sizes.inner).items()
        yield from _norm(f"{block}layer_norm2", hidden).items()
    yield from _norm(f"{CLIP}post_layernorm", hidden).items()


def _size(shapes: Mapping[str, Shape], name: str, dimensions: int, axis: int) -> int:
    shape = shapes.get(name)
    if shape is None:
        raise ArchitectureError(f"{name} is missing")
    if len(shape) != dimensions or 0 in shape:
        raise ArchitectureError(f"{name} has shape {list(shape)}, not {dimensions} dimensions of 1 or more")
    return shape[axis]


def _count_blocks(names: Iterable[str], prefix: str) -> int:
    numbered = re.compile(re.escape(prefix) + r"(\d{1,6})\.", re.ASCII)
    indices = sorted({int(match[1]) for name in names if (match := numbered.match(name))})
    if not indices:
        raise ArchitectureError(f"there is no block: no tensor's name begins with {prefix}0")
    if indices != list(range(len(indices))):
        first_gap = next(expected for expected, index in enumerate(indices) if expected != index)
        raise ArchitectureError(
            f"blocks are not numbered 0, 1, 2 …: {prefix}{first_gap} is missing, though {prefix}{indices[-1]} is there"
        )
    return len(indices)


def _check_sizes(network: str, hidden: int, positions: int) -> None:
    if hidden % HEAD_SIZE:
        raise ArchitectureError(f"{network} has {hidden} channels, not a multiple of {HEAD_SIZE}, the size of a head")
    side = round((positions - 1) ** 0.5)
    if side < 1 or side * side != positions - 1:
        raise ArchitectureError(f"the position table of {network} has {positions} rows: not a square grid and one more")
