"""Numbers and names of weights, exports and engines that other people's files and deployments rely on, by value."""

from typing import Any

import pytest

from export.weights.published import KNOWN
from tests.constants import constant

NUMBERS: dict[str, Any] = {
    # What checkpoints are, and how they were trained.
    "networks.weights.checkpoints.LORA_SCALE": 2.0,
    "networks.weights.checkpoint_file.PREFIXES": ("backbone.", "module.backbone."),
    "networks.weights.manifest.MANIFEST_FILE": "manifest.json",
    "networks.weights.random_weights.MARKER": "UNTRAINED",
    "networks.weights.stand_in.MARKER": "STAND-IN",
    "networks.dinov2.LAYER_NORM_EPSILON": 1e-6,
    "networks.clip.LAYER_NORM_EPSILON": 1e-5,
    "networks.attention.HEAD_SIZE": 64,
    "networks.work.FACE_SEARCH": 0.2,
    # Where weights come from.
    "export.weights.hub.REPOSITORY": "lpmkhoa/hcmusaqua-ntire26-weights",
    "export.weights.download.CHECKPOINTS": ("dinov2_252.pth", "dinov2_252_crop.pth", "dinov2_clip.pth"),
    "export.weights.download.FACE_DETECTOR_URL": (
        "https://github.com/serengil/deepface_models/releases/download/v1.0/retinaface.h5"
    ),
    "export.weights.checkpoints.FACE_DETECTOR_FILE": "retinaface.h5",
    "export.weights.checkpoints.FACE_RESTORER_FILES": (
        "detection_Resnet50_Final.pth",
        "GFPGANv1.4.pth",
        "parsing_parsenet.pth",
    ),
    "export.download.INTERRUPTED": 130,
    # What lies in a repository.
    "export.layout.LOADED_FILES": ("model.onnx", "model.fused.onnx", "model.plan"),
    "export.layout.DATA_FILE": "model.onnx.data",
    "export.layout.ENGINE_MANIFEST": "model.plan.json",
    "export.repository.STAGING_PREFIX": ".staging-",
    # Graphs, and arithmetic of 16 bits.
    "export.onnx.graph.OPSET": 18,
    "export.onnx.graph.INLINE_LIMIT": 256 << 20,
    "export.onnx.interface.OUTPUTS": ("LOGITS", "FEATURES", "ATTENTION"),
    "export.half.conversion.PRECISIONS": ("fp32", "fp16", "bf16"),
    "export.half.conversion.LARGEST": 65504.0,
    "export.half.arithmetic.STEP": 16,
    "export.half.fp8.LARGEST": 448.0,
    "export.half.study.HIGHEST_GAIN": 4096,
    # Engines.
    "export.tensorrt.platform.OLDEST": (10, 12),
    "export.tensorrt.engine.OPTIMAL_BATCH": 8,
    "export.tensorrt.engines.TRIED_BATCHES": (1, 3, 8, 32),
    "export.tensorrt.check.CAPABILITIES": (80, 86, 89, 120),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_the_one_that_was_promised(name: str) -> None:
    assert constant(name) == NUMBERS[name]


def test_published_files_are_known_by_digests_that_others_give_too() -> None:
    """A digest that is off by a digit would refuse the right file, and a shortened one is none."""
    assert {name: (each.size, each.sha256[:8], len(each.sha256)) for name, each in KNOWN.items()} == {
        "retinaface.h5": (118667368, "ecb2393a", 64),
        "GFPGANv1.4.pth": (348632874, "e2cd4703", 64),
        "detection_Resnet50_Final.pth": (109497761, "6d1de9c2", 64),
        "parsing_parsenet.pth": (85331193, "3d558d8d", 64),
    }
