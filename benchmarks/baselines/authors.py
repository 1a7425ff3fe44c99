"""The authors' way: PyTorch eager in float32, LoRA beside the weights, stage after stage in batches of 16.

Their code (method, sections 1 to 4) is a script for each stage: cut all faces, then for each stream score all images
and write the probabilities, then vote. It builds Hugging Face's `Dinov2Model` with PEFT's LoRA on it, not merged, and
`CLIPVisionModel`. So does this, from the same checkpoints, with two differences in its favour: images are decoded once
rather than once a stage, and all networks stay loaded between runs. LoRA is computed as PEFT does in evaluation
(`base(x) + B(A(x)) · alpha / rank`), without the package.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor, nn

from benchmarks.load.workloads import Item
from ensemble.faces.haar import HaarDetector
from ensemble.faces.localisation import local_pixels, locate_faces
from ensemble.images import RgbImage, centre, decode, shrink, square
from ensemble.streams import GLOBAL_TEXTURE, NORMALISATION_MEAN, NORMALISATION_STD, SEMANTIC_FUSION, STREAMS
from ensemble.voting import score_logits
from networks.architecture import DINO, LORA_TARGETS, ClipArchitecture, Dinov2Architecture, infer_architecture
from networks.attention import HEAD_SIZE
from networks.weights.checkpoint_file import read_tensors
from networks.weights.checkpoints import LORA_SCALE

BATCH_SIZE = 16

# Not typed well enough to be called in typed code.
_hugging_face: Any = transformers


class Authors:
    """The three streams as the authors build them.

    Args:
        weights: Folder of the three checkpoints.
    """

    def __init__(self, weights: Path) -> None:
        self._networks = [(stream, _Network(weights / stream.checkpoint).eval()) for stream in STREAMS]
        self._detector = HaarDetector()

    @torch.no_grad()
    def score(self, images: list[Item]) -> list[float]:
        """The weighted mean of each image."""
        decoded = [decode(image.data) for image in images]
        # Their cropper takes one image at a time.
        located = [
            locate_faces([image], [item.box], self._detector)[0] for image, item in zip(decoded, images, strict=True)
        ]
        crops = [local_pixels(image, location) for image, location in zip(decoded, located, strict=True)]
        framed = {
            "centre": [centre(square(image), GLOBAL_TEXTURE.pixels) for image in decoded],
            "face": crops,
            "resize": [shrink(square(image), SEMANTIC_FUSION.pixels) for image in decoded],
        }
        logits = [
            np.concatenate([network(batch).numpy() for batch in _batches(framed[stream.framing])])
            for stream, network in self._networks
        ]
        return [float(each) for each in score_logits(np.stack(logits, axis=1)).probability]


class _LoraLinear(nn.Module):
    """A linear layer with LoRA beside it."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        beside: Tensor = self.lora_B["default"](self.lora_A["default"](x))
        return cast(Tensor, self.base_layer(x)) + beside * LORA_SCALE


class _Network(nn.Module):
    """A stream: DINOv2 and a linear layer, or DINOv2 and CLIP and a small network."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        tensors = read_tensors(checkpoint)
        sizes = infer_architecture({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        with torch.device("meta"):
            self.vision_model = _dino(sizes.dino)
            if sizes.clip is None:
                self.last_layer = nn.Linear(sizes.dino.hidden, 2)
            else:
                self.clip_model = _clip(sizes.clip)
                joined = nn.Linear(sizes.dino.hidden + sizes.clip.hidden, sizes.clip.head)
                self.fusion_head = nn.Sequential(joined, nn.GELU(), nn.Dropout(0.2), nn.Linear(sizes.clip.head, 2))
        self._has_clip = sizes.clip is not None
        self.load_state_dict({_own_name(name): tensor.float() for name, tensor in tensors.items()}, assign=True)
        if sizes.clip is not None:  # a buffer that checkpoints do not hold, and so is still without values
            embeddings = self.get_submodule("clip_model.vision_model.embeddings")
            embeddings.register_buffer("position_ids", torch.arange(sizes.clip.positions)[None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.vision_model(images).pooler_output
        if not self._has_clip:
            return cast(Tensor, self.last_layer(features))
        return cast(Tensor, self.fusion_head(torch.cat((features, self.clip_model(images).pooler_output), dim=1)))


def _dino(sizes: Dinov2Architecture) -> nn.Module:
    config = _hugging_face.Dinov2Config(
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.blocks,
        num_attention_heads=sizes.hidden // HEAD_SIZE,
        patch_size=sizes.patch,
        image_size=round((sizes.positions - 1) ** 0.5) * sizes.patch,
        use_swiglu_ffn=True,
    )
    model = cast(nn.Module, _hugging_face.Dinov2Model(config))
    for name, module in list(model.named_modules()):
        if name.endswith(LORA_TARGETS):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, _LoraLinear(cast(nn.Linear, module), sizes.rank))
    return model


def _clip(sizes: ClipArchitecture) -> nn.Module:
    config = _hugging_face.CLIPVisionConfig(
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.blocks,
        num_attention_heads=sizes.hidden // HEAD_SIZE,
        intermediate_size=sizes.inner,
        patch_size=sizes.patch,
        image_size=round((sizes.positions - 1) ** 0.5) * sizes.patch,
    )
    return cast(nn.Module, _hugging_face.CLIPVisionModel(config))


def _own_name(name: str) -> str:
    return name.replace(DINO, "vision_model.", 1) if name.startswith(DINO) else name


def _batches(pixels: list[RgbImage]) -> Iterator[Tensor]:
    """Normalised batches, [N, 3, S, S]: each image by itself, as their data set does it."""
    mean, std = (np.array(values, np.float32) for values in (NORMALISATION_MEAN, NORMALISATION_STD))
    for start in range(0, len(pixels), BATCH_SIZE):
        normalised: list[npt.NDArray[np.float32]] = [
            ((image.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)
            for image in pixels[start : start + BATCH_SIZE]
        ]
        yield torch.from_numpy(np.stack(normalised))
