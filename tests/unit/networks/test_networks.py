"""The streams as torch modules: against the golden outputs and against Hugging Face transformers."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from ensemble.streams import NORMALISATION_MEAN, NORMALISATION_STD, STREAMS, Stream
from networks import load_stream, write_random_weights
from networks.architecture import LORA_TARGETS
from tests.golden import GOLDEN, ROWS, read_rgb

# Not typed well enough to be called in typed code.
Dinov2Config: Any = transformers.Dinov2Config
Dinov2Model: Any = transformers.Dinov2Model
CLIPVisionConfig: Any = transformers.CLIPVisionConfig
CLIPVisionModel: Any = transformers.CLIPVisionModel

KEYS = {"global_texture": "global", "local_facial": "local", "semantic_fusion": "semantic"}
FEATURES = np.load(GOLDEN / "tiny" / "features.npz")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder, "tiny")
    return folder


def golden_pixels(stream: Stream, image: str) -> Tensor:
    """What the stream sees of the golden images, [8, pixels, pixels, 3]."""
    if stream.framing == "face":
        source = read_rgb(GOLDEN / "tiny" / image.replace(".png", ".local.png"))
    else:
        source = read_rgb(GOLDEN / "images" / image)
    if stream.framing == "resize":
        framed = cv2.resize(source, (224, 224), interpolation=cv2.INTER_AREA)
    else:
        framed = source[2:254, 2:254]
    return torch.from_numpy(np.ascontiguousarray(framed))


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_streams_give_the_golden_logits_and_features(stream: Stream, tiny: Path) -> None:
    network = load_stream(stream, tiny / stream.checkpoint)
    key = KEYS[stream.name]
    logits, features, _ = network(torch.stack([golden_pixels(stream, row["image"]) for row in ROWS]))
    np.testing.assert_allclose(logits, [row[key]["logits"] for row in ROWS], rtol=0, atol=1e-4)
    np.testing.assert_allclose(features, [FEATURES[f"{row['image']}:{key}"] for row in ROWS], rtol=0, atol=1e-4)


def test_pixels_as_floating_point_give_the_same(tiny: Path) -> None:
    network = load_stream(STREAMS[0], tiny / STREAMS[0].checkpoint)
    pixels = torch.randint(0, 256, (1, 252, 252, 3), dtype=torch.uint8)
    torch.testing.assert_close(network(pixels)[0], network(pixels.float())[0], rtol=0, atol=1e-5)


def randomise(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """Give every parameter values of a magnitude that matters; the state_dict."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.05
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(1 + noise if parameter.ndim == 1 and parameter.mean() == 1 else noise)
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def with_lora(reference: nn.Module, rank: int) -> dict[str, Tensor]:
    """Split the reference's weights as PEFT names them; the reference gets base + alpha / rank · B·A."""
    alpha = 2 * rank
    tensors: dict[str, Tensor] = {}
    state = reference.state_dict()
    for name, value in state.items():
        target = name.rpartition(".")[0]
        prefix = f"backbone.vision_model.base_model.model.{target}"
        if not target.endswith(LORA_TARGETS):
            tensors[f"backbone.vision_model.base_model.model.{name}"] = value.clone()
        elif name.endswith(".bias"):
            tensors[f"{prefix}.base_layer.bias"] = value.clone()
        else:
            tensors[f"{prefix}.base_layer.weight"] = value.clone()
            down = tensors[f"{prefix}.lora_A.default.weight"] = torch.randn(rank, value.shape[1]) * 0.1
            up = tensors[f"{prefix}.lora_B.default.weight"] = torch.randn(value.shape[0], rank) * 0.1
            value.copy_(value + alpha / rank * (up.double() @ down.double()).float())
    return tensors


def normalised(pixels: Tensor) -> Tensor:
    return ((pixels / 255 - torch.tensor(NORMALISATION_MEAN)) / torch.tensor(NORMALISATION_STD)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("hidden", "blocks", "rank", "patch", "trained_at", "pixels"),
    [
        pytest.param(64, 1, 1, 14, 518, 252, id="one block, published grid"),
        pytest.param(192, 3, 5, 14, 70, 70, id="grid of its own"),
        pytest.param(128, 2, 4, 8, 40, 64, id="larger grid"),
        pytest.param(128, 2, 2, 16, 224, 60, id="pixels not a multiple of the patch"),
    ],
)
@torch.no_grad()
def test_global_stream_agrees_with_transformers(
    hidden: int, blocks: int, rank: int, patch: int, trained_at: int, pixels: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=blocks,
        num_attention_heads=hidden // 64,
        patch_size=patch,
        image_size=trained_at,
        use_swiglu_ffn=True,
    )
    reference = Dinov2Model(config).eval()
    randomise(reference, 1)
    tensors = with_lora(reference, rank)
    tensors["backbone.last_layer.weight"] = weight = torch.randn(2, hidden) * 0.1
    tensors["backbone.last_layer.bias"] = bias = torch.randn(2)
    torch.save(tensors, tmp_path / "weights.pth")
    stream = Stream("any", "Any", "weights.pth", pixels, 1, "centre", False)
    images = torch.randint(0, 256, (2, pixels, pixels, 3), dtype=torch.uint8)
    logits, features, _ = load_stream(stream, tmp_path / "weights.pth")(images)
    expected = reference(normalised(images)).pooler_output
    torch.testing.assert_close(features, expected, rtol=0, atol=3e-5)
    torch.testing.assert_close(logits, expected @ weight.T + bias, rtol=0, atol=1e-5)


@torch.no_grad()
def test_fusion_stream_agrees_with_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pixels = 84
    dino = Dinov2Model(
        Dinov2Config(
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=70,
            patch_size=14,
            use_swiglu_ffn=True,
        )
    ).eval()
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=200,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=pixels,
            patch_size=12,
        )
    ).eval()
    randomise(dino, 1)
    tensors = with_lora(dino, 3)
    tensors |= {f"backbone.clip_model.{name}": value for name, value in randomise(clip, 2).items()}
    tensors["backbone.clip_model.vision_model.embeddings.position_ids"] = torch.arange(50)[None]
    head = nn.Sequential(nn.Linear(192, 32), nn.GELU(), nn.Dropout(0.2), nn.Linear(32, 2)).eval()
    tensors |= {f"backbone.fusion_head.{name}": value for name, value in head.state_dict().items()}
    torch.save(tensors, tmp_path / "weights.pth")
    stream = Stream("any", "Any", "weights.pth", pixels, 1, "resize", True)
    images = torch.randint(0, 256, (2, pixels, pixels, 3), dtype=torch.uint8)
    logits, features, _ = load_stream(stream, tmp_path / "weights.pth")(images)
    expected = torch.cat([dino(normalised(images)).pooler_output, clip(normalised(images)).pooler_output], dim=1)
    torch.testing.assert_close(features, expected, rtol=0, atol=3e-5)
    torch.testing.assert_close(logits, head(expected), rtol=0, atol=1e-5)
