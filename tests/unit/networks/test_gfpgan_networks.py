"""The networks of face restoration: parity with `gfpgan` and `facexlib`, the strict loaders, the ONNX models."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ensemble.faces.gfpgan import (
    ALIGNER_INPUT,
    ALIGNER_OUTPUTS,
    EYE_DISTANCE,
    FACE_SIDE,
    RESTORER_INPUT,
    RESTORER_OUTPUTS,
    aligned_face,
    alignment,
    paste_faces,
    restore_faces,
)
from ensemble.images import RgbImage
from networks.errors import (
    CheckpointError,
    CheckpointLayoutError,
    CheckpointValueError,
    UnreadableCheckpointError,
    UnsafeCheckpointError,
)
from networks.faces.gfpgan import FaceRestorer, Gfpgan
from networks.faces.gfpgan_aligner import FaceAligner
from networks.faces.gfpgan_checkpoints import (
    ALIGNER_FILE,
    GFPGAN_FILE,
    PARSENET_FILE,
    is_random,
    load_face_aligner,
    load_face_restorer,
    load_gfpgan,
    load_parsenet,
    write_random_face_aligner,
    write_random_gfpgan,
    write_random_parsenet,
)
from networks.faces.gfpgan_parsenet import ParseNet
from tests.golden import GOLDEN, read_rgb

PACKAGE = np.load(GOLDEN / "gfpgan" / "golden.npz")
LAYOUTS = json.loads((GOLDEN / "gfpgan" / "layouts.json").read_text())
IMAGES = sorted(key.split("/")[1] for key in PACKAGE if key.startswith("landmarks/"))
GAN_WIDTH, PARSER_WIDTH = 32, 8  # of the golden outputs


@dataclass(frozen=True)
class Files:
    """Seeded weights files."""

    gfpgan: Path
    parsenet: Path
    aligner: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("gfpgan")
    files = Files(folder / GFPGAN_FILE, folder / PARSENET_FILE, folder / ALIGNER_FILE)
    write_random_gfpgan(files.gfpgan, GAN_WIDTH)
    write_random_parsenet(files.parsenet, PARSER_WIDTH)
    write_random_face_aligner(files.aligner)
    return files


@pytest.fixture(scope="module")
def restorer(files) -> FaceRestorer:
    return load_face_restorer(files.gfpgan, files.parsenet)


@pytest.fixture(scope="module")
def aligner(files) -> FaceAligner:
    return load_face_aligner(files.aligner)


def run(network: nn.Module, pixels: NDArray[np.uint8]) -> list[NDArray[np.generic]]:
    with torch.inference_mode():
        return [output.numpy() for output in network(torch.from_numpy(pixels))]


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(shape).integers(0, 256, (*shape, 3), dtype=np.uint8)


def close_up() -> RgbImage:
    """A face of the restorer's size, uint8 [512, 512, 3]."""
    face = cv2.resize(read_rgb(GOLDEN / "images" / "01_face_close.png"), (FACE_SIDE, FACE_SIDE))
    return np.asarray(face, np.uint8)


def normalised(face: RgbImage) -> Tensor:
    return (torch.from_numpy(face.transpose(2, 0, 1)[None].copy()).float() / 255 - 0.5) / 0.5


@pytest.mark.parametrize(
    ("file", "build"), [(GFPGAN_FILE, Gfpgan), (PARSENET_FILE, ParseNet), (ALIGNER_FILE, FaceAligner)]
)
def test_tensors_are_those_of_the_packages_network_at_its_published_size(file, build) -> None:
    with torch.device("meta"):
        network = build()
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == LAYOUTS[file]


@pytest.mark.parametrize("image", ["even", "odd"])
def test_aligner_outputs_equal_those_of_the_package(aligner, image) -> None:
    outputs = run(aligner, PACKAGE[f"aligner/{image}/image"][None])
    for name, output in zip(ALIGNER_OUTPUTS, outputs, strict=True):
        golden = PACKAGE[f"aligner/{image}/{name}"]
        assert output.dtype == np.float32
        assert np.ptp(golden) > 0.5  # a constant would prove nothing
        np.testing.assert_allclose(output[0], golden, atol=2e-4, rtol=0, err_msg=name)


def test_restored_picture_equals_that_of_the_package(restorer) -> None:
    with torch.inference_mode():
        picture = restorer.gan(normalised(close_up()))[0, :, ::8, ::8].numpy()
    golden = PACKAGE["gan/restored"]
    assert golden.std() > 0.3
    np.testing.assert_allclose(picture, golden, atol=2e-5, rtol=0)


def test_parsing_equals_that_of_the_package(restorer) -> None:
    with torch.inference_mode():
        scores = restorer.parser(normalised(close_up()))[0, :, ::8, ::8].numpy()
    golden = PACKAGE["parser/scores"]
    assert len(np.unique(golden.argmax(0))) > 5
    np.testing.assert_allclose(scores, golden, atol=1e-5 * np.abs(golden).max(), rtol=0)


@pytest.mark.parametrize("name", IMAGES)
def test_restored_image_equals_that_of_the_package(restorer, name) -> None:
    image = read_rgb(GOLDEN / "images" / f"{name}.png")
    faces = [face for face in PACKAGE[f"landmarks/{name}"] if np.linalg.norm(face[0] - face[1]) >= EYE_DISTANCE]
    alignments = [alignment(face) for face in faces]
    restored, classes = run(restorer, np.stack([aligned_face(image, affine) for affine in alignments]))
    result = paste_faces(image, zip(restored, classes, alignments, strict=True))
    golden = PACKAGE[f"enhance/{name}"]
    # Rounding errors of the networks tip about one in 20,000 values of a restored face, and of its classes, which are
    # blurred: a few neighbours each may then be cut to the next level.
    difference = np.abs(result.astype(int) - golden)
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.98
    assert np.abs(golden.astype(int) - image).max() > 100


def test_restorer_is_deterministic_and_an_image_does_not_depend_on_its_batch(restorer) -> None:
    faces = np.stack([noise(FACE_SIDE, FACE_SIDE), close_up()])
    for together, again, alone in zip(*(run(restorer, each) for each in (faces, faces, faces[1:])), strict=True):
        assert together.dtype == np.uint8
        np.testing.assert_array_equal(together, again)
        assert (together[1:] != alone).mean() < 1e-3
    assert run(restorer, faces)[1].max() < 19


def test_every_byte_reaches_the_networks_as_in_the_package() -> None:
    """Theirs is divided by 255 in float64 before GFPGAN and in float32 before ParseNet, ours in float32."""
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal((pixels / 255.0).astype(np.float32), pixels.astype(np.float32) / 255)
    np.testing.assert_array_equal((torch.from_numpy(pixels).float() / 255).numpy(), pixels.astype(np.float32) / 255)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 65), (64, 32)])
def test_aligner_has_two_anchors_for_each_cell_begun(aligner, height, width) -> None:
    anchors = sum(2 * -(-height // stride) * -(-width // stride) for stride in (8, 16, 32))
    shapes = [output.shape for output in run(aligner, noise(1, height, width))]
    assert shapes == [(1, anchors), (1, anchors, 4), (1, anchors, 10)]


def test_widths_are_taken_from_the_files(tmp_path) -> None:
    write_random_gfpgan(tmp_path / "gan.pth", 16)
    write_random_parsenet(tmp_path / "parser.pth", 4)
    assert load_gfpgan(tmp_path / "gan.pth").final_conv.out_channels == 16
    assert load_parsenet(tmp_path / "parser.pth").out_mask_conv.conv2d.in_channels == 4


def test_files_without_counters_or_with_halves_are_read_alike(files, tmp_path) -> None:
    tensors = torch.load(files.parsenet)
    path = tmp_path / "parser.pth"
    torch.save({name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}, path)
    expected = load_parsenet(files.parsenet).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_parsenet(path).state_dict().items())
    torch.save({name: tensor.half() for name, tensor in tensors.items() if tensor.is_floating_point()}, path)
    assert all(tensor.dtype != torch.half for tensor in load_parsenet(path).state_dict().values())


@pytest.mark.parametrize("load", [load_gfpgan, load_parsenet, load_face_aligner])
def test_unreadable_files_are_refused(load, tmp_path) -> None:
    with pytest.raises(UnreadableCheckpointError, match=r"absent\.pth: no such file"):
        load(tmp_path / "absent.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    with pytest.raises(UnreadableCheckpointError, match="web page"):
        load(tmp_path / "page.pth")
    torch.save({"params_ema": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(UnsafeCheckpointError):
        load(tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointLayoutError):
        load(tmp_path / "list.pth")


@pytest.mark.parametrize("load", [load_gfpgan, load_parsenet, load_face_aligner])
def test_files_of_the_other_networks_are_refused(load, files, tmp_path) -> None:
    own = {load_gfpgan: files.gfpgan, load_parsenet: files.parsenet, load_face_aligner: files.aligner}
    load(own[load])
    for path in {files.gfpgan, files.parsenet, files.aligner} - {own[load]}:
        with pytest.raises(CheckpointLayoutError, match=r"missing: .*; .* unexpected: ") as error:
            load(path)
        assert own[load].name in str(error.value)


def rewritten(path: Path, folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    content = torch.load(path)
    change(content.get("params_ema", content))
    torch.save(content, folder / path.name)
    return folder / path.name


def test_missing_unexpected_and_misshapen_tensors_are_listed(files, tmp_path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["toRGB.3.bias"]
        tensors["fc.weight"] = torch.zeros(2)
        tensors["stylegan_decoder.noises.noise3"] = torch.zeros(1, 1, 4, 4)

    with pytest.raises(
        CheckpointLayoutError, match=r"1 missing: toRGB\.3\.bias; 1 unexpected: fc\.weight; 1 of"
    ) as error:
        load_gfpgan(rewritten(files.gfpgan, tmp_path, change))
    assert error.value.missing == ("toRGB.3.bias",)
    assert error.value.unexpected == ("fc.weight",)
    assert error.value.misshapen == ("stylegan_decoder.noises.noise3",)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value, files, tmp_path) -> None:
    path = rewritten(files.parsenet, tmp_path, lambda tensors: tensors["encoder.0.conv2d.bias"].fill_(value))
    with pytest.raises(CheckpointValueError, match=r"encoder\.0\.conv2d\.bias"):
        load_parsenet(path)


def test_of_two_sets_of_weights_in_a_file_the_averaged_one_is_read(files, tmp_path) -> None:
    averaged = torch.load(files.gfpgan)["params_ema"]
    last = {name: tensor + 1 for name, tensor in averaged.items()}
    for order in (("params", "params_ema"), ("params_ema", "params")):
        content = {"params": last, "params_ema": averaged}
        torch.save({section: content[section] for section in order}, tmp_path / "both.pth")
        assert torch.equal(load_gfpgan(tmp_path / "both.pth").final_conv.bias, averaged["final_conv.bias"])
    torch.save({"params": last}, tmp_path / "last.pth")
    assert torch.equal(load_gfpgan(tmp_path / "last.pth").final_conv.bias, last["final_conv.bias"])


@pytest.mark.parametrize("shape", [(), (0,), (4, 4)])
def test_a_bias_that_tells_no_width_is_misshapen(shape, files, tmp_path) -> None:
    path = rewritten(
        files.parsenet, tmp_path, lambda tensors: tensors.update({"encoder.0.conv2d.bias": torch.ones(shape)})
    )
    with pytest.raises(CheckpointLayoutError, match="of another shape: ") as error:
        load_parsenet(path)
    assert "encoder.0.conv2d.bias" in error.value.misshapen


def test_weights_that_were_written_by_half_leave_nothing(tmp_path, monkeypatch) -> None:
    def interrupted(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    (tmp_path / PARSENET_FILE).write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_random_parsenet(tmp_path / PARSENET_FILE, 4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {PARSENET_FILE: b"old"}


def test_random_weights_are_told_from_others(files, restorer, aligner, tmp_path) -> None:
    assert is_random(restorer)
    assert is_random(aligner)
    trained = rewritten(files.gfpgan, tmp_path, lambda tensors: tensors["conv_body_first.weight"].add_(1e-3))
    assert not is_random(load_gfpgan(trained))
    assert is_random(load_face_restorer(trained, files.parsenet))  # its other half is random


@pytest.mark.heavy
@pytest.mark.timeout(900)  # two exports; half a minute each on two free cores
def test_exported_models_restore_a_photograph_like_the_networks(files, restorer, aligner, tmp_path) -> None:
    pytest.importorskip("onnxscript")
    from export.exporters.face_models import export_face_aligner, export_face_restorer

    sessions = {}
    exports = {
        "aligner": lambda folder, stages: export_face_aligner(files.aligner, folder, on_stage=stages.append),
        "restorer": lambda folder, stages: export_face_restorer(
            files.gfpgan, files.parsenet, folder, on_stage=stages.append
        ),
    }
    for name, export in exports.items():
        folder, stages = tmp_path / name, list[str]()
        folder.mkdir()
        result = export(folder, stages)
        assert result.name == f"face_{name}"
        assert result.untrained
        assert len(stages) == 4
        assert result.size == sum(file.stat().st_size for file in folder.iterdir())
        assert {each.output for each in result.differences} == set(
            ALIGNER_OUTPUTS if name == "aligner" else RESTORER_OUTPUTS
        )
        sessions[name] = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        assert sessions[name].get_modelmeta().custom_metadata_map["untrained"] == "true"
    for image in ("even", "odd"):
        outputs = sessions["aligner"].run(None, {ALIGNER_INPUT: PACKAGE[f"aligner/{image}/image"][None]})
        for name, output in zip(ALIGNER_OUTPUTS, outputs, strict=True):
            np.testing.assert_allclose(output[0], PACKAGE[f"aligner/{image}/{name}"], atol=5e-4, rtol=0)
    for shape in ((1, 1, 1), (2, 31, 200), (3, 130, 65)):
        pixels = noise(*shape)
        for output, expected in zip(
            sessions["aligner"].run(None, {ALIGNER_INPUT: pixels}), run(aligner, pixels), strict=True
        ):
            np.testing.assert_allclose(output, expected, atol=5e-4, rtol=0)
    image = read_rgb(GOLDEN / "images" / "02_face_edge.png")
    expected_image = restore_faces(image, lambda pixels: run(aligner, pixels), lambda faces: run(restorer, faces))
    restored = restore_faces(
        image,
        lambda pixels: sessions["aligner"].run(list(ALIGNER_OUTPUTS), {ALIGNER_INPUT: pixels}),
        lambda faces: sessions["restorer"].run(list(RESTORER_OUTPUTS), {RESTORER_INPUT: faces}),
    )
    assert np.abs(expected_image.astype(int) - image).mean() > 10
    # A landmark's last bits may move a face by a fraction of a pixel; its edges then differ visibly.
    assert np.abs(restored.astype(int) - expected_image).mean() < 0.1


@pytest.mark.heavy
def test_export_refuses_models_that_compute_something_else(files, tmp_path, monkeypatch) -> None:
    pytest.importorskip("onnxscript")
    from export.errors import ParityError
    from export.exporters import face_models

    def load_other(path: Path) -> FaceAligner:
        network = load_face_aligner(path)
        network.register_forward_hook(
            lambda module, pixels, outputs: (
                outputs if torch.compiler.is_compiling() else (outputs[0] + 0.01, *outputs[1:])
            )
        )
        return network

    monkeypatch.setattr(face_models, "load_face_aligner", load_other)
    with pytest.raises(ParityError, match=r"face_aligner: .*SCORES on scene 96×128 by 0\.01"):
        face_models.export_face_aligner(files.aligner, tmp_path)


def test_export_of_a_wrong_file_says_which(files, tmp_path) -> None:
    pytest.importorskip("onnxscript")
    from export.exporters.face_models import export_face_restorer

    with pytest.raises(CheckpointError, match=PARSENET_FILE):
        export_face_restorer(files.gfpgan, files.gfpgan, tmp_path)
