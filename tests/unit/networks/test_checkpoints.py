"""Reading checkpoints strictly: what is accepted, and what every wrong file is told."""

import os
import random
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from ensemble.streams import GLOBAL_TEXTURE, LOCAL_FACIAL, SEMANTIC_FUSION, STREAMS, Stream
from networks import PRESETS, load_stream, write_random_weights
from networks.architecture import (
    ArchitectureError,
    ClipArchitecture,
    Dinov2Architecture,
    StreamArchitecture,
    infer_architecture,
    tensor_shapes,
)
from networks.errors import (
    CheckpointError,
    CheckpointLayoutError,
    CheckpointValueError,
    RandomWeightsError,
    UnreadableCheckpointError,
    UnsafeCheckpointError,
)
from networks.seeded import seeded_stream
from networks.weights.checkpoint_file import check_storage, read_tensors, sharing_memory
from networks.weights.checkpoints import to_parameters
from networks.weights.random_weights import (
    MARKER,
    is_seeded,
    is_untrained,
    preset_bytes,
    seeded_preset,
    seeded_tensor,
)
from tests.golden import EXPECTED

BLOCK = "vision_model.base_model.model.encoder.layer"
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder, "tiny")
    return folder


@pytest.fixture
def tensors(tiny: Path) -> Tensors:
    return dict(torch.load(tiny / GLOBAL_TEXTURE.checkpoint))


def outputs(stream: Stream, path: Path) -> Tensor:
    pixels = torch.randint(0, 256, (1, stream.pixels, stream.pixels, 3), generator=torch.Generator().manual_seed(0))
    logits: Tensor = load_stream(stream, path)(pixels.to(torch.uint8))[0]
    return logits


def refusal(kind: type[CheckpointError], content: object, path: Path, stream: Stream = GLOBAL_TEXTURE) -> str:
    torch.save(content, path)
    with pytest.raises(kind) as raised:
        load_stream(stream, path)
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value)


# What the layout is


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_tiny_preset_has_the_tensors_of_the_golden_data(stream: Stream, tiny: Path) -> None:
    expected = EXPECTED["tensors"][Path(stream.checkpoint).stem]
    written = torch.load(tiny / stream.checkpoint)
    assert {name: list(tensor.shape) for name, tensor in written.items()} == expected


# Tensors that lie in the same memory


def query(block: int) -> str:
    return f"backbone.{BLOCK}.{block}.attention.attention.query"


def tie_layers(tensors: Tensors) -> None:
    for kind in ("base_layer.weight", "base_layer.bias"):
        tensors[f"{query(1)}.{kind}"] = tensors[f"{query(0)}.{kind}"]


def tie_query_and_key(tensors: Tensors) -> None:
    name = f"{query(0)}.base_layer.weight"
    tensors[name.replace("query", "key")] = tensors[name]


def tie_base_with_what_is_not_merged(tensors: Tensors) -> None:
    """LoRA's own matrix is a part of the weight that it is merged into."""
    tensors[f"{query(1)}.lora_A.default.weight"] = tensors[f"{query(0)}.base_layer.weight"][:4]


def tie_parts_of_one_buffer(tensors: Tensors) -> None:
    """Overlapping by half: rows 0 to 127 and rows 64 to 191 of one buffer."""
    buffer = torch.randn(192, 128, generator=torch.Generator().manual_seed(1)) * 0.1
    for block in (0, 1):
        tensors[f"{query(block)}.base_layer.weight"] = buffer[64 * block : 64 * block + 128]


def repeat_rows_within_a_tensor(tensors: Tensors) -> None:
    """Elements of one tensor overlap, and the storage is large enough to pass for its own."""
    storage = torch.randn(128 * 128, generator=torch.Generator().manual_seed(2)) * 0.1
    tensors[f"{query(0)}.base_layer.weight"] = storage.as_strided((128, 128), (64, 1))


def share_a_flat_buffer_without_overlap(tensors: Tensors) -> None:
    buffer = torch.randn(2 * 128 * 128, generator=torch.Generator().manual_seed(3)) * 0.1
    for block, part in enumerate(buffer.chunk(2)):
        tensors[f"{query(block)}.base_layer.weight"] = part.view(128, 128)


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "before PyTorch 1.6"])
@pytest.mark.parametrize(
    "tie",
    [
        tie_layers,
        tie_query_and_key,
        tie_base_with_what_is_not_merged,
        tie_parts_of_one_buffer,
        repeat_rows_within_a_tensor,
        share_a_flat_buffer_without_overlap,
    ],
)
def test_tied_tensors_give_the_network_of_untied_ones(
    tie: Callable[[Tensors], None], legacy: bool, tensors: Tensors, tmp_path: Path
) -> None:
    tie(tensors)
    torch.save(tensors, tmp_path / "tied.pth", _use_new_zipfile_serialization=not legacy)
    torch.save({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "untied.pth")
    tied, untied = (load_stream(GLOBAL_TEXTURE, tmp_path / f"{name}.pth").state_dict() for name in ("tied", "untied"))
    for name, value in untied.items():
        assert torch.equal(tied[name], value), name


def test_untied_tensors_are_merged_where_they_lie(tensors: Tensors) -> None:
    """Memory stays near the checkpoint's size."""
    assert sharing_memory(tensors) == set()
    tie_layers(tensors)
    assert sharing_memory(tensors) == {
        f"{query(block)}.base_layer.{kind}" for block in (0, 1) for kind in ("weight", "bias")
    }


def test_lora_is_merged_into_the_memory_that_the_weights_have(tensors: Tensors) -> None:
    bare = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    name = f"{BLOCK}.0.attention.attention.query.base_layer.weight"
    there = bare[name].data_ptr()
    parameters = to_parameters(bare, infer_architecture({key: tuple(each.shape) for key, each in bare.items()}), 252)
    merged = parameters["vision_model.encoder.layer.0.attention.attention.query.weight"]
    assert merged.data_ptr() == there
    assert bare == {}  # used up on the way


def test_what_lies_within_a_larger_tensor_shares_its_memory_whatever_lies_before_it() -> None:
    buffer = np.zeros(100, np.float32)
    parts = {"whole": buffer, "early": buffer[10:12], "late": buffer[50:60]}
    shared = sharing_memory({name: torch.from_numpy(part) for name, part in parts.items()})
    assert shared == {"whole", "early", "late"}
    parts = {"first": buffer[:10], "behind it": buffer[10:30], "within that": buffer[20:25], "last": buffer[30:]}
    shared = sharing_memory({name: torch.from_numpy(part) for name, part in parts.items()})
    assert shared == {"behind it", "within that"}


# Sizes


sizes = st.integers(1, 40)
dinos = st.builds(
    Dinov2Architecture,
    hidden=sizes.map(lambda heads: 64 * heads),
    blocks=sizes,
    inner=sizes,
    rank=sizes,
    positions=sizes.map(lambda side: side**2 + 1),
    patch=sizes,
)
clips = st.builds(
    ClipArchitecture,
    hidden=sizes.map(lambda heads: 64 * heads),
    blocks=sizes,
    inner=sizes,
    positions=sizes.map(lambda side: side**2 + 1),
    patch=sizes,
    head=sizes,
)


@given(st.builds(StreamArchitecture, dinos, st.none() | clips))
def test_sizes_follow_from_shapes(architecture: StreamArchitecture) -> None:
    assert infer_architecture(tensor_shapes(architecture)) == architecture


def test_giant_preset_has_the_published_size() -> None:
    shapes = tensor_shapes(StreamArchitecture(PRESETS["giant"][0]))
    base = sum(torch.Size(shape).numel() for name, shape in shapes.items() if "lora" not in name)
    assert base == pytest.approx(1.136e9, rel=1e-3)


# What is accepted


def assert_same_parameters(path: Path, other: Path) -> None:
    loaded, expected = (load_stream(GLOBAL_TEXTURE, each).state_dict() for each in (path, other))
    assert set(loaded) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())


def test_prefix_of_distributed_training_gives_the_same(tiny: Path, tensors: Tensors, tmp_path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in tensors.items()}, tmp_path / "weights.pth")
    assert_same_parameters(tmp_path / "weights.pth", tiny / GLOBAL_TEXTURE.checkpoint)


def test_safetensors_and_old_pickles_give_the_same(tiny: Path, tensors: Tensors, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "weights.safetensors")
    assert_same_parameters(tmp_path / "weights.safetensors", tiny / GLOBAL_TEXTURE.checkpoint)
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same_parameters(tmp_path / "old.pth", tiny / GLOBAL_TEXTURE.checkpoint)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.1), (torch.bfloat16, 1.0)])
def test_half_precision_is_widened(
    dtype: torch.dtype, tolerance: float, tiny: Path, tensors: Tensors, tmp_path: Path
) -> None:
    torch.save({name: value.to(dtype) for name, value in tensors.items()}, tmp_path / "weights.pth")
    network = load_stream(GLOBAL_TEXTURE, tmp_path / "weights.pth")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    torch.testing.assert_close(
        outputs(GLOBAL_TEXTURE, tmp_path / "weights.pth"),
        outputs(GLOBAL_TEXTURE, tiny / GLOBAL_TEXTURE.checkpoint),
        rtol=0,
        atol=tolerance,
    )


@pytest.mark.parametrize("archive", [True, False])
def test_an_archive_is_mapped_and_not_read_whole(
    archive: bool, tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, load, mapped = tmp_path / "weights.pth", torch.load, list[bool]()
    torch.save(tensors, path, _use_new_zipfile_serialization=archive)

    def watched(*arguments: Any, **options: Any) -> Any:
        mapped.append(options["mmap"])
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", watched)
    read_tensors(path)
    assert mapped == [archive]


def test_a_network_that_was_read_is_for_inference(tiny: Path) -> None:
    network = load_stream(GLOBAL_TEXTURE, tiny / GLOBAL_TEXTURE.checkpoint)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_obsolete_integer_buffers_are_ignored(tensors: Tensors, tmp_path: Path) -> None:
    tensors["backbone.vision_model.base_model.model.embeddings.position_ids"] = torch.arange(7)
    torch.save(tensors, tmp_path / "weights.pth")
    load_stream(GLOBAL_TEXTURE, tmp_path / "weights.pth")


def test_a_weight_that_is_named_like_an_obsolete_buffer_is_not_ignored(tensors: Tensors, tmp_path: Path) -> None:
    name = "vision_model.base_model.model.embeddings.position_ids"
    tensors[f"backbone.{name}"] = torch.zeros(7)
    assert f"1 unexpected ({name})" in refusal(CheckpointLayoutError, tensors, tmp_path / "weights.pth")


def test_reading_leaves_the_file_as_it_is(tiny: Path) -> None:
    path = tiny / GLOBAL_TEXTURE.checkpoint
    before = path.read_bytes()
    network = load_stream(GLOBAL_TEXTURE, path)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert path.read_bytes() == before


# What is refused


def test_missing_unexpected_and_misshapen_tensors_are_listed(tensors: Tensors, tmp_path: Path) -> None:
    for index in range(2):
        for norm in ("norm1", "norm2"):
            for part in ("weight", "bias"):
                del tensors[f"backbone.{BLOCK}.{index}.{norm}.{part}"]
    tensors["backbone.extra"] = torch.zeros(1)
    tensors["backbone.last_layer.bias"] = torch.zeros(3)
    torch.save(tensors, tmp_path / "weights.pth")
    with pytest.raises(CheckpointLayoutError) as raised:
        load_stream(GLOBAL_TEXTURE, tmp_path / "weights.pth")
    error, message = raised.value, str(raised.value)
    assert len(error.missing) == 8
    assert error.unexpected == ("extra",)
    assert error.misshapen == ("last_layer.bias",)
    assert f"8 missing ({BLOCK}.0.norm1.weight, " in message
    assert ", …)" in message
    assert "1 unexpected (extra)" in message
    assert "1 misshapen (last_layer.bias: [3], not [2])" in message


@given(data=st.data())
def test_no_tensor_can_be_absent(data: st.DataObject, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    stream = data.draw(st.sampled_from(STREAMS))
    content = dict(torch.load(tiny / stream.checkpoint))
    del content[data.draw(st.sampled_from(sorted(content)))]
    refusal(CheckpointLayoutError, content, tmp_path_factory.getbasetemp() / "absent.pth", stream)


def test_another_streams_file_is_named(tiny: Path) -> None:
    with pytest.raises(CheckpointLayoutError, match=r"looks like dinov2_clip\.pth, not like dinov2_252\.pth"):
        load_stream(GLOBAL_TEXTURE, tiny / SEMANTIC_FUSION.checkpoint)
    with pytest.raises(CheckpointLayoutError, match=r"looks like dinov2_252\.pth or dinov2_252_crop\.pth, not like"):
        load_stream(SEMANTIC_FUSION, tiny / LOCAL_FACIAL.checkpoint)


def test_blocks_must_be_there_and_contiguous(tensors: Tensors, tmp_path: Path) -> None:
    gap = {name.replace("layer.1.", "layer.5."): value for name, value in tensors.items()}
    assert "layer.1 is missing, though" in refusal(CheckpointLayoutError, gap, tmp_path / "gap.pth")
    without = {name: value for name, value in tensors.items() if ".encoder." not in name}
    assert "there is no block" in refusal(CheckpointLayoutError, without, tmp_path / "without.pth")


def test_sizes_that_cannot_be_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    embeddings = "backbone.vision_model.base_model.model.embeddings."
    narrow = tensors | {f"{embeddings}cls_token": torch.zeros(1, 1, 96)}
    assert "not a multiple of 64" in refusal(CheckpointLayoutError, narrow, tmp_path / "weights.pth")
    oblong = tensors | {f"{embeddings}position_embeddings": torch.zeros(1, 13, 128)}
    assert "not a square grid" in refusal(CheckpointLayoutError, oblong, tmp_path / "weights.pth")
    of_clip = dict(tensor_shapes(StreamArchitecture(*PRESETS["tiny"])))
    of_clip["clip_model.vision_model.embeddings.position_embedding.weight"] = (13, 128)
    with pytest.raises(ArchitectureError, match="the position table of CLIP has 13 rows"):
        infer_architecture(of_clip)
    alone = tensors | {f"{embeddings}position_embeddings": torch.zeros(1, 1, 128)}
    assert "has 1 rows: not a square grid" in refusal(CheckpointLayoutError, alone, tmp_path / "weights.pth")
    empty = tensors | {f"{embeddings}cls_token": torch.zeros(1, 1, 0)}
    assert "not 3 dimensions of 1 or more" in refusal(CheckpointLayoutError, empty, tmp_path / "weights.pth")
    flat = tensors | {f"{embeddings}cls_token": torch.zeros(128)}
    assert "not 3 dimensions" in refusal(CheckpointLayoutError, flat, tmp_path / "weights.pth")


def test_clip_of_another_resolution_is_refused(tiny: Path, tmp_path: Path) -> None:
    content = torch.load(tiny / SEMANTIC_FUSION.checkpoint)
    content["backbone.clip_model.vision_model.embeddings.position_embedding.weight"] = torch.zeros(577, 128)
    message = refusal(CheckpointLayoutError, content, tmp_path / "weights.pth", SEMANTIC_FUSION)
    assert "577 positions" in message
    assert "16×16 + 1 = 257" in message


def test_an_image_holds_a_patch_at_least(tiny: Path) -> None:
    load_stream(replace(GLOBAL_TEXTURE, pixels=14), tiny / GLOBAL_TEXTURE.checkpoint)
    with pytest.raises(CheckpointLayoutError, match="patches of 14 pixels do not fit images of 13"):
        load_stream(replace(GLOBAL_TEXTURE, pixels=13), tiny / GLOBAL_TEXTURE.checkpoint)


def test_prefixes_must_be_known_and_the_same(tensors: Tensors, tmp_path: Path) -> None:
    mixed = {("module." if index % 2 else "") + name: value for index, (name, value) in enumerate(tensors.items())}
    assert "names are mixed" in refusal(CheckpointLayoutError, mixed, tmp_path / "mixed.pth")
    first, *others = tensors
    alone = {first: tensors[first]} | {name.removeprefix("backbone."): tensors[name] for name in others}
    assert "1 tensors begin with 'backbone.', 60 do not" in refusal(
        CheckpointLayoutError, alone, tmp_path / "alone.pth"
    )
    bare = {name.removeprefix("backbone."): value for name, value in tensors.items()}
    assert "not in the layout of the published" in refusal(CheckpointLayoutError, bare, tmp_path / "bare.pth")


def test_contents_other_than_tensors_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    wrapped = refusal(CheckpointLayoutError, {"state_dict": tensors, "epoch": 3}, path)
    assert "save the dictionary under 'state_dict' alone" in wrapped
    assert "epoch: int" in wrapped
    assert "holds a list" in refusal(CheckpointLayoutError, [1, 2], path)
    assert "holds no tensors" in refusal(CheckpointLayoutError, {}, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(value: float, tensors: Tensors, tmp_path: Path) -> None:
    tensors["backbone.last_layer.bias"][1] = value
    message = refusal(CheckpointValueError, tensors, tmp_path / "weights.pth")
    assert "1 of 61 tensors hold NaN or infinity (last_layer.bias)" in message


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex64, torch.bool])
def test_other_types_are_refused(dtype: torch.dtype, tensors: Tensors, tmp_path: Path) -> None:
    tensors["backbone.last_layer.bias"] = tensors["backbone.last_layer.bias"].to(dtype)
    message = refusal(CheckpointValueError, tensors, tmp_path / "weights.pth")
    assert f"backbone.last_layer.bias: {str(dtype).removeprefix('torch.')}" in message


def test_a_few_bytes_posing_as_a_huge_tensor_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    for posing in (torch.zeros(1).expand(2, 10**12), torch.zeros(1, 32).expand(2, 32)):
        tensors["backbone.last_layer.weight"] = posing
        assert "larger than the data behind them" in refusal(CheckpointValueError, tensors, tmp_path / "weights.pth")


def test_a_sparse_tensor_is_refused(tensors: Tensors) -> None:
    with pytest.raises(CheckpointValueError, match=r"weights\.pth: 1 tensors are sparse, .*\(last_layer\.weight\)"):
        check_storage(Path("weights.pth"), {**tensors, "last_layer.weight": torch.eye(2).to_sparse()})


class Malice:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_pickle_is_not_run(
    archive: bool, tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    torch.save(tensors | {"backbone.x": Malice()}, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(UnsafeCheckpointError, match=r"nothing in it was run: .* \(posix\.mkdir\)"):
        load_stream(GLOBAL_TEXTURE, path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4550000000\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "web page"),
        (b"\n  <!doctype HTML>", "web page"),
        (b"<html><body>Log in</body></html>", "web page"),
        (b"not a checkpoint at all", "not a checkpoint that torch.load can read"),
        (b"PK\x03\x04" + bytes(1000), "truncated or damaged"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_are_named_for_what_they_are(content: bytes, said: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    if suffix == ".safetensors" and said in ("not a checkpoint that torch.load can read", "truncated or damaged"):
        said = "not a whole safetensors file"
    with pytest.raises(UnreadableCheckpointError, match=re.escape(said)) as caught:
        load_stream(GLOBAL_TEXTURE, path)
    assert "weights_only" not in str(caught.value), "torch's advice, which could run code, is passed on"


def test_an_absent_file_is_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpointError, match="no such file"):
        load_stream(GLOBAL_TEXTURE, tmp_path / "absent.pth")


def test_truncated_files_are_refused(tiny: Path, tensors: Tensors, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "whole.safetensors")
    for whole in (tiny / GLOBAL_TEXTURE.checkpoint, tmp_path / "whole.safetensors"):
        content = whole.read_bytes()
        for fraction in (0.01, 0.5, 0.999):
            path = tmp_path / f"cut{whole.suffix}"
            path.write_bytes(content[: int(fraction * len(content))])
            with pytest.raises(UnreadableCheckpointError):
                load_stream(GLOBAL_TEXTURE, path)


def test_a_safetensors_file_that_was_cut_is_said_to_be_one(tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnreadableCheckpointError, match=r"not a whole safetensors file .*; copy or download it again"):
        load_stream(GLOBAL_TEXTURE, path)


def test_a_flipped_bit_is_noticed(tiny: Path, tmp_path: Path) -> None:
    content = bytearray((tiny / GLOBAL_TEXTURE.checkpoint).read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UnreadableCheckpointError, match="checksum"):
        load_stream(GLOBAL_TEXTURE, path)


def test_a_recompressed_archive_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with (
        zipfile.ZipFile(tiny / GLOBAL_TEXTURE.checkpoint) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(UnreadableCheckpointError, match="compressed"):
        load_stream(GLOBAL_TEXTURE, path)


def test_an_archive_of_which_one_part_is_compressed_is_refused(tiny: Path, tmp_path: Path) -> None:
    """Mapped, its bytes would be taken for the weights."""
    path = tmp_path / "weights.pth"
    with (
        zipfile.ZipFile(tiny / GLOBAL_TEXTURE.checkpoint) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target,
    ):
        *names, last = source.namelist()
        for name in names:
            target.writestr(name, source.read(name))
        target.writestr(last, source.read(last), zipfile.ZIP_DEFLATED)
    with pytest.raises(UnreadableCheckpointError, match="compressed"):
        load_stream(GLOBAL_TEXTURE, path)


def test_random_damage_never_raises_anything_else(tiny: Path, tmp_path: Path) -> None:
    whole = (tiny / GLOBAL_TEXTURE.checkpoint).read_bytes()
    path = tmp_path / "weights.pth"
    randomness = random.Random(0)
    for _ in range(60):
        content = bytearray(whole)
        start = randomness.choice([0, len(content) - 8000, randomness.randrange(len(content))])
        for _ in range(randomness.randrange(1, 200)):
            content[min(start + randomness.randrange(8000), len(content) - 1)] = randomness.randrange(256)
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_stream(GLOBAL_TEXTURE, path)


# Random weights


@pytest.mark.parametrize(
    ("preset", "alone", "fusion"),
    [
        ("tiny", 2_636_680, 5_187_464),
        ("small", 89_433_608, 149_097_992),
        ("giant", 4_608_849_928, 5_826_805_768),
    ],
)
def test_a_preset_has_its_size(preset: str, alone: int, fusion: int) -> None:
    """Bytes; the giant one is as large as the published files."""
    assert [preset_bytes(preset, stream) for stream in STREAMS] == [alone, alone, fusion]


def test_what_is_added_up_again_and_again_shrinks_with_the_number_of_blocks() -> None:
    """Else rounding errors would grow from block to block; nothing else depends on it."""
    shapes = tensor_shapes(StreamArchitecture(Dinov2Architecture(64, 1, 8, 2)))
    for name, shape in shapes.items():
        two, twelve = (seeded_tensor(GLOBAL_TEXTURE, name, shape, blocks) for blocks in (2, 12))
        shrinks = "lambda1" in name or ".lora_B." in name
        np.testing.assert_allclose(twelve, two / 6 if shrinks else two, rtol=1e-6, err_msg=name)


def test_networks_that_are_filled_in_place_have_numbers_of_the_same_kind() -> None:
    networks = [dict(seeded_stream(stream, "tiny").named_parameters()) for stream in STREAMS]
    for parameters in networks:
        for name, parameter in parameters.items():
            least, most = parameter.min().item(), parameter.max().item()
            if "lambda1" in name:
                assert 0.3 <= least < 0.4 < 0.9 < most <= 1, name
            elif name.endswith("weight") and parameter.ndim == 1:
                assert 0.7 <= least < 0.8 < 1.2 < most <= 1.3, name
            elif parameter.numel() > 1000:
                spread = {2: (1.6 / parameter.shape[-1]) ** 0.5}.get(parameter.ndim, 0.05)
                assert parameter.std().item() == pytest.approx(spread, rel=0.1), name
    name = "vision_model.encoder.layer.0.mlp.weights_in.weight"
    assert len({each[name][0, 0].item() for each in networks}) == len(STREAMS), "each stream has its own"
    assert not any(parameter.requires_grad for parameter in networks[0].values())


def test_random_weights_tell_how_far_they_are(tmp_path: Path) -> None:
    total = sum(preset_bytes("tiny", stream) for stream in STREAMS)
    for told in ([], []):  # the second time they are there
        write_random_weights(tmp_path / "deep" / "weights", "tiny", told.append)
        assert sum(told) == total


def test_tensors_without_a_head_are_not_taken_for_random_ones(tensors: Tensors) -> None:
    bare = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    assert is_seeded(GLOBAL_TEXTURE, bare)
    assert not is_seeded(LOCAL_FACIAL, bare)
    assert not is_seeded(GLOBAL_TEXTURE, {name: each for name, each in bare.items() if "last_layer" not in name})


def test_random_weights_are_recognised_without_their_marker(tiny: Path, tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / GLOBAL_TEXTURE.checkpoint
    torch.save(tensors, path)
    assert is_untrained(GLOBAL_TEXTURE, path, load_stream(GLOBAL_TEXTURE, path))
    tensors["backbone.last_layer.bias"] += 0.01
    torch.save(tensors, path)
    trained = load_stream(GLOBAL_TEXTURE, path)
    assert not is_untrained(GLOBAL_TEXTURE, path, trained)
    (tmp_path / MARKER).touch()
    assert is_untrained(GLOBAL_TEXTURE, path, trained)
    assert seeded_preset(GLOBAL_TEXTURE, tiny / GLOBAL_TEXTURE.checkpoint) == "tiny"


def test_random_weights_say_untrained_and_may_be_written_again(tmp_path: Path) -> None:
    paths = write_random_weights(tmp_path, "tiny")
    assert "UNTRAINED" in (tmp_path / MARKER).read_text()
    before = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    assert write_random_weights(tmp_path, "tiny") == paths
    after = [path.stat().st_mtime_ns for path in paths]
    assert (before[0], before[2]) == (after[0], after[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([MARKER, *(path.name for path in paths)])


def test_random_weights_never_overwrite_others(tensors: Tensors, tmp_path: Path) -> None:
    tensors["backbone.last_layer.bias"] += 0.01
    path = tmp_path / GLOBAL_TEXTURE.checkpoint
    torch.save(tensors, path)
    before = path.read_bytes()
    with pytest.raises(RandomWeightsError, match=r"holds dinov2_252\.pth, which random weights"):
        write_random_weights(tmp_path, "tiny")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_random_weights_of_another_preset_are_not_replaced(tiny: Path) -> None:
    with pytest.raises(RandomWeightsError, match="preset small would overwrite"):
        write_random_weights(tiny, "small")


def test_random_weights_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**9}))
    with pytest.raises(RandomWeightsError, match=r"take 15\.0 GB, 1\.0 GB are free"):
        write_random_weights(tmp_path, "giant")
    assert not list(tmp_path.glob("*.pth"))


def test_room_is_needed_for_what_is_not_there_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, *_ = write_random_weights(tmp_path, "tiny")
    missing.unlink()
    needed = preset_bytes("tiny", GLOBAL_TEXTURE)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1.02 * needed}))
    write_random_weights(tmp_path, "tiny")
    assert missing.exists()


def test_a_checkpoint_that_was_written_by_half_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_random_weights(tmp_path, "tiny")
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]  # which tells what a later run finds
