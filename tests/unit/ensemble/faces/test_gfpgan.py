"""What is done around the networks of face restoration, against `gfpgan` and `facexlib` and on nonsense."""

import time
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensemble.faces.gfpgan import (
    ALIGNER_OUTPUTS,
    CONFIDENCE,
    EYE_DISTANCE,
    FACE_SIDE,
    MAX_FACES,
    STRIDES,
    aligned_face,
    alignment,
    face_landmarks,
    paste_faces,
    restore_faces,
)
from ensemble.images import RgbImage
from tests.golden import GOLDEN, read_rgb

PACKAGE = np.load(GOLDEN / "gfpgan" / "golden.npz")
DETECTED = sorted({key.split("/")[1] for key in PACKAGE if key.startswith("detect/")})
IMAGES = sorted(key.split("/")[1] for key in PACKAGE if key.startswith("landmarks/"))

Outputs = list[NDArray[np.float32]]


def photograph(name: str) -> RgbImage:
    return read_rgb(GOLDEN / "images" / f"{name}.png")


def empty_outputs(height: int, width: int) -> Outputs:
    """The aligner's outputs without a face for an image of this size."""
    anchors = sum(2 * -(-height // stride) * -(-width // stride) for stride in STRIDES)
    return [np.zeros((anchors, *values), np.float32) for values in ((), (4,), (10,))]


def golden_outputs(name: str) -> Outputs:
    return [PACKAGE[f"detect/{name}/{output}"] for output in ALIGNER_OUTPUTS]


def batched(outputs: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    return [output[None] for output in outputs]


@pytest.mark.parametrize("name", DETECTED)
def test_landmarks_equal_those_that_the_package_aligns_by(name) -> None:
    height, width = PACKAGE[f"detect/{name}/size"].tolist()
    landmarks = face_landmarks(golden_outputs(name), (height, width))
    expected = PACKAGE[f"detect/{name}/landmarks"]
    assert landmarks.dtype == np.float32
    assert landmarks.shape == (min(len(expected), MAX_FACES), 5, 2)
    np.testing.assert_array_equal(landmarks, expected[:MAX_FACES])


def test_golden_detections_hold_candidates_that_were_dropped_more_faces_than_allowed_and_no_face() -> None:
    faces = {name: len(PACKAGE[f"detect/{name}/landmarks"]) for name in DETECTED}
    candidates = {name: (PACKAGE[f"detect/{name}/SCORES"] > CONFIDENCE).sum() for name in DETECTED}
    assert all(0 < faces[name] < candidates[name] for name in DETECTED if name != "none")
    assert faces["none"] == 0
    assert max(faces.values()) > MAX_FACES


@pytest.mark.parametrize("name", IMAGES)
def test_aligned_faces_equal_those_of_the_package(name) -> None:
    image = photograph(name)
    faces = [aligned_face(image, alignment(landmarks)) for landmarks in PACKAGE[f"landmarks/{name}"]]
    assert all(face.shape == (FACE_SIDE, FACE_SIDE, 3) for face in faces)
    assert [zlib.crc32(face) for face in faces] == PACKAGE[f"align/{name}"].tolist()


@pytest.mark.parametrize("name", IMAGES)
def test_pasted_image_equals_that_of_the_package(name) -> None:
    image = photograph(name)
    before = image.copy()
    alignments = [alignment(landmarks) for landmarks in PACKAGE[f"landmarks/{name}"]]
    faces = [(255 - aligned_face(image, affine), PACKAGE["paste/classes"], affine) for affine in alignments]
    pasted = paste_faces(image, faces)
    assert pasted.dtype == np.uint8
    np.testing.assert_array_equal(pasted, PACKAGE[f"paste/{name}"])
    np.testing.assert_array_equal(image, before)
    assert (pasted != image).any(axis=2).mean() > 0.05


def test_restoring_finds_aligns_restores_and_pastes() -> None:
    image = photograph("02_face_edge")
    outputs = golden_outputs("faces")
    landmarks = face_landmarks(outputs, (256, 256))
    seen: list[RgbImage] = []

    def align(pixels: NDArray[np.uint8]) -> Sequence[NDArray[np.generic]]:
        np.testing.assert_array_equal(pixels, image[None])
        return batched(outputs)

    def restore(faces: NDArray[np.uint8]) -> Sequence[NDArray[np.generic]]:
        seen.extend(faces)
        return [255 - faces, PACKAGE["paste/classes"][None]]

    restored = restore_faces(image, align, restore)
    alignments = [alignment(points) for points in landmarks]
    np.testing.assert_array_equal(seen, [aligned_face(image, affine) for affine in alignments])
    expected = [(255 - face, PACKAGE["paste/classes"], affine) for face, affine in zip(seen, alignments, strict=True)]
    np.testing.assert_array_equal(restored, paste_faces(image, expected))
    assert (restored != image).any()


def test_image_without_faces_is_given_back_and_nothing_restored() -> None:
    image = photograph("05_coffee")
    assert restore_faces(image, lambda pixels: batched(empty_outputs(256, 256)), refuse) is image


def test_failing_networks_leave_the_image_as_it_is() -> None:
    image = photograph("02_face_edge")
    assert restore_faces(image, lambda pixels: [], refuse) is image
    assert restore_faces(image, lambda pixels: batched(golden_outputs("faces")), lambda faces: []) is image


def test_face_that_could_not_be_restored_stays_alone_as_it_is() -> None:
    image = photograph("02_face_edge")
    outputs = golden_outputs("faces")
    answers = iter([[]] + [[np.zeros((1, FACE_SIDE, FACE_SIDE, 3), np.uint8), PACKAGE["paste/classes"][None]]] * 9)
    restored = restore_faces(image, lambda pixels: batched(outputs), lambda faces: next(answers))
    black = [
        (np.zeros((FACE_SIDE, FACE_SIDE, 3), np.uint8), PACKAGE["paste/classes"], alignment(points))
        for points in face_landmarks(outputs, (256, 256))[1:]
    ]
    np.testing.assert_array_equal(restored, paste_faces(image, black))


def test_image_too_long_for_opencv_is_left_as_it_is() -> None:
    image = np.zeros((2, 32_767, 3), np.uint8)
    assert restore_faces(image, refuse, refuse) is image


def refuse(pixels: NDArray[np.uint8]) -> Sequence[NDArray[np.generic]]:
    raise AssertionError("called without need")


def test_what_is_background_is_not_pasted() -> None:
    image = photograph("01_face_close")
    affine = alignment(PACKAGE["landmarks/01_face_close"][0])
    face = np.zeros((FACE_SIDE, FACE_SIDE, 3), np.uint8)
    for value in (0, 14, 16, 17, 18, 19, 255):
        classes = np.full((FACE_SIDE, FACE_SIDE), value, np.uint8)
        np.testing.assert_array_equal(paste_faces(image, [(face, classes, affine)]), image)


def test_close_eyes_are_not_restored() -> None:
    outputs = empty_outputs(64, 64)
    outputs[0][[20, 80]] = 0.99, 0.98
    outputs[2][:] = np.tile([-1, -1, 1, -1, 0, 0, -1, 1, 1, 1], (len(outputs[0]), 1)) * 5
    distances = [np.linalg.norm(eyes[0] - eyes[1]) for eyes in face_landmarks(outputs, (64, 64))]
    assert len(distances) == 2
    assert min(distances) > EYE_DISTANCE
    outputs[2][20] *= 0.3
    assert len(face_landmarks(outputs, (64, 64))) == 1


def far_apart(sure: list[float], eyes: list[float] | None = None) -> Outputs:
    """Faces of these confidences and eye distances in an image of 512 × 64, each an anchor of 16 pixels far from all
    others, in the order of the anchors."""
    outputs = empty_outputs(64, 512)
    for index, confidence in enumerate(sure):
        anchor = 2 * (64 * (2 * (index // 16) + 1) + 4 * (index % 16))  # every fourth column of every other row
        outputs[0][anchor] = confidence
        half = (eyes[index] if eyes else 8) / 2 / 1.6  # offsets count a tenth of an anchor's side
        outputs[2][anchor] = [-half, -4, half, -4, 0, 0, -half, 4, half, 4]
    return outputs


def test_of_equally_sure_faces_the_first_of_the_outputs_goes_first() -> None:
    landmarks = face_landmarks(far_apart([0.99] * 60), (64, 512))
    np.testing.assert_allclose(landmarks[:, 2], [[4, 12], [36, 12], [68, 12], [100, 12]], atol=1e-4)


def test_the_surest_faces_are_restored_and_close_eyes_take_no_place_among_them() -> None:
    """The sixth and the second are surer, and too close."""
    sure = [0.975, 0.98, 0.985, 0.99, 0.995, 0.9975]
    landmarks = face_landmarks(far_apart(sure, [8, 4.9, 8, 8, 5.1, 4.9]), (64, 512))
    np.testing.assert_allclose(landmarks[:, 2, 0], [4 + 32 * index for index in (4, 3, 2, 0)], atol=1e-4)


def test_a_candidate_must_be_surer_than_the_limit() -> None:
    limit = np.float32(CONFIDENCE)
    above = np.nextafter(limit, np.float32(1))
    landmarks = face_landmarks(far_apart([float(limit), float(above), 1.0, 1.001]), (64, 512))
    np.testing.assert_allclose(landmarks[:, 2, 0], [68, 36], atol=1e-4)


def test_an_image_that_opencv_can_just_warp_is_searched() -> None:
    asked = []

    def align(pixels: NDArray[np.uint8]) -> Sequence[NDArray[np.generic]]:
        asked.append(pixels.shape)
        return []

    restore_faces(np.zeros((2, 32_766, 3), np.uint8), align, refuse)
    assert asked == [(1, 2, 32_766, 3)]


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), 3e38), np.tile([[7.0, -9.0]], (5, 1))])
def test_landmarks_that_coincide_have_no_alignment(points) -> None:
    assert alignment(points.astype(np.float32)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5])
def test_outputs_that_are_all_nonsense_hold_no_face(value) -> None:
    outputs = [np.full_like(output, value) for output in empty_outputs(100, 60)]
    assert len(face_landmarks(outputs, (100, 60))) == 0


@pytest.mark.parametrize("head", [1, 2])
def test_candidate_with_a_value_that_is_no_number_is_dropped_alone(head) -> None:
    outputs = golden_outputs("faces")
    before = face_landmarks(outputs, (256, 256))
    best = int(outputs[0].argmax())
    outputs[head][best, 1] = np.nan
    after = face_landmarks(outputs, (256, 256))
    assert len(after) >= len(before) - 1
    outputs[0][best] = 0
    np.testing.assert_array_equal(after, face_landmarks(outputs, (256, 256)))


@pytest.mark.parametrize("log_side", [-500.0, 0.0, 400.0])
def test_flood_of_candidates_has_a_bounded_cost(log_side) -> None:
    outputs = empty_outputs(1000, 1000)
    random = np.random.default_rng(1)
    outputs[0][:] = random.uniform(CONFIDENCE, 1, len(outputs[0]))
    outputs[1][:, 2:] = log_side
    outputs[2][:] = random.normal(0, 5, outputs[2].shape)
    start = time.process_time()
    assert len(face_landmarks(outputs, (1000, 1000))) <= MAX_FACES
    assert time.process_time() - start < 10  # well under 1 s


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1.0, 30.0, 1e4, 1e18, 1e37]),
    st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38]), max_size=3),
)
def test_nonsense_of_the_aligner_never_fails(height, width, seed, size, nonsense) -> None:
    random = np.random.default_rng(seed)
    outputs = empty_outputs(height, width)
    outputs[0][:] = random.uniform(0.9, 1, len(outputs[0]))
    for output in outputs[1:]:
        output[:] = random.normal(0, 1, output.shape)
        output *= np.float32(size)
        for value in nonsense:
            output[random.random(output.shape) < 0.02] = value
    landmarks = face_landmarks(outputs, (height, width))
    assert len(landmarks) <= MAX_FACES
    assert np.isfinite(landmarks).all()
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    classes = np.ones((1, FACE_SIDE, FACE_SIDE), np.uint8)
    restored = restore_faces(image, lambda pixels: batched(outputs), lambda faces: [255 - faces, classes])
    assert restored.shape == image.shape
    assert restored.dtype == np.uint8
