"""Detection by networks that run elsewhere, which detector a step takes, and every face as an image of its own."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ensemble.faces import gfpgan, haar, retinaface
from ensemble.faces.crop import crop_face
from ensemble.faces.detection import Detection
from ensemble.faces.every import SMALLEST_SIDE, every_face, longer_side
from ensemble.faces.haar import HaarDetector
from ensemble.faces.restoration import ATTEMPTS, Attempt
from ensemble.faces.served import ServedRetinaFace, choose_attempts, choose_detector, infer_in


class Network:
    """Stands for the served RetinaFace: one face on each image, at a place that tells which image it was."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, model: str, name: str, outputs: Sequence[str], pixels: np.ndarray) -> list[np.ndarray]:
        self.asked.append((model, name, tuple(outputs), pixels.shape))
        if self.fails:
            return []
        count, height, width, _ = pixels.shape
        maps = [
            np.zeros((count, -(-height // stride), -(-width // stride), channels), np.float32)
            for stride in retinaface.STRIDES
            for channels in (4, 8, 20)
        ]
        for number, image in enumerate(pixels):
            maps[0][number, 1, int(image[0, 0, 0]), retinaface.ANCHORS_PER_CELL + 1] = 0.95
        return maps


def picture(place: int, height: int = 64, width: int = 64) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[:] = place
    return image


def test_images_of_one_size_go_together_and_every_one_has_its_own_faces() -> None:
    network = Network()
    places = [10, 12, 14, 16, 18, 20, 22]
    images = [picture(place, width=96 if place == 14 else 64) for place in places]
    found = ServedRetinaFace(network).detect(images)
    shapes = [shape for *_, shape in network.asked]
    assert sorted(shape[0] for shape in shapes) == [1, 2, 4]  # at most four at once
    assert max(shape[0] for shape in shapes) == retinaface.MAX_BATCH_SIZE
    assert {asked[:3] for asked in network.asked} == {("face_detector", retinaface.INPUT, retinaface.OUTPUTS)}
    centres = []
    for faces, image in zip(found, images, strict=True):
        (face,) = faces
        assert face.confidence == pytest.approx(0.95)
        x1, _, x2, _ = face.box
        assert x2 < image.shape[1]  # in pixels of the image, not of what the network saw
        centres.append((x1 + x2) / 2)
    assert centres == sorted(centres)  # each image has the face that was found on it
    assert centres[1] - centres[0] == pytest.approx(2 * 32 / 16, abs=1)  # the network saw it 16 times as large


def test_all_faces_of_an_image_are_found() -> None:
    class Crowd(Network):
        def __call__(self, *arguments: Any) -> list[np.ndarray]:
            maps = super().__call__(*arguments)
            maps[0][:, 20, 30, retinaface.ANCHORS_PER_CELL + 1] = 0.97
            return maps

    ((first, second),) = ServedRetinaFace(Crowd()).detect([picture(10)])
    assert (first.confidence, second.confidence) == (pytest.approx(0.97), pytest.approx(0.95))


def test_where_the_network_fails_these_images_have_no_face() -> None:
    assert ServedRetinaFace(Network(fails=True)).detect([picture(1), picture(2)]) == [[], []]
    assert ServedRetinaFace(Network()).detect([]) == []


def test_the_detector_is_the_repository_s_best_or_the_one_asked_for(tmp_path: Path) -> None:
    network = Network()
    assert isinstance(choose_detector("auto", "step", tmp_path, network), HaarDetector)
    assert isinstance(choose_detector("haar", "step", tmp_path, network), HaarDetector)
    with pytest.raises(ValueError, match=r"parameter detector of step is 'retinaface', and .*face_detector is missing"):
        choose_detector("retinaface", "step", tmp_path, network)
    with pytest.raises(ValueError, match="parameter detector of step is 'other'; it must be auto, retinaface or haar"):
        choose_detector("other", "step", tmp_path, network)
    (tmp_path / "face_detector").mkdir()
    assert isinstance(choose_detector("auto", "step", tmp_path, network), ServedRetinaFace)
    assert isinstance(choose_detector("retinaface", "step", tmp_path, network), ServedRetinaFace)
    assert isinstance(choose_detector("haar", "step", tmp_path, network), HaarDetector)


def test_a_detector_without_its_file_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haar, "_CASCADE", tmp_path / "cascade.xml")
    with pytest.raises(FileNotFoundError, match=r"cascade\.xml is missing; install opencv-python-headless"):
        HaarDetector()


def test_attempts_with_gfpgan_are_made_where_both_its_models_are(tmp_path: Path) -> None:
    network = Network()
    assert choose_attempts("all", "step", tmp_path, network) == ATTEMPTS
    (tmp_path / "face_aligner").mkdir()
    assert choose_attempts("all", "step", tmp_path, network) == ATTEMPTS
    (tmp_path / "face_restorer").mkdir()
    attempts = choose_attempts("all", "step", tmp_path, network)
    assert [attempt.name for attempt in attempts if attempt not in ATTEMPTS] == [
        "gfpgan",
        "gfpgan_bilateral",
        "gfpgan_median9",
    ]
    assert [each.name for each in choose_attempts("1", "step", tmp_path, network)] == ["raw"]
    assert [each.name for each in choose_attempts("3", "step", tmp_path, network)] == ["raw", "bilateral", "median9"]
    assert len(choose_attempts(str(len(attempts)), "step", tmp_path, network)) == len(attempts)


@pytest.mark.parametrize("setting", ["0", "11", "-1", "some", "", "1.0", "²"])
def test_no_other_number_of_attempts_is_taken(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ValueError, match=f"parameter attempts of step is {setting!r}; it must be all, or 1 to 10"):
        choose_attempts(setting, "step", tmp_path, Network())


def test_faces_are_restored_by_the_aligner_and_then_the_restorer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("face_aligner", "face_restorer"):
        (tmp_path / name).mkdir()
    asked = []

    def infer(*arguments: Any) -> list[Any]:
        asked.append(arguments)
        return []

    def restore(image: Any, align: Any, restore_aligned: Any) -> Any:
        align("a"), restore_aligned("b")
        return image

    monkeypatch.setattr(gfpgan, "restore_faces", restore)
    (attempt,) = (each for each in choose_attempts("all", "step", tmp_path, infer) if each.name == "gfpgan")
    image = picture(1)
    assert attempt.restore(image) is image
    assert asked == [
        ("face_aligner", gfpgan.ALIGNER_INPUT, gfpgan.ALIGNER_OUTPUTS, "a"),
        ("face_restorer", gfpgan.RESTORER_INPUT, gfpgan.RESTORER_OUTPUTS, "b"),
    ]


def test_a_network_of_the_same_server_is_asked_and_its_failure_is_an_error_in_the_log() -> None:
    """It costs these images their faces, which nobody would see otherwise."""
    asked: list[dict[str, Any]] = []
    logged: list[str] = []
    failure: list[str] = []
    answer = SimpleNamespace(has_error=lambda: bool(failure), error=lambda: SimpleNamespace(message=lambda: failure[0]))

    def request(**about: Any) -> Any:
        asked.append(about)
        return SimpleNamespace(exec=lambda: answer)

    backend = SimpleNamespace(
        InferenceRequest=request,
        Tensor=lambda name, pixels: (name, pixels.shape, pixels.flags["C_CONTIGUOUS"]),
        PreferredMemory=lambda kind: kind,
        TRITONSERVER_MEMORY_CPU="cpu",
        Logger=SimpleNamespace(log_error=logged.append),
        get_output_tensor_by_name=lambda response, name: SimpleNamespace(as_numpy=lambda: np.array([name])),
    )
    infer = infer_in(backend)
    pixels = picture(1)[:, ::2][None]
    assert [value.item() for value in infer("net", "PIXELS", ("ONE", "OTHER"), pixels)] == ["ONE", "OTHER"]
    assert asked[0] == {
        "model_name": "net",
        "requested_output_names": ["ONE", "OTHER"],
        "inputs": [("PIXELS", (1, 64, 32, 3), True)],
        "preferred_memory": "cpu",
    }
    assert logged == []
    failure.append("out of memory")
    assert infer("net", "PIXELS", ("ONE",), pixels) == []
    assert logged == ["net failed, no face is assumed: out of memory"]


class Known:
    """Finds what it is told to, on the first attempt."""

    name = "known"

    def __init__(self, *faces: Detection) -> None:
        self.faces = faces

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        return [list(self.faces) for _ in images]


def test_every_face_that_is_large_enough_is_an_image_of_its_own_the_surest_first() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    unsure = Detection((50.0, 60.0, 50.0 + SMALLEST_SIDE, 80.0), 0.5)  # just large enough
    small = Detection((10.0, 10.0, 10.0 + SMALLEST_SIDE - 1, 12.0 + SMALLEST_SIDE - 3), 0.9)
    sure = Detection((200.0, 100.0, 300.0, 260.0), 0.8)
    attempts: Sequence[Attempt] = ATTEMPTS[:1]
    (faces,) = every_face([image], Known(small, unsure, sure), [attempts])
    assert (faces.source, faces.found) == ("raw", 3)
    assert [frame.box for frame in faces.frames] == [sure.box, unsure.box]
    assert [frame.confidence for frame in faces.frames] == [0.8, 0.5]
    for frame in faces.frames:
        np.testing.assert_array_equal(frame.frame, crop_face(image, frame.box))
    x1, y1, x2, y2 = faces.frames[0].frame_box
    scale = 256 / 208  # 1.3 times the longer side of 160 pixels
    assert (x2 - x1, y2 - y1) == (pytest.approx(100 * scale), pytest.approx(160 * scale))
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == (pytest.approx(128, abs=2), pytest.approx(128, abs=2))


def test_a_picture_without_faces_has_none() -> None:
    (faces,) = every_face([picture(0)], Known(), [ATTEMPTS[:1]])
    assert (faces.source, faces.found, list(faces.frames)) == ("none", 0, [])


def test_the_longer_side_of_a_box() -> None:
    assert longer_side((1.0, 2.0, 4.0, 9.0)) == 7.0
    assert longer_side((1.0, 2.0, 9.0, 4.0)) == 8.0
