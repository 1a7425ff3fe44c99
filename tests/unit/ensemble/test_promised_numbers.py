"""Numbers and names that users, clients and other people's deployments rely on, by value.

Whoever changes one of them changes what the service does: the documentation and the changelog have to say so.
"""

from typing import Any

import pytest

from ensemble import contract, status, streams
from ensemble.calibration import PAPER_VOTE
from ensemble.preparation import FramingRule
from tests.constants import constant

NUMBERS: dict[str, Any] = {
    # What the networks were trained on.
    "streams.NORMALISATION_MEAN": (0.485, 0.456, 0.406),
    "streams.NORMALISATION_STD": (0.229, 0.224, 0.225),
    "streams.CLASSES": ("real", "fake"),
    "streams.SQUARE": 256,
    "streams.MAX_BATCH_SIZE": 32,
    # The method's face crop and its choice among faces.
    "faces.crop.MARGIN": 1.3,
    "faces.crop.SMALLEST_AREA": 1 / 9,
    "faces.selection.CLEAR_LEAD": 0.02,
    "faces.retinaface.SHORTER_SIDE": 1024,
    "faces.retinaface.LONGEST_SIDE": 1980,
    "faces.retinaface.CONFIDENCE": 0.9,
    "faces.retinaface.OVERLAP": 0.4,
    "faces.retinaface.MAX_CANDIDATES": 4096,
    "faces.retinaface.MAX_BATCH_SIZE": 4,
    "faces.gfpgan.FACE_SIDE": 512,
    "faces.gfpgan.CONFIDENCE": 0.97,
    "faces.gfpgan.OVERLAP": 0.4,
    "faces.gfpgan.EYE_DISTANCE": 5,
    "faces.gfpgan.MAX_CANDIDATES": 4096,
    "faces.gfpgan.MAX_FACES": 4,
    "faces.every.SMALLEST_SIDE": 48,
    # What one image may cost.
    "faces.localisation.RESTORED_PIXELS": 1_000_000,
    "faces.rows.GROUP_PIXELS": 50_000_000,
    "images.handover.LARGEST": 512 * 512,
    "images.headers.header.MAX_PARTS": 20_000,
    "images.workers.MEMORY": 256 << 20,
    "images.workers.MEMORY_PER_PIXEL": 32,
    "images.workers.SECONDS": 5.0,
    "images.workers.SECONDS_PER_PIXEL": 5e-7,
    "images.workers.TIMEOUT_FACTOR": 20,
    "images.workers.IMAGES_PER_WORKER": 1000,
    "images.protocol.DESK_BYTES": 4 << 20,
    "images.protocol.LONGEST_MESSAGE": 4096,
    "admission.SILENCE_SECONDS": 10.0,
    # Votes and calibration files.
    "calibration.ROUNDING_STEPS": (0.2, 0.1, 0.05, 0.02, 0.01),
    "calibration.SMALLEST_PROBABILITY": 1e-7,
    "calibration_file.FORMAT_VERSION": 1,
    "calibration_file.FILE_PARAMETER": "calibration_file",
    "preparation.FACE_MARGINS": (1.0, 3.0),
    # On the wire.
    "contract.MAX_TEXT": 64,
    "contract.IMAGE_SUFFIXES": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_the_one_that_was_promised(name: str) -> None:
    assert constant(f"ensemble.{name}") == NUMBERS[name]


def test_statuses_are_a_closed_set() -> None:
    assert set(contract.STATUSES) == {
        "ok",
        "empty_image",
        "too_many_bytes",
        "unsupported_format",
        "unreadable_image",
        "truncated_image",
        "too_many_pixels",
        "too_elongated",
        "invalid_face_box",
        "non_finite_logits",
    }
    assert status.OK == "ok"


def test_the_streams_are_the_papers() -> None:
    assert [
        (each.name, each.title, each.checkpoint, each.pixels, each.weight, each.framing, each.has_clip)
        for each in streams.STREAMS
    ] == [
        ("global_texture", "Global Texture", "dinov2_252.pth", 252, 2, "centre", False),
        ("local_facial", "Localized Facial", "dinov2_252_crop.pth", 252, 1, "face", False),
        ("semantic_fusion", "Hybrid Semantic Fusion", "dinov2_clip.pth", 224, 2, "resize", True),
    ]
    assert [stream.name for stream in streams.IMAGE_STREAMS] == ["global_texture", "semantic_fusion"]
    assert [stream.name for stream in streams.FACE_STREAMS] == ["local_facial"]
    assert (PAPER_VOTE.weights, PAPER_VOTE.rounding_step) == ((2, 1, 2), 0.1)


def test_names_and_shapes_on_the_wire() -> None:
    assert contract.OUTPUTS == {
        "SCORE": ("FP32", 1),
        "PROBABILITY": ("FP32", 1),
        "STREAM_PROBABILITIES": ("FP32", 3),
        "STREAM_VOTES": ("FP32", 3),
        "FACE": ("FP32", 4),
        "FACE_CONFIDENCE": ("FP32", 1),
        "FACE_SOURCE": ("BYTES", 1),
        "STATUS": ("BYTES", 1),
    }
    assert {name: value for name, value in contract.VERDICT_OUTPUTS.items() if name not in contract.OUTPUTS} == {
        "VERDICT": ("BYTES", 1),
        "SCORE_RANGE": ("FP32", 2),
        "PROBABILITY_RANGE": ("FP32", 2),
        "STREAMS_RUN": ("BYTES", 1),
    }
    assert (contract.IMAGE, contract.FACE_BOX, contract.THRESHOLD) == ("IMAGE", "FACE_BOX", "THRESHOLD")
    assert (contract.PREPROCESS_MODEL, contract.VOTER_MODEL) == ("preprocess", "voter")
    assert (contract.PROVENANCE_MODEL, contract.FACE_FINDER_MODEL) == ("provenance", "face_finder")
    assert (streams.ENSEMBLE_NAME, contract.VERDICT_ENSEMBLE) == ("deepfake_detector", "deepfake_verdict")
    assert (contract.PROVENANCE, contract.MAX_BYTES_PARAMETER) == ("PROVENANCE", "max_bytes")
    assert (contract.CALIBRATION_PARAMETER, contract.NO_CALIBRATION) == ("CALIBRATION", "paper")
    assert (contract.OVERLOADED, contract.STUCK) == ("OVERLOADED", "STUCK")
    assert (contract.FACE_SUPPLIED, contract.FACE_TOO_SMALL) == ("supplied", "too_small")
    assert (contract.FACE_NONE, contract.FACE_NOT_NEEDED) == ("none", "not_needed")


def stream(framing: Any, pixels: int) -> streams.Stream:
    return streams.Stream("one", "One", "one.pth", pixels, 1, framing)


@pytest.mark.parametrize(("framing", "face"), [("centre", False), ("face", True)])
def test_a_centre_is_no_larger_than_the_square_that_it_is_cut_from(framing: str, face: bool) -> None:
    assert (stream(framing, 256).sees_face, stream(framing, 256).is_resized) == (face, False)
    with pytest.raises(ValueError, match="one: the centre of 256 pixels has no 257; choose a framing that resizes"):
        stream(framing, 257)


@pytest.mark.parametrize(("framing", "face"), [("resize", False), ("face_resize", True)])
def test_a_resized_input_may_be_of_any_size(framing: str, face: bool) -> None:
    assert (stream(framing, 518).sees_face, stream(framing, 518).is_resized) == (face, True)


def test_a_stream_names_its_tensors_after_itself() -> None:
    assert (stream("face", 252).pixels_name, stream("face", 252).logits_name) == ("ONE_PIXELS", "ONE_LOGITS")
    assert not stream("face", 252).is_of_another_method
    assert streams.Stream("one", "One", "one.onnx", 252, 1, "face").is_of_another_method


@pytest.mark.parametrize("margin", [0.99, 3.01, float("nan")])
def test_a_margin_outside_its_range_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=r"face_margin is .*; it must be 1 to 3"):
        FramingRule(face_margin=margin)


def test_the_framing_of_faces_needs_a_detector_and_no_other_does() -> None:
    with pytest.raises(ValueError, match="the framing face needs a face detector"):
        FramingRule("face")
    assert (FramingRule().framing, FramingRule().face_margin) == ("square", 1.3)
    assert FramingRule("native", 1.0).find is None
    assert FramingRule("face", 3.0, find=lambda image, box: None).face_margin == 3  # type: ignore[arg-type,return-value]
