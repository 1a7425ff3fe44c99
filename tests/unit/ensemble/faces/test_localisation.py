"""The cascade of attempts around a detector: order, first hit, boxes in the original image, bounded cost."""

import json
import math

import cv2
import numpy as np
import pytest

from ensemble import status
from ensemble.faces.detection import Detection
from ensemble.faces.haar import HaarDetector
from ensemble.faces.localisation import RESTORED_PIXELS, FaceLocation, cut_to_face, locate_faces
from ensemble.faces.restoration import ATTEMPTS, with_face_restoration
from ensemble.images import ImageError, RgbImage
from tests.golden import GOLDEN, IMAGES, read_rgb

CASCADE_BOXES = json.loads((GOLDEN / "method" / "cascade_boxes.json").read_text())
NOISY = read_rgb(GOLDEN / "images" / "04_face_noise.png")


class RecordingDetector:
    """Finds `box` in the view number `hit` of each call sequence, and keeps what it was shown."""

    name = "recording"

    def __init__(self, hit: int, *boxes: tuple[float, ...]) -> None:
        self.hit = hit
        self.boxes = boxes
        self.views: list[list[RgbImage]] = []

    def detect(self, images: list[RgbImage]) -> list[list[Detection]]:
        self.views.append(list(images))
        found = [Detection(tuple(map(float, box)), 0.95) for box in self.boxes]
        return [found if len(self.views) - 1 == self.hit else [] for _ in images]


@pytest.mark.parametrize("case", CASCADE_BOXES, ids=lambda case: case["strategy"])
def test_each_attempt_sees_the_golden_image_and_maps_its_box_back(case: dict) -> None:
    number = [attempt.name for attempt in ATTEMPTS].index(case["strategy"])
    detector = RecordingDetector(number, case["box_in_strategy_image"])
    [location] = locate_faces([NOISY], [None], detector)
    golden = next((GOLDEN / "method").glob(f"cascade_04_face_noise_*_{case['strategy']}.png"))
    assert len(detector.views) == number + 1
    np.testing.assert_array_equal(detector.views[-1][0], read_rgb(golden))
    x1, y1, x2, y2 = case["box_in_original"]
    if (x2 - x1) * (y2 - y1) < 256 * 256 / 9:
        assert (location.box, location.source) == (None, "too_small")
    else:
        assert list(location.box) == case["box_in_original"]
        assert location.source == case["strategy"]
    assert location.confidence == 0.95


def test_the_number_of_attempts_is_a_setting() -> None:
    for count in (1, 3, len(ATTEMPTS)):
        detector = RecordingDetector(-1)
        [location] = locate_faces([NOISY], [None], detector, ATTEMPTS[:count])
        assert location.source == "none"
        assert len(detector.views) == count


def test_only_images_without_a_face_yet_are_searched_further() -> None:
    class FindsBright(RecordingDetector):
        def detect(self, images: list[RgbImage]) -> list[list[Detection]]:
            self.views.append(list(images))
            return [[Detection((50, 50, 200, 200), 0.99)] if image.mean() > 128 else [] for image in images]

    dark, bright = np.full((256, 256, 3), 20, np.uint8), np.full((256, 256, 3), 220, np.uint8)
    detector = FindsBright(-1)
    locations = locate_faces([dark, bright, dark, bright], [None, None, (40, 40, 200, 200), None], detector)
    assert [len(views) for views in detector.views[:2]] == [3, 1]
    assert [location.source for location in locations][1:] == ["raw", "supplied", "raw"]


def test_a_large_image_is_restored_small_and_its_box_comes_back_large() -> None:
    photo = cv2.resize(read_rgb(IMAGES[1]), (2560, 2560))
    detector = RecordingDetector(1, (300, 300, 700, 800))
    [location] = locate_faces([photo], [None], detector)
    assert detector.views[0][0] is photo
    assert detector.views[1][0].shape == (1000, 1000, 3)
    assert detector.views[1][0].size <= 3 * RESTORED_PIXELS
    np.testing.assert_allclose(location.box, np.array([300, 300, 700, 800]) * 2.56)


def test_a_box_in_the_padded_version_of_a_large_image_comes_back_to_where_it_lies() -> None:
    """That version is padded by a share of the reduced image's side, not of the image's own."""
    photo = cv2.resize(read_rgb(IMAGES[1]), (2560, 2560))
    number = [attempt.name for attempt in ATTEMPTS].index("pad_equalize")
    detector = RecordingDetector(number, (500, 400, 1000, 900))
    [location] = locate_faces([photo], [None], detector)
    assert detector.views[number][0].shape == (1400, 1400, 3)
    np.testing.assert_allclose(location.box, (np.array([500, 400, 1000, 900]) - 200) * 2.56)
    assert location.source == "pad_equalize"


def test_a_large_image_that_is_no_square_is_reduced_by_area_and_keeps_its_shape() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (1280, 3200, 3), np.uint8)
    detector = RecordingDetector(1, (900, 100, 1500, 600))
    [location] = locate_faces([photo], [None], detector)
    reduced = cv2.resize(photo, (1581, 632), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(detector.views[1][0], ATTEMPTS[1].restore(reduced))
    scale = np.sqrt(1280 * 3200 / 1_000_000)
    np.testing.assert_allclose(location.box, np.array([900, 100, 1500, 600]) * scale)


def test_each_image_has_its_own_centre_and_borders() -> None:
    """A face beside the height, and within the width; two of which the second contains its own image's centre alone."""
    images = [np.zeros((100, 100, 3), np.uint8), np.zeros((100, 400, 3), np.uint8)]
    boxes = [(20, 20, 80, 80), (160, 0, 240, 100), (250, 10, 330, 90)]
    first, second = locate_faces(images, [None, None], RecordingDetector(0, *boxes), ATTEMPTS[:1])
    assert (first.box, second.box) == ((20, 20, 80, 80), (160, 0, 240, 100))
    assert locate_faces(images[1:], [None], RecordingDetector(0, boxes[2]), ATTEMPTS[:1])[0].box == boxes[2]


@pytest.mark.parametrize(("height", "width"), [(256, 300), (300, 256)])
def test_only_an_image_of_256_by_256_is_its_own_frame(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    face = FaceLocation((100.0, 100.0, 150.0, 150.0), 0.9, "raw")
    framed, in_frame = cut_to_face(image, face)
    assert framed.shape == (256, 256, 3)
    assert in_frame.box != face.box
    assert (in_frame.confidence, in_frame.source) == (0.9, "raw")


def test_an_image_of_256_by_256_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    face = FaceLocation((100.0, 100.0, 150.0, 150.0), 0.9, "raw")
    framed, in_frame = cut_to_face(image, face)
    np.testing.assert_array_equal(framed, image)
    assert in_frame == face


def test_nothing_to_search_calls_no_detector() -> None:
    detector = RecordingDetector(0)
    assert locate_faces([], [], detector) == []
    locate_faces([NOISY], [(10, 10, 200, 200)], detector)
    assert detector.views == []


def _noisy(photo: RgbImage) -> RgbImage:
    return np.clip(photo + np.random.default_rng(3).normal(0, 130, photo.shape), 0, 255).astype(np.uint8)


def _dark(photo: RgbImage) -> RgbImage:
    return (photo * 0.05).astype(np.uint8)


@pytest.mark.parametrize("degrade", [_noisy, _dark])
def test_a_restored_version_shows_what_the_image_hides(degrade) -> None:
    image = degrade(read_rgb(GOLDEN / "images" / "01_face_close.png"))
    [raw_only] = locate_faces([image], [None], HaarDetector(), ATTEMPTS[:1])
    [location] = locate_faces([image], [None], HaarDetector())
    assert raw_only.source == "none"
    assert location.source in {attempt.name for attempt in ATTEMPTS[1:]}
    x1, y1, x2, y2 = location.box
    assert 90 < (x1 + x2) / 2 < 150
    assert 90 < (y1 + y2) / 2 < 155


def test_an_image_gives_the_same_in_any_company() -> None:
    rng = np.random.default_rng(0)
    images = [
        cv2.resize(read_rgb(path), None, fx=f, fy=f)
        for path, f in zip(IMAGES, (1, 0.5, 2, 1, 1.3, 1, 0.2, 1), strict=True)
    ]
    images += [np.clip(image + rng.normal(0, 60, image.shape), 0, 255).astype(np.uint8) for image in images[:4]]
    alone = [locate_faces([image], [None], HaarDetector())[0] for image in images]
    assert locate_faces(images, [None] * len(images), HaarDetector()) == alone
    assert locate_faces(images[::-1], [None] * len(images), HaarDetector())[::-1] == alone


def test_face_restoration_takes_its_place_in_the_order() -> None:
    attempts = with_face_restoration(lambda image: image)
    names = [attempt.name for attempt in attempts]
    assert [attempt.source for attempt in attempts[3:6]] == ["raw", "bilateral", "median9"]
    assert names[:7] == ["raw", "bilateral", "median9", "gfpgan", "gfpgan_bilateral", "gfpgan_median9", "sharpen_clahe"]
    assert len(names) == 13


def test_a_restored_face_is_found_by_the_attempt_that_restored_it() -> None:
    given: list[RgbImage] = []

    def restore(image: RgbImage) -> RgbImage:
        given.append(image)
        return image if len(given) == 1 else 255 - image

    detector = RecordingDetector(3, (50, 50, 200, 200))
    [location] = locate_faces([NOISY], [None], detector, with_face_restoration(restore))
    # The first restoration changed nothing, so that nothing was detected anew on its image.
    assert location.source == "gfpgan_bilateral"
    np.testing.assert_array_equal(given[0], NOISY)
    np.testing.assert_array_equal(given[1], detector.views[1][0])
    np.testing.assert_array_equal(detector.views[3][0], 255 - given[1])


BOX = (1.5, -2.0, 30.25, 40.0)


@pytest.mark.parametrize(
    "location",
    [
        FaceLocation(BOX, 0.75, "raw"),
        FaceLocation(BOX, None, "supplied"),
        FaceLocation(None, 0.5, "too_small"),
        FaceLocation(None, None, "none"),
    ],
)
def test_a_location_is_the_same_at_the_next_step(location: FaceLocation) -> None:
    assert FaceLocation.from_bytes(location.to_bytes()) == location


@pytest.mark.parametrize(
    "change",
    [
        {"confidence": math.nan},
        {"confidence": math.inf},
        {"confidence": "high"},
        {"box": [1, 2, 3]},
        {"box": [1, 2, 3, math.inf]},
        {"box": 7},
        {"source": None},
        {"source": "no name!"},
        {"confidence": 10**400},
    ],
)
def test_a_location_that_a_stranger_wrote_is_refused(change: dict[str, object]) -> None:
    found = json.loads(FaceLocation(BOX, 0.75, "raw").to_bytes()) | change
    with pytest.raises(ImageError) as caught:
        FaceLocation.from_bytes(json.dumps(found).encode())
    assert caught.value.status == status.UNREADABLE_IMAGE
