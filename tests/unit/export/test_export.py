"""Exports: what the models compute, that each is validated, and that a failure leaves the old ones."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from ensemble.streams import GLOBAL_TEXTURE, LOCAL_FACIAL, SEMANTIC_FUSION, STREAMS, Stream
from export import ExportError, StreamExport, export_stream, parity
from export.__main__ import main
from export.errors import HalfRangeError, MissingWeightsError, ParityError, RepositoryError
from export.exporters import exporter, stream_export
from export.layout import FUSED_FILE, SKELETON
from export.onnx.fused_attention import fuse_attention
from export.onnx.graph import INLINE_LIMIT
from export.onnx.interface import OUTPUTS
from export.onnx.session import onnx_outputs
from export.repository import publish, staging
from export.samples import sample_batches
from export.weights.checkpoints import find_checkpoints
from networks import StreamNetwork, load_stream
from networks.architecture import ClipArchitecture, Dinov2Architecture, StreamArchitecture, tensor_shapes
from networks.weights.random_weights import MARKER, seeded_tensor
from tests.golden import ROWS
from tests.unit.networks.test_networks import FEATURES, KEYS, golden_pixels

SAMPLE_WEIGHTS = Path(__file__).parents[3] / "samples" / "weights"


@pytest.fixture(scope="module")
def exports(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Stream, StreamExport]:
    """The tiny checkpoints, exported once; of the fusion stream with its weights beside the model."""
    result = {}
    for stream in STREAMS:
        folder = tmp_path_factory.mktemp(stream.name)
        limit = 0 if stream.has_clip else INLINE_LIMIT
        result[stream] = export_stream(stream, tiny / stream.checkpoint, folder, inline_limit=limit)
    return result


@pytest.fixture
def traced(exports: Mapping[Stream, StreamExport], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever network is exported, what the exporter makes of it is the graph of the tiny one of global texture."""
    ready = exports[GLOBAL_TEXTURE].files[0]
    monkeypatch.setattr(exporter, "to_onnx", lambda network, interface: ir.load(ready))


def run(model: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(["LOGITS", "FEATURES", "ATTENTION"], {"PIXELS": pixels})
    return outputs


# What an exported model is


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_exported_streams_give_the_golden_outputs(stream: Stream, exports: Mapping[Stream, StreamExport]) -> None:
    pixels = torch.stack([golden_pixels(stream, row["image"]) for row in ROWS]).numpy()
    logits, features, _ = run(exports[stream].files[0], pixels)
    key = KEYS[stream.name]
    np.testing.assert_allclose(logits, [row[key]["logits"] for row in ROWS], rtol=0, atol=1e-4)
    np.testing.assert_allclose(features, [FEATURES[f"{row['image']}:{key}"] for row in ROWS], rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batch_is_dynamic(batch: int, exports: Mapping[Stream, StreamExport]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 252, 252, 3), dtype=np.uint8)
    model = exports[GLOBAL_TEXTURE].files[0]
    logits, features, attention = run(model, pixels)
    assert (logits.shape, features.shape, attention.shape) == ((batch, 2), (batch, 128), (batch, 324))
    for index in range(batch):
        np.testing.assert_allclose(logits[index], run(model, pixels[index : index + 1])[0][0], atol=1e-4)


@pytest.mark.parametrize("stream", [GLOBAL_TEXTURE, SEMANTIC_FUSION], ids=lambda stream: stream.name)
def test_graph_has_the_interface_of_the_repository(stream: Stream, exports: Mapping[Stream, StreamExport]) -> None:
    model = onnx.load(exports[stream].files[0], load_external_data=False)
    size = stream.pixels

    def interface(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]

    assert [interface(value) for value in model.graph.input] == [
        ("PIXELS", onnx.TensorProto.UINT8, ["batch", size, size, 3])
    ]
    assert [interface(value) for value in model.graph.output] == [
        ("LOGITS", onnx.TensorProto.FLOAT, ["batch", 2]),
        ("FEATURES", onnx.TensorProto.FLOAT, ["batch", "FEATURES_size"]),
        ("ATTENTION", onnx.TensorProto.FLOAT, ["batch", "ATTENTION_size"]),
    ]
    assert model.opset_import[0].version >= 17
    kinds = [node.op_type for node in model.graph.node]
    blocks = 2 if stream is GLOBAL_TEXTURE else 4
    norms = 2 * blocks + (1 if stream is GLOBAL_TEXTURE else 3)
    assert kinds.count("LayerNormalization") == norms
    assert "Resize" not in kinds, "the position table is not folded"


def test_only_a_cast_reads_the_pixels(exports: Mapping[Stream, StreamExport]) -> None:
    """TensorRT takes 8-bit inputs for nothing else: not even their shape may be asked for."""
    for export in exports.values():
        for file in export.files:
            if file.suffix == ".onnx":
                graph = ir.load(file).graph
                assert [node.op_type for node, _ in graph.inputs[0].uses()] == ["Cast"]


def test_attention_is_fused_for_onnx_runtime(exports: Mapping[Stream, StreamExport]) -> None:
    """All of it but that of the CLS token in DINOv2's last block, whose probabilities are an output."""
    for stream, export in exports.items():
        (fused,) = (file for file in export.files if file.name == FUSED_FILE)
        before, after = (Counter(node.op_type for node in ir.load(file).graph) for file in (export.files[0], fused))
        assert after["Softmax"] == 1
        assert after["MultiHeadAttention"] == before["Softmax"] - 1 == (3 if stream.has_clip else 1)
        assert before["MatMul"] - after["MatMul"] == 2 * after["MultiHeadAttention"]
        pixels = np.random.default_rng(3).integers(0, 256, (5, stream.pixels, stream.pixels, 3), dtype=np.uint8)
        for value, reference in zip(run(fused, pixels), run(export.files[0], pixels), strict=True):
            np.testing.assert_allclose(value, reference, rtol=0, atol=2e-5)
        assert ir.load(fused).metadata_props == ir.load(export.files[0]).metadata_props != {}


def test_a_model_without_attention_is_not_fused(tmp_path: Path) -> None:
    relu = ir.node("Relu", [ir.val("x", ir.DataType.FLOAT, [1])])
    graph = ir.Graph(relu.inputs, relu.outputs, nodes=[relu], opset_imports={"": 18}, name="relu")
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="no attention"):
        fuse_attention(tmp_path / "model.onnx")


def test_graph_tells_nothing_of_the_machine_it_was_made_on(exports: Mapping[Stream, StreamExport]) -> None:
    content = exports[GLOBAL_TEXTURE].files[0].read_bytes()
    assert b"stack_trace" not in content
    assert str(Path(torch.__file__).parents[1]).encode() not in content


def test_metadata_say_what_the_weights_are(tiny: Path, exports: Mapping[Stream, StreamExport]) -> None:
    for stream, export in exports.items():
        model = onnx.load(export.files[0], load_external_data=False)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        digest = hashlib.sha256((tiny / stream.checkpoint).read_bytes()).hexdigest()
        assert metadata["stream"] == stream.name
        assert metadata["checkpoint"] == stream.checkpoint
        assert metadata["checkpoint_sha256"] == export.sha256 == digest
        assert metadata["untrained"] == "true"
        assert metadata["precision"] == "fp32"
        assert f"torch {torch.__version__.partition('+')[0]}" in metadata["exporter"]


def test_large_weights_lie_in_one_file_beside_the_model(exports: Mapping[Stream, StreamExport]) -> None:
    inline, beside = exports[GLOBAL_TEXTURE], exports[SEMANTIC_FUSION]
    assert [file.name for file in inline.files] == ["model.onnx", "model.fused.onnx"]
    assert [file.name for file in beside.files] == ["model.onnx", "model.onnx.data", "model.fused.onnx"]
    model, data, fused = (file.stat().st_size for file in beside.files)
    assert model + fused < 0.1 * data, "the two graphs do not share their weights"
    assert sorted(beside.files[0].parent.iterdir()) == sorted(beside.files)
    assert beside.size == model + data + fused


def test_every_output_is_compared_on_batches_of_one_and_three(exports: Mapping[Stream, StreamExport]) -> None:
    for export in exports.values():
        compared = {(each.output, each.batch) for each in export.differences}
        outputs = ("LOGITS", "FEATURES", "ATTENTION", "PROBABILITY")
        assert compared == {(output, batch) for output in outputs for batch in (1, 3)}
        assert all(each.within and each.largest < 2e-4 for each in export.differences)


@pytest.mark.parametrize(
    ("stream", "architecture", "prefix", "dtype"),
    [
        pytest.param(
            LOCAL_FACIAL,
            StreamArchitecture(Dinov2Architecture(hidden=192, blocks=3, inner=100, rank=7, positions=122, patch=21)),
            "module.backbone.",
            torch.float32,
            id="other sizes, distributed prefix",
        ),
        pytest.param(
            SEMANTIC_FUSION,
            StreamArchitecture(
                Dinov2Architecture(hidden=64, blocks=1, inner=48, rank=1, positions=257),
                ClipArchitecture(hidden=128, blocks=3, inner=96, positions=50, patch=32, head=40),
            ),
            "backbone.",
            torch.float16,
            id="CLIP of 32-pixel patches, half precision",
        ),
        pytest.param(
            GLOBAL_TEXTURE,
            StreamArchitecture(Dinov2Architecture(hidden=64, blocks=1, inner=48, rank=1)),
            "backbone.",
            torch.float32,
            id="one block",
        ),
        pytest.param(
            SEMANTIC_FUSION,
            StreamArchitecture(
                Dinov2Architecture(hidden=64, blocks=1, inner=48, rank=1), ClipArchitecture(64, blocks=1, inner=48)
            ),
            "backbone.",
            torch.float32,
            id="one block each",
        ),
    ],
)
def test_other_sizes_export_and_agree(
    stream: Stream, architecture: StreamArchitecture, prefix: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = {
        prefix + name: torch.from_numpy(seeded_tensor(LOCAL_FACIAL, name, shape)).to(dtype)
        for name, shape in tensor_shapes(architecture).items()
    }
    checkpoint = tmp_path / stream.checkpoint
    torch.save(tensors, checkpoint)
    models = tmp_path / "model"
    models.mkdir()
    export = export_stream(stream, checkpoint, models)
    pixels = np.random.default_rng(1).integers(0, 256, (2, stream.pixels, stream.pixels, 3), dtype=np.uint8)
    expected = load_stream(stream, checkpoint)(torch.from_numpy(pixels))
    for value, reference in zip(run(export.files[0], pixels), expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=0, atol=2e-4)
    features = architecture.dino.hidden + (architecture.clip.hidden if architecture.clip else 0)
    assert expected[1].shape == (2, features)


# Validation


def test_a_wrong_model_is_a_parity_error_with_its_numbers(tiny: Path, exports: Mapping[Stream, StreamExport]) -> None:
    """The model of one stream against the network of another: same shapes, other weights."""
    batches = sample_batches(252)
    expected = parity.torch_outputs(load_stream(GLOBAL_TEXTURE, tiny / GLOBAL_TEXTURE.checkpoint), batches)
    differences = parity.compare(OUTPUTS, expected, onnx_outputs(exports[LOCAL_FACIAL].files[0], batches))
    with pytest.raises(ParityError, match="LOGITS on random by") as raised:
        parity.require_parity("global_texture", differences)
    assert raised.value.differences == tuple(differences)
    parity.require_parity("same", parity.compare(OUTPUTS, expected, expected))


def off(output: int) -> Callable[..., Any]:
    """A hook by which a network gives other outputs than its graph."""

    def hook(module: object, pixels: object, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(value + 0.2 * (index == output) for index, value in enumerate(outputs))

    return hook


def test_a_bfloat16_export_is_tried_in_its_own_arithmetic(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its range is float32's: a weight that is beyond float16 is none of its problems."""
    tensors = torch.load(tiny / GLOBAL_TEXTURE.checkpoint, weights_only=True)
    (key,) = (key for key in tensors if key.endswith("layer.1.mlp.weights_in.bias"))
    tensors[key][0] = 1e5
    torch.save(tensors, tmp_path / "dinov2_252.pth")
    only_scene = {"scene": sample_batches(GLOBAL_TEXTURE.pixels)["scene"]}
    monkeypatch.setattr(stream_export, "sample_batches", lambda pixels: only_scene)
    (tmp_path / "model").mkdir()
    exported = export_stream(GLOBAL_TEXTURE, tmp_path / "dinov2_252.pth", tmp_path / "model", precision="bf16")
    assert exported.precision == "bf16"
    types = {node.op_type: node.outputs[0].dtype for node in ir.load(exported.files[0]).graph}
    assert types["MatMul"] is types["Softmax"] is ir.DataType.BFLOAT16
    assert types["Conv"] is types["LayerNormalization"] is types["Div"] is ir.DataType.FLOAT
    assert {each.pixels for each in exported.differences} == {"scene", "scene, fused attention"}
    found = {each.output: each.largest for each in exported.differences if each.pixels == "scene"}
    assert 1e-4 < found["FEATURES"] < 0.6
    with pytest.raises(HalfRangeError, match="beyond float16"):
        export_stream(GLOBAL_TEXTURE, tmp_path / "dinov2_252.pth", tmp_path / "model", precision="fp16")


def test_learnt_weights_keep_their_probability_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a white image, too, where rounded weights of the patch projection changed it by 0.15."""
    mixed = {"mixed": sample_batches(GLOBAL_TEXTURE.pixels)["mixed"]}
    monkeypatch.setattr(stream_export, "sample_batches", lambda pixels: mixed)
    exported = export_stream(GLOBAL_TEXTURE, SAMPLE_WEIGHTS / GLOBAL_TEXTURE.checkpoint, tmp_path, precision="bf16")
    assert {each.output: each.largest for each in exported.differences}["PROBABILITY"] < 0.02


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("output", "name"), [(0, "LOGITS"), (1, "FEATURES"), (2, "ATTENTION")])
def test_an_export_that_computes_something_else_is_refused(
    output: int, name: str, precision: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_other(stream: Stream, path: Path) -> StreamNetwork:
        network = load_stream(stream, path)
        network.register_forward_hook(off(output))
        return network

    monkeypatch.setattr(stream_export, "load_stream", load_other)
    monkeypatch.setattr(stream_export, "sample_batches", lambda pixels: {"scene": sample_batches(pixels)["scene"]})
    with pytest.raises(ParityError, match=rf"global_texture: .* {name} on scene by 0\.2"):
        export_stream(GLOBAL_TEXTURE, tiny / GLOBAL_TEXTURE.checkpoint, tmp_path, precision=precision)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_fused_model_that_computes_something_else_is_refused(
    precision: str,
    exports: Mapping[Stream, StreamExport],
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only_scene = {"scene": sample_batches(GLOBAL_TEXTURE.pixels)["scene"]}
    monkeypatch.setattr(stream_export, "sample_batches", lambda pixels: only_scene)
    other = exports[LOCAL_FACIAL].files[-1]
    monkeypatch.setattr(exporter, "fuse_attention", lambda model: other)
    with pytest.raises(ParityError, match="LOGITS on scene, fused attention by"):
        export_stream(GLOBAL_TEXTURE, tiny / GLOBAL_TEXTURE.checkpoint, tmp_path, precision=precision)


def test_values_that_are_not_finite_are_no_parity() -> None:
    rest = np.zeros((1, 4), np.float32), np.zeros((1, 9), np.float32)
    zeros = {"random": (np.zeros((1, 2), np.float32), *rest)}
    spoilt = {"random": (np.full((1, 2), np.nan, np.float32), *rest)}
    for expected, actual in ((zeros, spoilt), (spoilt, zeros), (spoilt, spoilt)):
        with pytest.raises(ParityError):
            parity.require_parity("any", parity.compare(OUTPUTS, expected, actual))


# The repository


def models(repository: Path) -> dict[str, bytes]:
    """What exports write, by path."""
    files = (path for path in repository.rglob("*") if path.name.endswith((".onnx", ".onnx.data", ".json")))
    return {str(path.relative_to(repository)): path.read_bytes() for path in files}


def export_all(repository: Path, exports: Mapping[Stream, StreamExport], marker: bytes = b"") -> None:
    """Publish copies of models; the marker tells generations apart."""
    with staging(repository) as folder:
        copies = []
        for export in exports.values():
            target = folder / export.stream.name
            target.mkdir()
            for file in export.files:
                (target / file.name).write_bytes(file.read_bytes() + marker)
            files = tuple(target / file.name for file in export.files)
            copies.append(StreamExport(**{**vars(export), "files": files}))
        publish(repository, copies)


def test_publishing_lays_out_a_whole_repository(exports: Mapping[Stream, StreamExport], tmp_path: Path) -> None:
    repository = tmp_path / "deep" / "models"
    export_all(repository, exports)
    assert {folder.name for folder in repository.iterdir()} == {folder.name for folder in SKELETON.iterdir()}
    for path in SKELETON.rglob("*"):
        if path.name in ("config.pbtxt", "model.py"):
            assert (repository / path.relative_to(SKELETON)).read_bytes() == path.read_bytes()
    for stream, export in exports.items():
        placed = {path.name for path in (repository / stream.name / "1").glob("model*")}
        assert placed == {file.name for file in export.files}
        pixels = np.zeros((1, stream.pixels, stream.pixels, 3), np.uint8)
        np.testing.assert_array_equal(
            run(repository / stream.name / "1" / "model.onnx", pixels)[0], run(export.files[0], pixels)[0]
        )
    provenance = json.loads((repository / "provenance/1/provenance.json").read_text())
    assert provenance.pop("created").endswith("+00:00")
    bases = [provenance["streams"][stream.name].pop("base_sha256") for stream in STREAMS]
    assert len(set(bases)) == 3, "each seeded checkpoint has a base of its own"
    assert provenance == {
        "untrained": True,
        "state": "untrained",
        "stand_in": "",
        "precision": "fp32",
        "same_base_network": False,
        "streams": {
            stream.name: {
                "checkpoint": stream.checkpoint,
                "sha256": exports[stream].sha256,
                "untrained": True,
                "state": "untrained",
            }
            for stream in STREAMS
        },
        "face_detector": "haar",
        "face_models": {},
    }
    assert not list(repository.rglob(".staging*"))


def test_a_small_model_replaces_a_large_one_whole(exports: Mapping[Stream, StreamExport], tmp_path: Path) -> None:
    export_all(tmp_path, exports)
    data = tmp_path / "global_texture/1/model.onnx.data"
    data.write_bytes(b"of an older, larger model")
    export_all(tmp_path, exports)
    assert not data.exists()


@pytest.mark.parametrize("failing", range(5))
def test_an_interrupted_publication_is_never_a_mix(
    failing: int, exports: Mapping[Stream, StreamExport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_all(tmp_path, exports, marker=b"old")
    replace, calls = Path.replace, 0

    def fail_once(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing + 1:
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_once)
    with pytest.raises(RepositoryError, match="No space left on device"):
        export_all(tmp_path, exports, marker=b"new")
    assert not (tmp_path / "provenance/1/provenance.json").exists()
    for stream in STREAMS:
        contents = [path.read_bytes()[-3:] for path in (tmp_path / stream.name / "1").glob("model.onnx*")]
        whole = (tmp_path / stream.name / "1" / "model.onnx").exists()
        assert not whole or len(set(contents)) == 1
    assert not list(tmp_path.rglob(".staging*"))


# The command line


def export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_command_exports_random_weights_and_says_untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, repository = tmp_path / "weights", tmp_path / "models"
    options = ("--weights", weights, "--repository", repository)
    result = export(*options, "--random-weights", "tiny")
    assert result.exit_code == 0, result.output
    assert "UNTRAINED" in result.output
    for stream in STREAMS:
        assert stream.name in result.output
        assert stream.checkpoint in result.output
        assert (repository / stream.name / "1" / "model.onnx").exists()
    assert (weights / MARKER).exists()

    before = models(repository)
    monkeypatch.setattr(parity, "TOLERANCES", {"fp32": dict.fromkeys(parity.TOLERANCES["fp32"], 0.0)})
    failed = export(*options)
    assert failed.exit_code == 1
    assert "does not agree with the network" in failed.output
    assert "above" in failed.output
    assert models(repository) == before


def test_command_names_missing_weights_and_how_to_get_them(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "dinov2_252.pth").write_bytes((tiny / "dinov2_252.pth").read_bytes())
    result = export("--weights", tmp_path, "--repository", tmp_path / "models")
    assert result.exit_code == 1
    message = " ".join(result.output.split())
    assert "dinov2_252_crop.pth, dinov2_clip.pth are missing" in message
    assert "https://huggingface.co/lpmkhoa/hcmusaqua-ntire26-weights" in message
    assert f"--weights {tmp_path} --random-weights tiny" in message
    assert not (tmp_path / "models").exists()


def test_command_fails_on_a_wrong_checkpoint_and_leaves_the_models(tiny: Path, tmp_path: Path) -> None:
    weights, repository = tmp_path / "weights", tmp_path / "models"
    weights.mkdir()
    for stream in STREAMS:
        (weights / stream.checkpoint).write_bytes((tiny / SEMANTIC_FUSION.checkpoint).read_bytes())
    (repository / "global_texture/1").mkdir(parents=True)
    (repository / "global_texture/1/model.onnx").write_bytes(b"old")
    result = export("--weights", weights, "--repository", repository)
    assert result.exit_code == 1
    assert "looks like dinov2_clip.pth, not like dinov2_252.pth" in " ".join(result.output.split())
    assert models(repository) == {"global_texture/1/model.onnx": b"old"}


def test_command_refuses_a_disk_too_small(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    result = export("--weights", tiny, "--repository", tmp_path)
    assert result.exit_code == 1
    assert "make room or choose another --repository" in " ".join(result.output.split())


def test_command_never_overwrites_weights_by_random_ones(tmp_path: Path) -> None:
    (tmp_path / "dinov2_clip.pth").write_bytes(b"precious")
    result = export("--weights", tmp_path, "--repository", tmp_path / "models", "--random-weights", "tiny")
    assert result.exit_code == 1
    assert "would overwrite" in " ".join(result.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["dinov2_clip.pth"]


@pytest.mark.parametrize("arguments", [[], ["--random-weights", "huge", "--weights", "x"], ["--precision", "int4"]])
def test_command_tells_wrong_usage_apart(arguments: list[str]) -> None:
    assert export(*arguments).exit_code == 2


def test_command_help_teaches() -> None:
    output = export("--help").output
    assert "dinov2_252_crop.pth" in output
    assert "Exit status" in output


def test_safetensors_are_found_but_not_beside_the_same_checkpoint(tmp_path: Path) -> None:
    for stream in STREAMS:
        (tmp_path / stream.checkpoint).with_suffix(".safetensors").touch()
    assert {path.suffix for path in find_checkpoints(tmp_path).values()} == {".safetensors"}
    (tmp_path / GLOBAL_TEXTURE.checkpoint).touch()
    with pytest.raises(MissingWeightsError, match="remove one of them"):
        find_checkpoints(tmp_path)
    assert issubclass(MissingWeightsError, ExportError)
