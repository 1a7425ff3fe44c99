"""A stream's network may be of another method: any ONNX model with pixels in and logits out."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ensemble.streams import Stream
from export import ExportError, export_stream
from export.errors import ParityError
from export.weights.checkpoints import find_checkpoints
from networks.errors import ManifestError

OTHER = Stream("other", "Other", "other.onnx", 96, 1, "resize")


def other_network(
    path: Path, side: int = 96, *, kind: int = TensorProto.UINT8, batch: int | str = "n", classes: int = 2
) -> Path:
    """Mean colour through a matrix; its names are its own."""
    weights = np.random.default_rng(0).normal(0, 0.05, (3, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["picture"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["prediction"]),
    ]
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("picture", kind, [batch, side, side, 3])],
        [
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, [batch, 3]),
            helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [batch, classes]),
        ],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_it_is_taken_with_the_names_of_a_stream(tmp_path: Path) -> None:
    source = other_network(tmp_path / "other.onnx")
    folder = tmp_path / "model"
    folder.mkdir()
    export = export_stream(OTHER, source, folder)
    assert {file.name for file in export.files} == {"model.onnx", "model.fused.onnx"}
    assert not export.untrained
    assert export.base == {}
    pixels = np.random.default_rng(1).integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
    expected = onnxruntime.InferenceSession(source).run(["prediction"], {"picture": pixels})[0]
    for file in export.files:
        session = onnxruntime.InferenceSession(file)
        assert [output.name for output in session.get_outputs()] == ["LOGITS"]
        np.testing.assert_array_equal(session.run(None, {"PIXELS": pixels})[0], expected)
    metadata = session.get_modelmeta().custom_metadata_map
    assert (metadata["stream"], metadata["checkpoint_sha256"]) == ("other", export.sha256)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"side": 95}, r"takes picture UINT8 \[n,95,95,3\]; a stream of 96 pixels needs one input"),
        ({"kind": TensorProto.FLOAT}, "takes picture FLOAT"),
        ({"batch": 4}, "with a free batch"),
        ({"classes": 3}, r"a stream needs one output, FLOAT \[batch, 2\]"),
    ],
)
def test_another_interface_is_told(options: dict[str, object], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=problem):
        export_stream(OTHER, other_network(tmp_path / "other.onnx", **options), tmp_path)  # type: ignore[arg-type]


def test_two_outputs_that_may_be_the_logits_are_one_too_many(tmp_path: Path) -> None:
    model = onnx.load(other_network(tmp_path / "other.onnx"))
    model.graph.node.append(helper.make_node("Neg", ["prediction"], ["negated"]))
    model.graph.output.append(helper.make_tensor_value_info("negated", TensorProto.FLOAT, ["n", 2]))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match=r"gives mean .*, negated .*; a stream needs one output"):
        export_stream(OTHER, tmp_path / "other.onnx", tmp_path)


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ExportError, match="not an ONNX model"):
        export_stream(OTHER, tmp_path / "other.onnx", tmp_path)


def test_images_of_a_batch_must_not_change_each_other(tmp_path: Path) -> None:
    model = onnx.load(other_network(tmp_path / "other.onnx"))
    model.graph.node.insert(1, helper.make_node("ReduceMax", ["x", "first"], ["brightest"], keepdims=1))
    model.graph.node.insert(2, helper.make_node("Sub", ["x", "brightest"], ["darker"]))
    model.graph.node[3].input[0] = "darker"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ParityError, match="depend on the batch it is in"):
        export_stream(OTHER, tmp_path / "other.onnx", tmp_path)


def test_it_is_held_against_the_manifest(tmp_path: Path) -> None:
    source = other_network(tmp_path / "other.onnx")
    entry = f'{{"size": {source.stat().st_size}, "sha256": "{"0" * 64}", "source": "local"}}'
    (tmp_path / "manifest.json").write_text(f'{{"files": {{"other.onnx": {entry}}}}}')
    with pytest.raises(ManifestError, match=r"other\.onnx: sha256"):
        export_stream(OTHER, source, tmp_path)


def test_it_is_looked_for_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.weights.checkpoints.STREAMS", (OTHER,))
    source = other_network(tmp_path / "other.onnx")
    (tmp_path / "other.safetensors").touch()
    assert find_checkpoints(tmp_path) == {OTHER: source}
