"""What is done before and after the RetinaFace network, against the package `retina-face` and on nonsense."""

import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensemble.faces.detection import Detection
from ensemble.faces.retinaface import (
    ANCHORS_PER_CELL,
    CONFIDENCE,
    LONGEST_SIDE,
    MAX_CANDIDATES,
    OUTPUTS,
    OVERLAP,
    SHORTER_SIDE,
    STRIDES,
    Faces,
    decode,
    prepare,
)
from tests.golden import GOLDEN

PACKAGE = np.load(GOLDEN / "retinaface" / "golden.npz")
DETECTED = sorted({key.split("/")[1] for key in PACKAGE if key.startswith("detect/")})
PREPARED = sorted({key.split("/")[1] for key in PACKAGE if key.startswith("prepare/")})
LANDMARKS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")


class Output(np.ndarray):  # type: ignore[type-arg]
    """An array that passes for a tensor of any of the package's backends."""

    def numpy(self) -> NDArray[np.float32]:
        return np.array(self)


def empty_outputs(height: int, width: int) -> list[NDArray[np.float32]]:
    """Network outputs without a face for pixels of this size."""
    return [
        np.zeros((-(-height // stride), -(-width // stride), channels), np.float32)
        for stride in STRIDES
        for channels in (4, 8, 20)
    ]


def random_outputs(height: int, width: int, share: float, seed: int) -> list[NDArray[np.float32]]:
    """Network outputs in which a share of the anchors are candidates, no two equally confident."""
    random = np.random.default_rng(seed)
    outputs = empty_outputs(height, width)
    total = sum(scores.size for scores in outputs[0::3])
    ranks = random.permutation(total)
    for level in range(len(STRIDES)):
        shape = outputs[3 * level].shape
        own, ranks = ranks[: np.prod(shape)], ranks[np.prod(shape) :]
        outputs[3 * level] = np.maximum(0, 1 - own.reshape(shape) / total * 0.1 / share).astype(np.float32)
        outputs[3 * level + 1] = random.normal(0, 0.5, (*shape[:2], 8)).astype(np.float32)
        outputs[3 * level + 2] = random.normal(0, 0.5, (*shape[:2], 20)).astype(np.float32)
    return outputs


@pytest.mark.parametrize("name", DETECTED)
def test_decode_equals_what_the_package_detects(name) -> None:
    pixels, scale = prepare(np.zeros((*PACKAGE[f"detect/{name}/size"], 3), np.uint8))
    faces = decode([PACKAGE[f"detect/{name}/{output}"] for output in OUTPUTS], pixels.shape[:2], scale)
    np.testing.assert_array_equal(faces.boxes, PACKAGE[f"detect/{name}/boxes"])
    np.testing.assert_array_equal(faces.scores, PACKAGE[f"detect/{name}/scores"])
    np.testing.assert_array_equal(faces.landmarks, PACKAGE[f"detect/{name}/landmarks"])


def test_golden_detections_hold_faces_candidates_that_were_dropped_and_no_face() -> None:
    faces = {name: len(PACKAGE[f"detect/{name}/boxes"]) for name in DETECTED}
    candidates = {
        name: sum((PACKAGE[f"detect/{name}/SCORES_{stride}"] >= CONFIDENCE).sum() for stride in STRIDES)
        for name in DETECTED
    }
    assert all(faces[name] < candidates[name] for name in DETECTED if name != "none")
    assert faces["none"] == 0


@pytest.mark.parametrize("size", PREPARED)
def test_prepare_equals_what_the_package_feeds_its_network(size) -> None:
    height, width = map(int, size.split("x"))
    random = np.random.RandomState(height * 10_000 + width)
    pixels, scale = prepare(random.randint(0, 256, (height, width, 3)).astype(np.uint8))
    *shape, checksum = PACKAGE[f"prepare/{size}"]
    assert pixels.shape[:2] == tuple(shape)
    assert scale == PACKAGE[f"prepare/{size}/scale"]
    assert zlib.crc32(np.ascontiguousarray(pixels)) == checksum


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("size", "share"), [((256, 256), 0.004), ((120, 300), 0.006), ((1400, 2200), 0.003)])
def test_decode_equals_the_installed_package(size, share) -> None:
    package = pytest.importorskip("retinaface.RetinaFace")
    image = np.zeros((*size, 3), np.uint8)
    pixels, scale = prepare(image)
    outputs = random_outputs(*pixels.shape[:2], share, seed=size[1])
    faces = decode(outputs, pixels.shape[:2], scale)
    assert 10 < len(faces.scores) < MAX_CANDIDATES
    answer = [output[None].copy().view(Output) for output in outputs]
    detected = list(package.detect_faces(image, model=lambda tensor: answer).values())
    np.testing.assert_array_equal(faces.boxes, [face["facial_area"] for face in detected])
    np.testing.assert_array_equal(faces.scores, [face["score"] for face in detected])
    np.testing.assert_array_equal(
        faces.landmarks, [[face["landmarks"][point] for point in LANDMARKS] for face in detected]
    )


def test_detections_are_plain_numbers_in_the_same_order() -> None:
    faces = Faces(
        np.array([[1, 2, 30, 40], [0, 0, 5, 5]]), np.array([0.99, 0.9], np.float32), np.zeros((2, 5, 2), np.float32)
    )
    assert faces.detections() == [
        Detection((1.0, 2.0, 30.0, 40.0), float(np.float32(0.99))),
        Detection((0.0, 0.0, 5.0, 5.0), float(np.float32(0.9))),
    ]
    assert all(type(value) is float for face in faces.detections() for value in (*face.box, face.confidence))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_prepare_keeps_to_its_limits_for_any_size(height, width) -> None:
    pixels, scale = prepare(np.zeros((height, width, 3), np.uint8))
    shorter, longer = sorted(pixels.shape[:2])
    assert shorter == SHORTER_SIDE or (longer == LONGEST_SIDE and shorter < SHORTER_SIDE)
    assert longer <= LONGEST_SIDE
    assert shorter >= 1
    assert pixels.shape[0] == pytest.approx(height * scale, abs=1)


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (1, 1), (1024, 1024)])
def test_prepare_of_extreme_images(shape) -> None:
    pixels, _ = prepare(np.full((*shape, 3), 7, np.uint8))
    assert pixels.dtype == np.uint8
    assert max(pixels.shape[:2]) <= LONGEST_SIDE
    assert (pixels == 7).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.floats(0.1, 40),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1.0, 30.0, 1e4, 1e30]),
    st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38]), max_size=5),
)
def test_decode_of_nonsense_gives_sound_faces_or_none(height, width, scale, seed, size, nonsense) -> None:
    random = np.random.default_rng(seed)
    outputs = random_outputs(height, width, 0.3, seed)
    for output in (*outputs[1::3], *outputs[2::3]):
        output *= np.float32(size)
    for value in nonsense:
        for output in outputs:
            output[random.random(output.shape) < 0.02] = value
    faces = decode(outputs, (height, width), scale)
    assert len(faces.boxes) == len(faces.scores) == len(faces.landmarks)
    assert (faces.scores >= CONFIDENCE).all()
    assert (faces.scores <= 1).all()
    assert (np.diff(faces.scores) <= 0).all()
    assert (faces.boxes >= 0).all()
    assert (faces.boxes[:, 0::2] <= width / scale).all()
    assert (faces.boxes[:, 1::2] <= height / scale).all()
    assert not np.isnan(faces.landmarks).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5])
def test_outputs_that_are_all_nonsense_hold_no_face(value) -> None:
    outputs = [np.full_like(output, value) for output in empty_outputs(300, 200)]
    assert decode(outputs, (300, 200), 1.0).detections() == []


@pytest.mark.parametrize("head", [0, 1, 2])
def test_candidate_with_a_value_that_is_no_number_is_dropped_alone(head) -> None:
    outputs = empty_outputs(256, 256)
    for row in (2, 5):
        outputs[0][row, 4, ANCHORS_PER_CELL] = 0.95
    outputs[head][2, 4, ANCHORS_PER_CELL] = np.nan
    whole = empty_outputs(256, 256)
    whole[0][5, 4, ANCHORS_PER_CELL] = 0.95
    faces = decode(outputs, (256, 256), 1.0)
    assert faces.detections() == decode(whole, (256, 256), 1.0).detections()
    assert len(faces.scores) == 1


@pytest.mark.parametrize("log_side", [-5.0, 0.0, 88.0])
def test_flood_of_candidates_has_a_bounded_cost(log_side) -> None:
    outputs = random_outputs(1024, 1980, 1.0, seed=3)
    for boxes in outputs[1::3]:
        boxes.reshape(-1, 4)[:, 2:] = log_side
    start = time.process_time()
    faces = decode(outputs, (1024, 1980), 1.0)
    assert time.process_time() - start < 10  # about 1 s
    assert 0 < len(faces.scores) <= MAX_CANDIDATES


def test_faces_kept_overlap_by_less_than_the_limit() -> None:
    faces = decode(random_outputs(256, 256, 0.5, seed=9), (256, 256), 0.25)
    x1, y1, x2, y2 = faces.boxes.T.astype(float)
    widths = np.minimum(x2, x2[:, None]) - np.maximum(x1, x1[:, None]) + 1
    heights = np.minimum(y2, y2[:, None]) - np.maximum(y1, y1[:, None]) + 1
    shared = np.maximum(widths, 0) * np.maximum(heights, 0)
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    overlap = shared / (areas + areas[:, None] - shared)
    np.fill_diagonal(overlap, 0)
    assert len(faces.scores) > 10
    assert overlap.max() < OVERLAP + 0.06  # corners were cut to whole pixels


def test_the_longer_side_may_round_down_to_its_limit() -> None:
    """As the package decides: 1980.48 pixels are 1980, and those of 1980.6 are too many."""
    assert prepare(np.zeros((91, 176, 3), np.uint8))[1] == 1024 / 91
    assert prepare(np.zeros((76, 147, 3), np.uint8))[1] == 1980 / 147


def test_a_candidate_that_is_just_sure_enough_is_a_face() -> None:
    outputs = empty_outputs(256, 256)
    least = np.float32(CONFIDENCE)
    outputs[0][2, 4, ANCHORS_PER_CELL], outputs[0][5, 4, ANCHORS_PER_CELL] = least, np.nextafter(least, np.float32(0))
    assert decode(outputs, (256, 256), 1.0).scores.tolist() == [least]


def test_of_equally_sure_candidates_the_first_of_the_outputs_goes_first() -> None:
    outputs = empty_outputs(256, 1024)
    outputs[6][::4, ::4, ANCHORS_PER_CELL + 1] = 0.95  # strides of 8: squares of 16 pixels, 32 apart
    faces = decode(outputs, (256, 1024), 1.0)
    expected = [(32 * column, 32 * row) for row in range(8) for column in range(32)]
    assert [tuple(box[:2]) for box in faces.boxes.tolist()] == expected


@pytest.mark.parametrize(("shift", "faces"), [(3 / 16, 1), (4 / 16, 2)])
def test_faces_that_overlap_by_just_the_limit_are_one(shift: float, faces: int) -> None:
    """In an image of 10 × 10 pixels, columns 0 to 6 and columns 3 to 9 share 40 of 100 pixels."""
    outputs = empty_outputs(10, 10)
    for row, column, offset, score in ((0, 0, -9 / 16, 0.99), (0, 1, shift - 8 / 16, 0.95)):
        outputs[6][row, column, ANCHORS_PER_CELL + 1] = score
        outputs[7][row, column, 4] = offset
    assert len(decode(outputs, (10, 10), 1.0).scores) == faces


def test_certainty_is_a_probability() -> None:
    outputs = empty_outputs(256, 256)
    outputs[0][2, 4, ANCHORS_PER_CELL] = 1
    outputs[0][5, 4, ANCHORS_PER_CELL] = np.nextafter(np.float32(1), np.float32(2))
    assert decode(outputs, (256, 256), 1.0).scores.tolist() == [1]


def test_faces_without_area_do_not_overlap() -> None:
    outputs = empty_outputs(256, 256)
    outputs[6][3, 5, ANCHORS_PER_CELL:] = 0.95, 0.99
    outputs[7][3, 5] = [0, 0, -200, -200] * 2
    assert decode(outputs, (256, 256), 1.0).scores.tolist() == [np.float32(0.99), np.float32(0.95)]
