"""RetinaFace as a torch module: parity with the package `retina-face`, the strict loader, the ONNX model."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import h5py
import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from ensemble.faces.retinaface import INPUT, OUTPUTS
from networks.errors import CheckpointError, CheckpointLayoutError, CheckpointValueError, UnreadableCheckpointError
from networks.faces import retinaface_weights
from networks.faces.retinaface import RetinaFace
from networks.faces.retinaface_weights import is_random_retinaface, load_retinaface, write_random_retinaface
from tests.golden import GOLDEN

PACKAGE = np.load(GOLDEN / "retinaface" / "golden.npz")
TOLERANCE = 2e-5  # both in float32, through 50 layers; 1e-6 was seen


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("retinaface") / "retinaface.h5"
    write_random_retinaface(path)
    return path


@pytest.fixture(scope="module")
def network(weights) -> RetinaFace:
    return load_retinaface(weights)


def run(network: RetinaFace, pixels: NDArray[np.generic]) -> list[NDArray[np.float32]]:
    with torch.inference_mode():
        return [output.numpy() for output in network(torch.from_numpy(pixels))]


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(shape).integers(0, 256, (*shape, 3), dtype=np.uint8)


def rewritten(
    weights: Path,
    path: Path,
    without: Collection[str] = (),
    instead: Mapping[str, Mapping[str, NDArray[np.generic]]] | None = None,
    root: str = "/",
) -> Path:
    """A weights file with some layers left out, and some put in; the others are links into the original."""
    instead = instead or {}
    with h5py.File(weights) as original, h5py.File(path, "w") as file:
        group = file.require_group(root)
        kept = [layer for layer in original if layer not in without and layer not in instead]
        group.attrs["layer_names"] = [*kept, *instead]  # text here, bytes in the original: Keras has written both
        for layer in kept:
            group[layer] = h5py.ExternalLink(weights, layer)
        for layer, variables in instead.items():
            added = group.create_group(layer)
            added.attrs["weight_names"] = [f"{layer}/{name}:0" for name in variables]
            for name, values in variables.items():
                added[f"{layer}/{name}:0"] = values
    return path


@pytest.mark.parametrize("image", ["even", "odd"])
def test_outputs_equal_those_of_the_package(network, image) -> None:
    outputs = run(network, PACKAGE[f"network/{image}/image"][None])
    for name, output in zip(OUTPUTS, outputs, strict=True):
        golden = PACKAGE[f"network/{image}/{name}"]
        assert output.dtype == np.float32
        assert np.ptp(golden) > 0.2  # a constant would prove nothing
        np.testing.assert_allclose(output, golden, atol=TOLERANCE, rtol=0, err_msg=name)


@pytest.mark.filterwarnings("ignore")
def test_outputs_and_weights_file_agree_with_the_installed_package(weights, network, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(os.environ, "TF_USE_LEGACY_KERAS", "1")
    pytest.importorskip("tensorflow")
    package = pytest.importorskip("retinaface.model.retinaface_model")
    monkeypatch.setattr(package, "load_weights", lambda model: model)
    model = package.build_model()
    model.load_weights(str(weights), by_name=True)
    pixels = noise(2, 70, 161)
    expected = [output.numpy() for output in model(pixels.astype(np.float32))]
    model.save_weights(str(tmp_path / "keras.h5"))
    for read in (network, load_retinaface(tmp_path / "keras.h5")):
        for name, output, reference in zip(OUTPUTS, run(read, pixels), expected, strict=True):
            np.testing.assert_allclose(output, reference, atol=TOLERANCE, rtol=0, err_msg=name)


def test_outputs_of_an_image_do_not_depend_on_its_batch(network) -> None:
    batch = noise(3, 64, 96)
    for together, alone in zip(run(network, batch), run(network, batch[1:2]), strict=True):
        np.testing.assert_allclose(together[1:2], alone, atol=TOLERANCE, rtol=0)


def test_floating_point_pixels_count_like_bytes(network) -> None:
    pixels = noise(1, 40, 33)
    for bytes_, floats in zip(run(network, pixels), run(network, pixels.astype(np.float32)), strict=True):
        np.testing.assert_array_equal(bytes_, floats)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (31, 65), (64, 32)])
def test_every_size_has_an_output_for_each_cell_begun(network, height, width) -> None:
    shapes = [output.shape for output in run(network, noise(1, height, width))]
    assert shapes == [
        (1, -(-height // stride), -(-width // stride), channels) for stride in (32, 16, 8) for channels in (4, 8, 20)
    ]


def test_whole_saved_model_of_keras_is_read_too(weights, network, tmp_path) -> None:
    read = load_retinaface(rewritten(weights, tmp_path / "model.h5", root="model_weights"))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in read.state_dict().items())


def test_absent_file_is_reported(tmp_path) -> None:
    with pytest.raises(UnreadableCheckpointError, match=r"retinaface\.h5: there is no such file; give the file"):
        load_retinaface(tmp_path / "retinaface.h5")


@pytest.mark.parametrize("content", [b"", b"<!doctype html>", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_file_that_is_not_hdf5_is_refused(tmp_path, content) -> None:
    path = tmp_path / "retinaface.h5"
    path.write_bytes(content)
    with pytest.raises(UnreadableCheckpointError, match=r"not a weights file of Keras \("):
        load_retinaface(path)


def test_truncated_file_is_refused(weights, tmp_path) -> None:
    path = tmp_path / "retinaface.h5"
    with weights.open("rb") as file:
        path.write_bytes(file.read(1_000_000))
    with pytest.raises(UnreadableCheckpointError, match="truncated"):
        load_retinaface(path)


def test_other_hdf5_file_is_refused(tmp_path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(UnreadableCheckpointError, match="layer_names"):
        load_retinaface(path)


def test_missing_unexpected_and_misshapen_variables_are_listed(weights, tmp_path) -> None:
    instead = {
        "bn0": {"gamma": np.ones(64), "beta": np.ones(64), "moving_mean": np.ones(64), "moving_variance": np.ones(32)},
        "dense": {"kernel": np.ones((4, 4)), "bias": np.ones(4)},
    }
    path = rewritten(weights, tmp_path / "wrong.h5", without=["stage3_unit6_conv2"], instead=instead)
    with pytest.raises(
        CheckpointLayoutError, match="1 missing: stage3_unit6_conv2/kernel; 2 unexpected: dense"
    ) as error:
        load_retinaface(path)
    assert error.value.missing == ("stage3_unit6_conv2/kernel",)
    assert error.value.unexpected == ("dense/bias", "dense/kernel")
    assert error.value.misshapen == ("bn0/moving_variance",)


@pytest.mark.parametrize("values", [np.array([1, np.nan, 1], np.float32), np.array([1, 2, 3])])
def test_values_that_cannot_be_computed_with_are_refused(weights, tmp_path, values) -> None:
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    path = rewritten(weights, tmp_path / "nan.h5", instead={"bn_data": dict.fromkeys(names, values)})
    with pytest.raises(CheckpointValueError, match="bn_data/beta"):
        load_retinaface(path)


def test_random_weights_are_told_from_others(weights, tmp_path) -> None:
    assert is_random_retinaface(weights)
    trained = dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), np.ones(3))
    assert not is_random_retinaface(rewritten(weights, tmp_path / "trained.h5", instead={"bn_data": trained}))
    with pytest.raises(CheckpointError):
        is_random_retinaface(tmp_path / "absent.h5")


def test_weights_that_were_written_by_half_leave_nothing(tmp_path, monkeypatch) -> None:
    def interrupted(name: str, shape: tuple[int, ...]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(retinaface_weights, "_seeded_values", interrupted)
    (tmp_path / "retinaface.h5").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_random_retinaface(tmp_path / "retinaface.h5")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"retinaface.h5": b"old"}


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the exported model."""
    pytest.importorskip("onnxscript")
    from export.exporters.face_models import export_face_detector

    folder = tmp_path_factory.mktemp("exported")
    stages: list[str] = []
    export = export_face_detector(weights, folder, on_stage=stages.append)
    assert export.untrained
    assert len(stages) == 4
    assert {each.output for each in export.differences} == set(OUTPUTS)
    assert export.size == sum(file.stat().st_size for file in folder.iterdir())
    return folder


@pytest.mark.slow
def test_exported_model_agrees_with_the_package_at_any_size(exported, network) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["untrained"] == "true"
    for image in ("even", "odd"):
        outputs = session.run(list(OUTPUTS), {INPUT: PACKAGE[f"network/{image}/image"][None]})
        for name, output in zip(OUTPUTS, outputs, strict=True):
            np.testing.assert_allclose(output, PACKAGE[f"network/{image}/{name}"], atol=TOLERANCE, rtol=0)
    for shape in ((1, 1, 1), (2, 31, 200), (3, 130, 65)):
        pixels = noise(*shape)
        for output, expected in zip(session.run(list(OUTPUTS), {INPUT: pixels}), run(network, pixels), strict=True):
            np.testing.assert_allclose(output, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_export_refuses_a_model_that_computes_something_else(exported, weights, tmp_path, monkeypatch) -> None:
    """Of a network that gives 0.01 more, what the exporter makes is the graph of the one that does not."""
    import onnx_ir

    from export.errors import ParityError
    from export.exporters import exporter, face_models

    def load_other(path: Path) -> RetinaFace:
        network = load_retinaface(path)
        network.register_forward_hook(lambda module, pixels, outputs: (outputs[0] + 0.01, *outputs[1:]))
        return network

    monkeypatch.setattr(face_models, "load_retinaface", load_other)
    monkeypatch.setattr(exporter, "to_onnx", lambda network, interface: onnx_ir.load(exported / "model.onnx"))
    with pytest.raises(ParityError, match=r"face_detector: .*SCORES_32 on scene 96×128 by 0\.01"):
        face_models.export_face_detector(weights, tmp_path)
