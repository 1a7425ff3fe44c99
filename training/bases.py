"""The weights a run starts from: a base from a folder, the hub or a checkpoint; or a whole checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from ensemble.streams import GLOBAL_TEXTURE, SEMANTIC_FUSION
from networks.architecture import CLIP, DINO, ClipArchitecture, Dinov2Architecture, StreamArchitecture, holds_clip
from networks.attention import HEAD_SIZE
from networks.errors import WeightsError, shortened
from networks.weights.checkpoint_file import PREFIXES, read_tensors
from networks.weights.checkpoints import read_checkpoint
from training.errors import BaseError
from training.networks import Adapter, Network, checkpoint_activations, choose_what_learns
from training.recipe import Recipe

DINO_HUB, CLIP_HUB = "facebook/dinov2-giant", "openai/clip-vit-large-patch14"
"""The published bases."""

# Not typed well enough to be called in typed code.
_DINO_CONFIG: Any = Dinov2Config
_CLIP_CONFIG: Any = CLIPVisionConfig

_TEXT_HALF = ("text_model.", "logit_scale", "visual_projection.", "text_projection.")
"""What a whole CLIP holds beside its vision tower."""


def start(recipe: Recipe, base: str | None, clip: str | None, checkpoint: Path | None) -> Network:
    """Builds the network of a run on its starting weights, with what the stage trains left free.

    Args:
        recipe: Of the run. Its seed draws LoRA and the head where they are new.
        base: DINOv2: a folder of `save_pretrained`, a name on the hub, or a checkpoint of which the base alone is
            taken.
        clip: The CLIP of a fusion stream, likewise; only needed where `checkpoint` does not bring it.
        checkpoint: A checkpoint to go on from, instead of `base`: the same architecture's is taken whole; of a global
            stream's, a fusion stream takes DINOv2 with LoRA, and its head is new.

    Raises:
        BaseError: Neither or both are given, one cannot be read, or is not of the recipe's sizes.
    """
    if (base is None) == (checkpoint is None):
        raise BaseError(f"give either --base (such as {DINO_HUB}) or --from with a checkpoint")
    if recipe.stage == "head" and checkpoint is None:
        raise BaseError("the first phase trains a head alone, on a trained LoRA: give the global stream's with --from")
    try:
        if checkpoint is not None:
            network = _from_checkpoint(recipe, checkpoint, clip)
        else:
            assert base is not None
            network = _from_base(recipe, base, clip)
    except WeightsError as error:
        raise BaseError(str(error)) from error
    choose_what_learns(network, recipe.stage)
    if recipe.run.activation_checkpointing:
        checkpoint_activations(network)
    return network.train()


def adapter_of(recipe: Recipe) -> Adapter:
    """What the recipe lays onto its base."""
    sizes = recipe.network
    return Adapter(sizes.rank, sizes.alpha, sizes.lora_dropout, sizes.head, sizes.head_dropout)


def dino_config(sizes: Dinov2Architecture) -> Dinov2Config:
    """The library's description of a DINOv2 of these sizes.

    Raises:
        BaseError: The inner size is not the one that the library derives from a ratio.
    """
    config = _DINO_CONFIG(
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.blocks,
        num_attention_heads=sizes.hidden // HEAD_SIZE,
        mlp_ratio=round(sizes.inner * 1.5 / sizes.hidden),
        use_swiglu_ffn=True,
        image_size=round((sizes.positions - 1) ** 0.5) * sizes.patch,
        patch_size=sizes.patch,
    )
    inner = (int(int(sizes.hidden * config.mlp_ratio) * 2 / 3) + 7) // 8 * 8
    if inner != sizes.inner:
        raise BaseError(
            f"DINOv2 of {sizes.hidden} channels with {sizes.inner} inner ones: transformers builds {inner}; "
            "only sizes that it can build can be trained"
        )
    return cast(Dinov2Config, config)


def clip_config(sizes: ClipArchitecture) -> CLIPVisionConfig:
    """The library's description of a CLIP vision tower of these sizes."""
    return cast(
        CLIPVisionConfig,
        _CLIP_CONFIG(
            hidden_size=sizes.hidden,
            intermediate_size=sizes.inner,
            num_hidden_layers=sizes.blocks,
            num_attention_heads=sizes.hidden // HEAD_SIZE,
            image_size=round((sizes.positions - 1) ** 0.5) * sizes.patch,
            patch_size=sizes.patch,
        ),
    )


def _from_base(recipe: Recipe, base: str, clip: str | None) -> Network:
    dino = _read_dino(base)
    _check_sizes(recipe, base, dino.config)
    if not recipe.specification.has_clip:
        return _build(recipe, dino, None)
    return _build(recipe, dino, _required_clip(recipe, clip))


def _from_checkpoint(recipe: Recipe, path: Path, clip: str | None) -> Network:
    holder = SEMANTIC_FUSION if holds_clip(read_tensors(path)) else GLOBAL_TEXTURE
    if holder.has_clip and not recipe.specification.has_clip:
        raise BaseError(
            f"{path}: a checkpoint of the stream {holder.name}; {recipe.stream} goes on from one without CLIP"
        )
    tensors, sizes = read_checkpoint(holder, path)
    tensors = {name: value.float().clone() for name, value in tensors.items()}
    with torch.device("meta"):
        dino = Dinov2Model(dino_config(sizes.dino))
    _check_sizes(recipe, str(path), dino.config)
    _check_rank(recipe, path, sizes)
    if not recipe.specification.has_clip:
        network = _build(recipe, dino, None)
        names = set(tensors)
    elif sizes.clip is not None:
        network = _build(recipe, dino, CLIPVisionModel(clip_config(sizes.clip)))
        names = set(tensors)
    else:
        network = _build(recipe, dino, _required_clip(recipe, clip))
        names = {name for name in tensors if name.startswith(DINO)}
    _load(network, {PREFIXES[0] + name: tensors[name] for name in names}, path)
    return network


def _build(recipe: Recipe, dino: Dinov2Model, clip: CLIPVisionModel | None) -> Network:
    """LoRA and the head follow from the seed alone, wherever the base came from and whatever reading it drew."""
    torch.manual_seed(recipe.run.seed)
    return Network(dino, adapter_of(recipe), clip)


def _load(network: Network, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors in, by name, each of which must have a place; what has none of them must not be left empty."""
    try:
        missing, unexpected = network.load_state_dict(dict(tensors), strict=False, assign=True)
    except RuntimeError as error:  # a head of another size, for instance
        raise BaseError(f"{path}: not of the recipe's sizes: {str(error).splitlines()[-1].strip()}") from error
    empty = [name for name in missing if network.state_dict()[name].is_meta]
    if empty or unexpected:
        raise BaseError(f"{path}: does not fill the network: {shortened([*empty, *unexpected])}")


def _read_dino(source: str) -> Dinov2Model:
    if Path(source).is_file():
        path = Path(source)
        tensors, sizes = read_checkpoint(SEMANTIC_FUSION if holds_clip(read_tensors(path)) else GLOBAL_TEXTURE, path)
        with torch.device("meta"):
            dino = Dinov2Model(dino_config(sizes.dino))
        base = {
            name.removeprefix(DINO).replace(".base_layer.", "."): value.float().clone()
            for name, value in tensors.items()
            if name.startswith(DINO) and ".lora_" not in name
        }
        dino.load_state_dict(base, assign=True)
        return dino
    return cast(Dinov2Model, _pretrained(Dinov2Model, source, ()))


def _required_clip(recipe: Recipe, source: str | None) -> CLIPVisionModel:
    if source is None:
        raise BaseError(f"{recipe.stream} needs a CLIP: give it with --clip (such as {CLIP_HUB})")
    if not Path(source).is_file():
        return cast(CLIPVisionModel, _pretrained(CLIPVisionModel, source, _TEXT_HALF))
    tensors, sizes = read_checkpoint(SEMANTIC_FUSION, Path(source))
    assert sizes.clip is not None
    clip = CLIPVisionModel(clip_config(sizes.clip))
    prefix = CLIP.removesuffix("vision_model.")
    clip.load_state_dict({n.removeprefix(prefix): v.float() for n, v in tensors.items() if n.startswith(CLIP)})
    return clip


def _pretrained(kind: Any, source: str, known_surplus: tuple[str, ...]) -> Any:
    """Reads a folder of `save_pretrained` or a model of the hub, strictly."""
    for quiet in (transformers.logging.set_verbosity_error, huggingface_hub.logging.set_verbosity_error):
        cast(Any, quiet)()  # an error tells all that their warnings would, once
    try:
        model, report = kind.from_pretrained(source, torch_dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BaseError(
            f"{source}: no {kind.__name__} could be read there: {str(error).partition(chr(10))[0]}; give a folder "
            "written by save_pretrained, a checkpoint of this project, or a name on the hub"
        ) from error
    missing = sorted(report["missing_keys"])
    surplus = sorted(name for name in report["unexpected_keys"] if not name.startswith(known_surplus or "\0"))
    if missing or surplus:
        raise BaseError(f"{source}: not a whole {kind.__name__}: missing {shortened(missing)}, surplus {surplus[:4]}")
    spoilt = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if spoilt:
        raise BaseError(f"{source}: {len(spoilt)} tensors hold NaN or infinity ({shortened(spoilt)}); fetch it again")
    return model


def _check_sizes(recipe: Recipe, source: str, config: Dinov2Config) -> None:
    found = (config.hidden_size, config.num_hidden_layers)
    wanted = (recipe.network.hidden, recipe.network.blocks)
    if found != wanted:
        raise BaseError(
            f"{source}: a base of {found[0]} channels and {found[1]} blocks; the recipe is for {wanted[0]} and "
            f"{wanted[1]}: give the base of that size, or set network.hidden={found[0]} and network.blocks={found[1]}"
        )
    if not config.use_swiglu_ffn or config.hidden_size % HEAD_SIZE:
        raise BaseError(
            f"{source}: not a DINOv2 with a SwiGLU feed-forward, as the giant one has; nothing could serve it"
        )


def _check_rank(recipe: Recipe, path: Path, sizes: StreamArchitecture) -> None:
    if sizes.dino.rank != recipe.network.rank:
        raise BaseError(
            f"{path}: LoRA of rank {sizes.dino.rank}; the recipe's is {recipe.network.rank}: set "
            f"network.rank={sizes.dino.rank} and network.alpha={2 * sizes.dino.rank}"
        )
