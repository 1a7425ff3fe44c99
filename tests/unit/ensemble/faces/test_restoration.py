"""The cascade of restored images, against golden data and on images of every size."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.faces import restoration
from ensemble.faces.restoration import ATTEMPTS, Attempt, restored_images
from tests.golden import GOLDEN, read_rgb

METHOD = GOLDEN / "method"
NAMES = [attempt.name for attempt in ATTEMPTS]
BOXES = json.loads((METHOD / "cascade_boxes.json").read_text())


@pytest.mark.parametrize("image", ["03_face_jpeg", "04_face_noise"])
def test_restored_images_equal_the_golden_ones_in_the_golden_order(image) -> None:
    golden = sorted(METHOD.glob(f"cascade_{image}_*.png"))
    assert [path.stem.removeprefix(f"cascade_{image}_") for path in golden] == [
        f"{number:02d}_{name}" for number, name in enumerate(NAMES)
    ]
    original = read_rgb(GOLDEN / "images" / f"{image}.png")
    before = original.copy()
    for path, (attempt, restored) in zip(golden, restored_images(original), strict=True):
        assert restored.dtype == np.uint8
        np.testing.assert_array_equal(restored, read_rgb(path), err_msg=attempt.name)
    np.testing.assert_array_equal(original, before)


@pytest.mark.parametrize("case", BOXES, ids=[case["strategy"] for case in BOXES])
def test_box_of_an_attempt_maps_back_as_the_golden_one(case) -> None:
    attempt = ATTEMPTS[NAMES.index(case["strategy"])]
    assert attempt.to_image(tuple(case["box_in_strategy_image"]), (256, 256, 3)) == tuple(case["box_in_original"])


def test_boxes_cover_every_attempt() -> None:
    assert [case["strategy"] for case in BOXES] == NAMES


@pytest.mark.parametrize(("height", "width"), [(40, 100), (100, 40), (1, 7)])
def test_corners_of_a_restored_image_map_to_where_they_lie_in_the_original(height, width) -> None:
    image = np.full((height, width, 3), 90, np.uint8)
    for attempt, restored in restored_images(image):
        rows, columns = restored.shape[:2]
        outside = int(0.2 * max(height, width)) if attempt.name == "pad_equalize" else 0
        assert attempt.to_image((0, 0, columns, rows), image.shape) == (
            -outside,
            -outside,
            width + outside,
            height + outside,
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["noise", "black", "white"]))
def test_any_size_from_one_pixel_up_is_restored(height, width, content) -> None:
    fill = {"noise": np.random.default_rng(height).integers(0, 256, (height, width, 3)), "black": 0, "white": 255}
    image = np.broadcast_to(fill[content], (height, width, 3)).astype(np.uint8)
    shapes = {attempt.name: restored.shape for attempt, restored in restored_images(image)}
    padded = 2 * int(0.2 * max(height, width))
    special = {
        "gamma_upscale_unsharp": (2 * height, 2 * width, 3),
        "pad_equalize": (height + padded, width + padded, 3),
    }
    assert shapes == {name: special.get(name, (height, width, 3)) for name in NAMES}


def test_attempts_are_made_only_when_asked_for_and_shared_work_once(monkeypatch) -> None:
    calls = []
    denoise = restoration.cv2.fastNlMeansDenoisingColored
    monkeypatch.setattr(
        restoration.cv2, "fastNlMeansDenoisingColored", lambda *args: calls.append(args) or denoise(*args)
    )
    made = restored_images(np.zeros((8, 8, 3), np.uint8))
    for attempt, _ in made:
        if attempt.name == "sharpen_clahe":
            break
    assert calls == []
    list(made)
    assert len(calls) == 1


def test_attempts_can_be_put_between_and_build_on_earlier_ones() -> None:
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    after = NAMES.index("median9") + 1
    inverted = Attempt("inverted_median9", lambda pixels: 255 - pixels, source="median9")
    made = {a.name: pixels for a, pixels in restored_images(image, (*ATTEMPTS[:after], inverted, *ATTEMPTS[after:]))}
    np.testing.assert_array_equal(made["inverted_median9"], 255 - made["median9"])
    assert list(made) == [*NAMES[:after], "inverted_median9", *NAMES[after:]]


def test_attempt_before_its_source_is_an_error() -> None:
    orphan = next(attempt for attempt in ATTEMPTS if attempt.name == "nlmeans_clahe")
    with pytest.raises(KeyError, match="nlmeans"):
        list(restored_images(np.zeros((4, 4, 3), np.uint8), [orphan]))
