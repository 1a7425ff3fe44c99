"""The three streams of the method: one specification each, read by every other part of the project."""

from dataclasses import dataclass
from typing import Literal

NORMALISATION_MEAN = (0.485, 0.456, 0.406)
"""Per-channel mean of RGB/255 that every stream subtracts, the CLIP branch too."""

NORMALISATION_STD = (0.229, 0.224, 0.225)
"""Per-channel standard deviation of RGB/255 that every stream divides by."""

CLASSES = ("real", "fake")
"""Meaning of the two logits, in order."""

MAX_BATCH_SIZE = 32
"""Largest batch that any model of the repository accepts."""

ENSEMBLE_NAME = "deepfake_detector"
"""The Triton model that clients call."""


@dataclass(frozen=True)
class Stream:
    """One stream of the ensemble (paper section 3).

    Attributes:
        name: Name of its model in the Triton repository.
        title: Name in the paper, for people.
        checkpoint: File name of its published weights.
        pixels: Side of the square RGB input.
        weight: Weight of its vote.
        framing: How its input is cut: the centre of the image, the centre of the face crop, or the whole image resized.
        has_clip: Whether a frozen CLIP vision tower runs beside DINOv2.
    """

    name: str
    title: str
    checkpoint: str
    pixels: int
    weight: int
    framing: Literal["centre", "face", "resize"]
    has_clip: bool


GLOBAL_TEXTURE = Stream("global_texture", "Global Texture", "dinov2_252.pth", 252, 2, "centre", False)
LOCAL_FACIAL = Stream("local_facial", "Localized Facial", "dinov2_252_crop.pth", 252, 1, "face", False)
SEMANTIC_FUSION = Stream("semantic_fusion", "Hybrid Semantic Fusion", "dinov2_clip.pth", 224, 2, "resize", True)

STREAMS = (GLOBAL_TEXTURE, LOCAL_FACIAL, SEMANTIC_FUSION)
"""In the order of every array that has one entry a stream."""
