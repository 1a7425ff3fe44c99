"""Makes golden.npz beside this file: what the PyPI package `retina-face` gives, for tests/test_retinaface*.py.

Run it from the top of the project in an environment of its own, as TensorFlow asks for other versions than ours:

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install retina-face tensorflow-cpu tf-keras torch safetensors h5py pillow "numpy<2"
    PYTHONPATH=. /tmp/golden/bin/python tests/golden/retinaface/make_golden.py

Made with retina-face 0.0.19, TensorFlow 2.21.0, NumPy 1.26.4, OpenCV 4.11.0. Keys:

- `network/NAME/image`, `network/NAME/OUTPUT`: pixels that the network is fed, and its nine outputs, with the seeded
  weights of `networks.faces.retinaface_weights.write_random_retinaface`.
- `prepare/HxW`: of `noise(H, W)`, what the package feeds its network: height, width, CRC-32 of the pixels (RGB uint8)
  and, in `prepare/HxW/scale`, the factor.
- `detect/NAME/size` (of the image), `…/OUTPUT` (crafted network outputs), `…/boxes`, `…/scores`, `…/landmarks`: what
  `detect_faces` makes of them, in the order of its keys.
"""

import os
import tempfile
import zlib
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import cv2
import numpy as np
from numpy.typing import NDArray
from retinaface import RetinaFace
from retinaface.commons import preprocess
from retinaface.model import retinaface_model

from ensemble.faces.retinaface import OUTPUTS, STRIDES
from networks.faces.retinaface_weights import write_random_retinaface

HERE = Path(__file__).parent
PHOTOGRAPH = HERE.parent / "images" / "02_face_edge.png"
LANDMARKS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")


class Output(np.ndarray):  # type: ignore[type-arg]
    """An array that passes for a tensor of any of the package's backends."""

    def numpy(self) -> NDArray[np.float32]:
        return np.array(self)


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """A seeded image: uint8 [height, width, 3]."""
    return np.random.RandomState(height * 10_000 + width).randint(0, 256, (height, width, 3)).astype(np.uint8)


def network_cases() -> dict[str, NDArray[np.generic]]:
    photograph = cv2.cvtColor(cv2.imread(str(PHOTOGRAPH)), cv2.COLOR_BGR2RGB)
    images = {"even": photograph[40:136, 60:188], "odd": photograph[20:95, 30:131]}
    retinaface_model.load_weights = lambda model: model
    model = retinaface_model.build_model()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "retinaface.h5"
        write_random_retinaface(weights)
        model.load_weights(str(weights), by_name=True)
    cases: dict[str, NDArray[np.generic]] = {}
    for name, image in images.items():
        cases[f"network/{name}/image"] = image
        for output, values in zip(OUTPUTS, model(image[None].astype(np.float32)), strict=True):
            cases[f"network/{name}/{output}"] = values.numpy()
    return cases


def prepare_cases() -> dict[str, NDArray[np.generic]]:
    cases: dict[str, NDArray[np.generic]] = {}
    for height, width in (
        (256, 256),
        (37, 50),
        (50, 37),
        (20, 90),
        (90, 20),
        (1, 1),
        (1024, 1024),
        (1300, 1100),
        (600, 2100),
    ):
        pixels, size, scale = preprocess.preprocess_image(noise(height, width)[:, :, ::-1], True)
        checksum = zlib.crc32(np.ascontiguousarray(pixels[0].astype(np.uint8)))
        cases[f"prepare/{height}x{width}"] = np.array([*size, checksum])
        cases[f"prepare/{height}x{width}/scale"] = np.array(scale)
    return cases


def outputs_for(size: tuple[int, int]) -> list[NDArray[np.float32]]:
    """Network outputs without a face for an image of this size, once it is scaled."""
    height, width = preprocess.preprocess_image(np.zeros((*size, 3), np.uint8), True)[1]
    return [
        np.zeros((1, -(-height // stride), -(-width // stride), channels), np.float32)
        for stride in STRIDES
        for channels in (4, 8, 20)
    ]


def scatter(outputs: list[NDArray[np.float32]], random: np.random.RandomState, faces: int, lowest: float) -> None:
    """Puts clusters of candidates that agree on a face, more or less, at each stride of some places of the image."""
    for _ in range(faces):
        x, y = random.uniform(0, 1, 2) * outputs[6].shape[2:0:-1] * STRIDES[-1]
        side = random.uniform(30, 400)
        for level, stride in enumerate(STRIDES):
            probabilities, boxes, landmarks = outputs[3 * level : 3 * level + 3]
            _, rows, columns, _ = boxes.shape
            for _ in range(random.randint(5, 40)):
                row = int(np.clip(y / stride + random.randint(-3, 4), 0, rows - 1))
                column = int(np.clip(x / stride + random.randint(-3, 4), 0, columns - 1))
                anchor = random.randint(2)
                anchor_side = stride**2 / 2 / (1 + anchor)
                shift = np.array([x / stride - column, y / stride - row]) * stride / anchor_side
                offsets = np.concatenate((shift, np.log([side / anchor_side, side / anchor_side])))
                probabilities[0, row, column, 2 + anchor] = random.uniform(lowest, 1)
                boxes[0, row, column, 4 * anchor : 4 * anchor + 4] = offsets + random.normal(0, 0.1, 4)
                landmarks[0, row, column, 10 * anchor : 10 * anchor + 10] = random.normal(0, 0.3, 10)


def detect_cases() -> dict[str, NDArray[np.generic]]:
    settings = {  # size of the image, faces, lowest score, factor on the offsets
        "faces": ((256, 256), 6, 0.7, 1.0),
        "wide": ((90, 400), 4, 0.7, 1.0),
        "shrunk": ((1500, 2600), 12, 0.7, 1.0),
        "leaving": ((300, 200), 5, 0.7, 12.0),
    }
    cases: dict[str, NDArray[np.generic]] = {}
    for number, (name, (size, faces, lowest, factor)) in enumerate(settings.items()):
        outputs = outputs_for(size)
        scatter(outputs, np.random.RandomState(number), faces, lowest)
        for values in (*outputs[1::3], *outputs[2::3]):
            values *= factor
        cases |= detect_case(name, size, outputs)

    outputs = outputs_for((256, 256))
    outputs[0][0, 9, 9, 2] = np.nextafter(np.float32(0.9), np.float32(0))
    cases |= detect_case("none", (256, 256), outputs)

    # Equal scores, few enough for the package's sort to be stable; and boxes that overlap by 0.4 but for rounding.
    outputs = outputs_for((1024, 1024))
    places = ((0, 3, 4, 0), (0, 20, 20, 1), (0, 21, 20, 1), (1, 10, 50, 0), (2, 100, 9, 1), (2, 9, 90, 0))
    for level, row, column, anchor in places:
        outputs[3 * level][0, row, column, 2 + anchor] = 0.95
    outputs[6][0, 60, 60, 2] = 0.99
    outputs[6][0, 60, 61, 2] = 0.98
    outputs[7][0, 60, 61, :4] = (19.2 / 1.4 / 32 - 0.25, 0, 0, 0)
    return cases | detect_case("ties", (1024, 1024), outputs)


def detect_case(name: str, size: tuple[int, int], outputs: list[NDArray[np.float32]]) -> dict[str, NDArray[np.generic]]:
    answer = [values.copy().view(Output) for values in outputs]
    faces = RetinaFace.detect_faces(np.zeros((*size, 3), np.uint8), model=lambda pixels: answer)
    listed = [faces[f"face_{number + 1}"] for number in range(len(faces))]
    print(f"{name}: {sum((values[..., 2:] >= 0.9).sum() for values in outputs[0::3])} candidates, {len(listed)} faces")
    key = f"detect/{name}"
    return {
        f"{key}/size": np.array(size),
        **{f"{key}/{output}": values[0] for output, values in zip(OUTPUTS, outputs, strict=True)},
        f"{key}/boxes": np.array([face["facial_area"] for face in listed], np.int64).reshape(-1, 4),
        f"{key}/scores": np.array([face["score"] for face in listed], np.float32),
        f"{key}/landmarks": np.array(
            [[face["landmarks"][point] for point in LANDMARKS] for face in listed], np.float32
        ).reshape(-1, 5, 2),
    }


if __name__ == "__main__":
    np.savez_compressed(HERE / "golden.npz", **network_cases(), **prepare_cases(), **detect_cases())
