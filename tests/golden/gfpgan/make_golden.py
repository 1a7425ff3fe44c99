"""Makes golden.npz and layouts.json beside this file: what the PyPI packages give, for tests/test_gfpgan*.py.

Run it from the top of the project in an environment that has this project's dependencies (torch without CUDA):

    pip download --no-deps --dest /tmp/packages gfpgan==1.3.8 facexlib==0.3.0 basicsr==1.4.2 torchvision==0.20.1
    cd /tmp/packages && for wheel in *.whl; do unzip -q "$wheel"; done && tar xf basicsr-1.4.2.tar.gz && cd -
    PYTHONPATH=.:/tmp/packages:/tmp/packages/basicsr-1.4.2 python tests/golden/gfpgan/make_golden.py

All of the packages that face restoration uses is run as it is, `GFPGANer.enhance` included. Around it,
`_import_packages` leaves out their other parts, which want CUDA or old libraries, and stands in for torchvision's
compiled non-maximum suppression. Three things are set: GFPGAN's noise is the stored one, its network and the parser
have few channels (`WIDTHS`), and where a face must be found, the detector's answer is given.

Made with torch 2.13.0, NumPy 1.26.4, OpenCV 4.11.0. Keys of golden.npz:

- `aligner/NAME/image`, `…/OUTPUT`: pixels, and the detector's outputs for them.
- `gan/restored`: GFPGAN's picture for 01_face_close.png scaled to 512×512, every 8th row and column.
- `parser/scores`: ParseNet's scores for the same, likewise.
- `detect/NAME/size` (of the image), `…/OUTPUT` (crafted network outputs), `…/landmarks`: of the faces to be restored.
- `landmarks/NAME`: faces of the image NAME, made up: upright and turned, at the border, too small, overlapping.
- `align/NAME`: CRC-32 of each aligned face (RGB).
- `paste/classes`, `paste/NAME`: a parsing, and the image into which the negatives of its faces were pasted by it.
- `enhance/NAME`: what `enhance` makes of the image.

layouts.json: names and shapes of the tensors in the packages' networks, at the published sizes.
"""

import importlib.util
import json
import os
import sys
import tempfile
import zlib
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ensemble.faces.gfpgan import ALIGNER_OUTPUTS, FACE_SIDE, STRIDES
from networks.faces.gfpgan_checkpoints import (
    ALIGNER_FILE,
    GFPGAN_FILE,
    PARSENET_FILE,
    write_random_face_aligner,
    write_random_gfpgan,
    write_random_parsenet,
)
from tests.golden import GOLDEN, read_rgb

HERE = Path(__file__).parent.resolve()
Arrays = dict[str, NDArray[np.generic]]
WIDTHS = {"gan": 32, "parser": 8}
FACES = {  # in an image: x, y of the middle, side and angle of each
    "01_face_close": [(128, 120, 170, 8)],
    "02_face_edge": [(205, 90, 120, -35), (60, 170, 45, 200), (30, 30, 6, 0), (262, 240, 90, 15)],
}


def main() -> None:
    """Writes both files."""
    packages = _import_packages()
    (HERE / "layouts.json").write_text(json.dumps(layouts(packages), separators=(",", ":")) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        weights = Path("gfpgan/weights")  # where the packages look for those of facexlib
        weights.mkdir(parents=True)
        write_random_gfpgan(weights / GFPGAN_FILE, WIDTHS["gan"])
        write_random_parsenet(weights / PARSENET_FILE, WIDTHS["parser"])
        write_random_face_aligner(weights / ALIGNER_FILE)
        restorer = _restorer(packages, weights / GFPGAN_FILE)
        golden = {
            **aligner_cases(restorer.face_helper),
            **network_cases(restorer),
            **detect_cases(restorer.face_helper),
            **align_and_paste_cases(restorer.face_helper),
            **enhance_cases(restorer),
        }
        os.chdir(HERE)
    np.savez_compressed(HERE / "golden.npz", **golden)


def photograph(name: str) -> NDArray[np.uint8]:
    """One of the golden images, RGB."""
    return read_rgb(GOLDEN / "images" / f"{name}.png")


def landmarks_of(name: str) -> NDArray[np.float32]:
    """The faces of an image, [n, 5, 2], none quite like the template."""
    random = np.random.RandomState(5)
    face = np.array([[-0.3, -0.3], [0.3, -0.3], [0.02, 0.05], [-0.25, 0.35], [0.26, 0.34]])
    found = []
    for x, y, side, angle in FACES[name]:
        cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        turned = face @ np.array([[cosine, sine], [-sine, cosine]]) * side
        found.append(turned + np.array((x, y)) + random.normal(0, side / 60, (5, 2)))
    return np.array(found, np.float32)


def parsing() -> NDArray[np.uint8]:
    """Of an aligned face: background, hair, skin, an eye and so on, up to the border."""
    classes = np.zeros((FACE_SIDE, FACE_SIDE), np.uint8)
    shapes = ((17, 230, 250), (1, 180, 230), (4, 30, 20), (13, 60, 30), (18, 90, 25), (15, 50, 60))
    for number, (value, across, along) in enumerate(shapes):
        centre = (256 + 9 * number, 270 - 31 * number if number > 1 else 256)
        cv2.ellipse(classes, centre, (across, along), 20, 0, 360, value, -1)
    classes[440:, :] = 14
    classes[470:, 100:300] = 15
    return classes


def layouts(packages: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the networks' tensors."""
    gan = packages["gfpgan"].GFPGANv1Clean(
        512, channel_multiplier=2, fix_decoder=False, input_is_latent=True, different_w=True, sft_half=True
    )
    parser = packages["parsing"].ParseNet(in_size=512, out_size=512, parsing_ch=19)
    aligner = packages["detection"].RetinaFace(device="cpu")
    networks = {GFPGAN_FILE: gan, PARSENET_FILE: parser, ALIGNER_FILE: aligner}
    return {
        file: {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        for file, network in networks.items()
    }


def aligner_cases(helper: Any) -> Arrays:
    """Outputs of the detector."""
    pixels = photograph("02_face_edge")
    golden: Arrays = {}
    for name, image in {"even": pixels[40:136, 60:188], "odd": pixels[20:95, 30:131]}.items():
        network_input = torch.from_numpy(image[None, :, :, ::-1].astype(np.float32).transpose(0, 3, 1, 2))
        with torch.no_grad():
            boxes, scores, landmarks = helper.face_det(network_input - helper.face_det.mean_tensor)
        outputs = (scores[0, :, 1], boxes[0], landmarks[0])
        golden[f"aligner/{name}/image"] = image
        for output, values in zip(ALIGNER_OUTPUTS, outputs, strict=True):
            golden[f"aligner/{name}/{output}"] = values.numpy()
    return golden


def network_cases(restorer: Any) -> Arrays:
    """Outputs of GFPGAN and ParseNet."""
    face = cv2.resize(photograph("01_face_close"), (FACE_SIDE, FACE_SIDE)).transpose(2, 0, 1)[None]
    network_input = (torch.from_numpy(face.astype(np.float32) / 255) - 0.5) / 0.5
    with torch.no_grad():
        restored = restorer.gfpgan(network_input, return_rgb=False, weight=0.5)[0]
        scores = restorer.face_helper.face_parse(network_input)[0]
    return {"gan/restored": restored[0, :, ::8, ::8].numpy(), "parser/scores": scores[0, :, ::8, ::8].numpy()}


def detect_cases(helper: Any) -> Arrays:
    """What the detector makes of its network's outputs, crafted: clusters of candidates that agree more or less."""
    settings = {  # size of the image, faces, factor on the offsets, side of the faces
        "faces": ((256, 256), 6, 1.0, (40, 160)),
        "wide": ((90, 400), 3, 1.0, (30, 80)),
        "small": ((130, 75), 6, 1.0, (6, 14)),
        "leaving": ((200, 150), 3, 8.0, (40, 160)),
        "none": ((64, 64), 0, 1.0, (1, 2)),
    }
    golden: Arrays = {}
    for number, (name, (size, faces, factor, sides)) in enumerate(settings.items()):
        outputs = crafted_outputs(size, faces, factor, sides, np.random.RandomState(number))
        scores, boxes, landmarks = (torch.from_numpy(output[None]) for output in outputs)
        answer = (boxes, torch.stack((1 - scores, scores), -1), landmarks)
        helper.face_det.forward = lambda pixels, answer=answer: answer
        helper.clean_all()
        helper.read_image(np.zeros((*size, 3), np.uint8))
        helper.get_face_landmarks_5(only_center_face=False, eye_dist_threshold=5)
        golden[f"detect/{name}/size"] = np.array(size)
        for output, values in zip(ALIGNER_OUTPUTS, outputs, strict=True):
            golden[f"detect/{name}/{output}"] = values
        golden[f"detect/{name}/landmarks"] = np.array(helper.all_landmarks_5, np.float32).reshape(-1, 5, 2)
    del helper.face_det.forward
    return golden


def crafted_outputs(
    size: tuple[int, int], faces: int, factor: float, sides: tuple[float, float], random: np.random.RandomState
) -> list[NDArray[np.float32]]:
    """Scores, boxes and landmarks for an image of this size, in float16's precision to save space."""
    height, width = size
    maps = [
        [np.zeros((-(-height // stride), -(-width // stride), 2, n), np.float32) for stride in STRIDES]
        for n in (1, 4, 10)
    ]
    for _ in range(faces):
        x, y, side = random.uniform(0, width), random.uniform(0, height), random.uniform(*sides)
        for level, stride in enumerate(STRIDES):
            rows, columns = maps[0][level].shape[:2]
            for _ in range(random.randint(3, 20)):
                row = int(np.clip(y / stride + random.randint(-2, 3), 0, rows - 1))
                column = int(np.clip(x / stride + random.randint(-2, 3), 0, columns - 1))
                anchor = random.randint(2)
                anchor_side = stride * 2 * (1 + anchor)
                shift = np.array([x - (column + 0.5) * stride, y - (row + 0.5) * stride]) / anchor_side / 0.1
                offsets = np.concatenate((shift, np.full(2, np.log(side / anchor_side) / 0.2)))
                spread = np.array([-1, -1, 1, -1, 0, 0, -0.8, 1, 0.8, 1]) * side / 4 / anchor_side / 0.1
                place = row, column, anchor
                maps[0][level][place] = random.uniform(0.9, 1)
                maps[1][level][place] = offsets + random.normal(0, 0.5, 4)
                maps[2][level][place] = factor * (np.tile(shift, 5) + spread + random.normal(0, 0.1, 10))
    scores, boxes, landmarks = (
        np.concatenate([values.reshape(-1, values.shape[-1]) for values in kind]) for kind in maps
    )
    return [scores[:, 0], *(values.astype(np.float16).astype(np.float32) for values in (boxes, landmarks))]


def align_and_paste_cases(helper: Any) -> Arrays:
    """Faces cut out, and other faces pasted back."""
    classes = parsing()
    golden: Arrays = {"paste/classes": classes}
    scores = torch.nn.functional.one_hot(torch.from_numpy(classes).long(), 19).permute(2, 0, 1)[None]
    parse = helper.face_parse
    helper.face_parse = lambda pixels: [scores]
    for name in FACES:
        landmarks = landmarks_of(name)
        golden[f"landmarks/{name}"] = landmarks
        helper.clean_all()
        helper.read_image(photograph(name)[:, :, ::-1].copy())
        helper.all_landmarks_5 = list(landmarks)
        helper.align_warp_face()
        helper.get_inverse_affine(None)
        faces = [np.ascontiguousarray(face[:, :, ::-1]) for face in helper.cropped_faces]
        golden[f"align/{name}"] = np.array([zlib.crc32(face) for face in faces])
        for face in helper.cropped_faces:
            helper.add_restored_face(255 - face)
        golden[f"paste/{name}"] = helper.paste_faces_to_input_image()[:, :, ::-1]
    helper.face_parse = parse
    return golden


def enhance_cases(restorer: Any) -> Arrays:
    """All of it; only where the faces are is given."""
    golden: Arrays = {}
    for name in FACES:
        landmarks = landmarks_of(name)
        boxes = np.zeros((len(landmarks), 5), np.float32)
        answer = np.concatenate((boxes, landmarks.reshape(-1, 10)), axis=1)
        restorer.face_helper.face_det.detect_faces = lambda image, threshold, answer=answer: answer
        pixels = photograph(name)[:, :, ::-1].copy()
        golden[f"enhance/{name}"] = restorer.enhance(pixels, paste_back=True, weight=0.5)[2][:, :, ::-1]
    return golden


def _restorer(packages: dict[str, Any], gfpgan_weights: Path) -> Any:
    gfpgan, parsing = packages["gfpgan"], packages["parsing"]
    whole = gfpgan.GFPGANv1Clean
    forward = whole.forward
    whole.forward = lambda self, x, **options: forward(self, x, randomize_noise=False, **options)
    narrow, style = WIDTHS["gan"] / 256, 2 * WIDTHS["gan"]
    gfpgan.GFPGANv1Clean = lambda **sizes: whole(**{**sizes, "narrow": narrow, "num_style_feat": style})
    width = WIDTHS["parser"]
    parsing.ParseNet = partial(parsing.ParseNet, base_ch=width, ch_range=[width // 2, 4 * width])
    return gfpgan.GFPGANer(
        str(gfpgan_weights), upscale=1, arch="clean", channel_multiplier=2, bg_upsampler=None, device="cpu"
    )


def _import_packages() -> dict[str, Any]:
    for name in ("torchvision", "basicsr", "gfpgan", "facexlib"):
        found = importlib.util.find_spec(name)
        assert found is not None, name
        assert found.submodule_search_locations is not None, name
        _module(name, path=found.submodule_search_locations[0])
        for part in ("archs", "utils", "models", "transforms"):
            if name != "facexlib" and (Path(found.submodule_search_locations[0]) / part).is_dir():
                _module(f"{name}.{part}", path=f"{found.submodule_search_locations[0]}/{part}")
    _module("torchvision.transforms._presets", ImageClassification=object)
    _module("torchvision.transforms.functional", normalize=_normalize)
    _module("torchvision.ops", nms=_nms)
    resnet = importlib.import_module("torchvision.models.resnet")
    vars(sys.modules["torchvision.models"]).update(resnet50=lambda pretrained: resnet.resnet50(weights=None))
    _module("basicsr.archs.arch_util", default_init_weights=lambda *arguments, **options: None)
    _module("basicsr.utils.download_util", load_file_from_url=None)
    images = importlib.import_module("basicsr.utils.img_util")
    vars(sys.modules["basicsr.utils"]).update(img2tensor=images.img2tensor, tensor2img=images.tensor2img)
    _module("gfpgan.archs.gfpgan_bilinear_arch", GFPGANBilinear=None)
    _module("gfpgan.archs.gfpganv1_arch", GFPGANv1=None)
    return {
        "gfpgan": importlib.import_module("gfpgan.utils"),
        "parsing": importlib.import_module("facexlib.parsing"),
        "detection": importlib.import_module("facexlib.detection"),
    }


def _module(name: str, path: str | None = None, **contents: Any) -> None:
    module = ModuleType(name)
    if path:
        module.__path__ = [path]
    vars(module).update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _normalize(tensor: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...], inplace: bool) -> torch.Tensor:
    return tensor.sub_(torch.tensor(mean)[:, None, None]).div_(torch.tensor(std)[:, None, None])


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """torchvision's, box by box."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for index in scores.sort(stable=True, descending=True)[1].tolist():
        for other in kept:
            sides = torch.minimum(boxes[other, 2:], boxes[index, 2:]) - torch.maximum(
                boxes[other, :2], boxes[index, :2]
            )
            shared = sides.clamp(min=0).prod()
            if float(shared / (areas[other] + areas[index] - shared)) > iou_threshold:
                break
        else:
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


if __name__ == "__main__":
    main()
