"""The networks that learn: the libraries' own classes, so that the published checkpoints' layout follows from them.

Both classes give a state_dict whose names are those of `networks.architecture`, with the prefix `backbone.`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import CLIPVisionModel, Dinov2Model

from ensemble.streams import CLASSES

LORA_TARGETS = ("query", "key", "value", "dense")
"""The linear layers of each block's attention; no other layer has such a name."""


@dataclass(frozen=True)
class Adapter:
    """What is laid onto the base.

    Attributes:
        rank: Of LoRA.
        alpha: Its scale is alpha / rank.
        lora_dropout: Dropout of the input of LoRA's first matrix.
        head: Channels of the fusion head.
        head_dropout: Dropout between its layers.
    """

    rank: int
    alpha: int
    lora_dropout: float
    head: int
    head_dropout: float


class Backbone(nn.Module):
    """What the published names begin with: DINOv2 with LoRA, and a linear head on its CLS token."""

    def __init__(self, dino: Dinov2Model, adapter: Adapter) -> None:
        super().__init__()
        self.vision_model = _adapted(dino, adapter)
        self.last_layer = nn.Linear(dino.config.hidden_size, len(CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        return cast(Tensor, self.last_layer(self.vision_model(pixels).pooler_output))


class FusionBackbone(nn.Module):
    """DINOv2 with LoRA beside a frozen CLIP, and a head of two layers on both features."""

    def __init__(self, dino: Dinov2Model, clip: CLIPVisionModel, adapter: Adapter) -> None:
        super().__init__()
        self.vision_model = _adapted(dino, adapter)
        self.clip_model = clip.requires_grad_(False)
        self.fusion_head = nn.Sequential(
            nn.Linear(dino.config.hidden_size + clip.config.hidden_size, adapter.head),
            nn.GELU(),
            nn.Dropout(adapter.head_dropout),
            nn.Linear(adapter.head, len(CLASSES)),
        )

    def train(self, mode: bool = True) -> "FusionBackbone":
        super().train(mode)
        cast(nn.Module, self.clip_model).eval()  # frozen means that nothing of it is random either
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            semantic = self.clip_model(pixels).pooler_output
        texture = self.vision_model(pixels).pooler_output
        return cast(Tensor, self.fusion_head(torch.cat((texture, semantic), dim=1)))


class Network(nn.Module):
    """One stream: normalised images to logits. Its state_dict is the published layout.

    Args:
        dino: The base.
        adapter: LoRA that is laid onto it, and the fusion head.
        clip: The fusion stream's tower, frozen; None for the others.
    """

    def __init__(self, dino: Dinov2Model, adapter: Adapter, clip: CLIPVisionModel | None = None) -> None:
        super().__init__()
        self.dino = (dino,)  # a tuple: no second registration
        self.backbone: Backbone | FusionBackbone
        if clip is None:
            self.backbone = Backbone(dino, adapter)
        else:
            self.backbone = FusionBackbone(dino, clip, adapter)

    def forward(self, pixels: Tensor) -> Tensor:
        """Give the logits of images, float [N, 3, side, side] → [N, 2]."""
        return cast(Tensor, self.backbone(pixels))

    @property
    def head(self) -> nn.Module:
        """The layers on top."""
        return self.backbone.last_layer if isinstance(self.backbone, Backbone) else self.backbone.fusion_head


def choose_what_learns(network: Network, stage: str) -> None:
    """Freeze all but what a stage trains: `head`; or `lora`, with the head.

    The mask token never learns: it belongs to DINOv2's own pretraining, and no image ever meets it.
    """
    for name, parameter in network.named_parameters():
        if name.startswith("backbone.clip_model.") or name.endswith("mask_token"):
            parameter.requires_grad_(False)
        else:
            parameter.requires_grad_(stage == "lora" and ".lora_" in name)
    network.head.requires_grad_(True)


def checkpoint_activations(network: Network) -> None:
    """Keep only each block's input for the backward pass, and compute the rest again there."""
    enable: Any = network.dino[0].gradient_checkpointing_enable
    enable({"use_reentrant": False})


def learning(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that learn."""
    return ((name, each) for name, each in network.named_parameters() if each.requires_grad)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and back to what it was."""
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        network.train(was_training)


def _adapted(dino: Dinov2Model, adapter: Adapter) -> nn.Module:
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.lora_dropout,
        bias="none",
        target_modules=list(LORA_TARGETS),
    )
    return cast(nn.Module, get_peft_model(dino, config))
