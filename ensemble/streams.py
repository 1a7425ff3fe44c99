"""The streams: one specification each, from which every other part of the project follows.

To add a stream, declare it here and put it into `STREAMS`; then run `scripts/contract`, which copies this file to the
client, and `python -m export.configure`, which writes what Triton has to know of it; then export.
"""

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


SQUARE = 256
"""Side of the square that images and face crops are brought to before a stream takes its part of it, in pixels."""

Framing = Literal["centre", "resize", "face", "face_resize"]
"""How a stream's input comes from that square: its centre, or all of it resized; of the image, or of the face crop."""


@dataclass(frozen=True)
class Stream:
    """One stream of the ensemble (paper section 3).

    Attributes:
        name: Name of its model in the Triton repository.
        title: Name in the paper, for people.
        checkpoint: File name of its weights. A name that ends in `.onnx` is a network of another method
            (`export.exporters.other_methods`).
        pixels: Side of the square RGB input.
        weight: Weight of its vote.
        framing: How its input is cut.
        has_clip: Whether a frozen CLIP vision tower runs beside DINOv2.
        tflop: What its network costs for one image, in 10¹² multiplications and additions, where that does not follow
            from the rest: for a network of another method. Early verdicts ask dear streams late.
    """

    name: str
    title: str
    checkpoint: str
    pixels: int
    weight: int
    framing: Framing
    has_clip: bool = False
    tflop: float | None = None

    def __post_init__(self) -> None:
        if not self.is_resized and self.pixels > SQUARE:
            raise ValueError(
                f"{self.name}: the centre of {SQUARE} pixels has no {self.pixels}; choose a framing that resizes"
            )
        if self.tflop is not None and not self.tflop > 0:
            raise ValueError(f"{self.name}: tflop is {self.tflop}; it must be above 0, or None")

    @property
    def sees_face(self) -> bool:
        """Whether its input is the face crop, not the image."""
        return self.framing in ("face", "face_resize")

    @property
    def is_resized(self) -> bool:
        """Whether its input is all of the square, resized, and not the centre."""
        return self.framing in ("resize", "face_resize")

    @property
    def is_of_another_method(self) -> bool:
        """Whether its checkpoint is an ONNX model that is taken as it is: it gives LOGITS alone."""
        return self.checkpoint.endswith(".onnx")

    @property
    def pixels_name(self) -> str:
        """Name of its input among the outputs of the step that cuts it."""
        return f"{self.name.upper()}_PIXELS"

    @property
    def logits_name(self) -> str:
        """Name of its output among the inputs of the voter."""
        return f"{self.name.upper()}_LOGITS"


GLOBAL_TEXTURE = Stream("global_texture", "Global Texture", "dinov2_252.pth", 252, 2, "centre", False)
LOCAL_FACIAL = Stream("local_facial", "Localized Facial", "dinov2_252_crop.pth", 252, 1, "face", False)
SEMANTIC_FUSION = Stream("semantic_fusion", "Hybrid Semantic Fusion", "dinov2_clip.pth", 224, 2, "resize", True)

STREAMS = (GLOBAL_TEXTURE, LOCAL_FACIAL, SEMANTIC_FUSION)
"""In the order of every array that has one entry a stream."""

IMAGE_STREAMS = tuple(stream for stream in STREAMS if not stream.sees_face)
FACE_STREAMS = tuple(stream for stream in STREAMS if stream.sees_face)
"""Those whose input `preprocess` cuts, and those whose input `face_crop` does."""
