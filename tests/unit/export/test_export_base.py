"""The three checkpoints' base networks, which should be one: told apart tensor by tensor."""

from pathlib import Path

import pytest
import torch

from ensemble.streams import STREAMS
from export.report import describe_bases
from export.weights.base_weights import BaseComparison, base_digests, compare_bases


@pytest.fixture(scope="module")
def shared(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: the base of the first checkpoint in all three, LoRA and heads each its own."""
    folder = tmp_path_factory.mktemp("shared")
    checkpoints = {stream: torch.load(tiny / stream.checkpoint, weights_only=True) for stream in STREAMS}
    base = {name: tensor for name, tensor in checkpoints[STREAMS[0]].items() if is_base(name)}
    for stream, tensors in checkpoints.items():
        # The distributed prefix and a narrower type must not matter where the values are the same.
        mixed = {
            name.replace("backbone.", "module.backbone.", 1): tensor for name, tensor in {**tensors, **base}.items()
        }
        torch.save(mixed, folder / stream.checkpoint)
    return folder


def is_base(name: str) -> bool:
    return "base_model.model" in name and "lora" not in name


def compare(folder: Path) -> BaseComparison:
    return compare_bases({stream.checkpoint: base_digests(folder / stream.checkpoint) for stream in STREAMS})


def test_one_base_in_three_checkpoints_is_recognised(shared: Path, tiny: Path) -> None:
    bases = compare(shared)
    assert bases.identical
    assert len(set(bases.sha256.values())) == 1
    assert bases.tensors == sum(is_base(name) for name in torch.load(tiny / STREAMS[0].checkpoint, weights_only=True))
    assert describe_bases(bases, seeded=False).startswith(
        f"All checkpoints have the same base DINOv2 ({bases.tensors} "
    )


@pytest.mark.parametrize("changed", ["embeddings.mask_token", "encoder.layer.1.attention.output.dense.base_layer.bias"])
def test_one_changed_tensor_is_named(changed: str, shared: Path, tmp_path: Path) -> None:
    for stream in STREAMS:
        tensors = torch.load(shared / stream.checkpoint, weights_only=True)
        if stream is STREAMS[2]:
            (name,) = (name for name in tensors if name.endswith(f"base_model.model.{changed}"))
            tensors[name].view(-1)[0] += 1e-6
        torch.save(tensors, tmp_path / stream.checkpoint)
    bases = compare(tmp_path)
    assert bases.different == (changed,)
    first, second, third = bases.sha256.values()
    assert first == second != third
    report = describe_bases(bases, seeded=False)
    assert changed in report
    assert "1 of" in report


def test_lora_and_heads_do_not_count(shared: Path, tmp_path: Path) -> None:
    checkpoint = shared / STREAMS[0].checkpoint
    tensors = torch.load(checkpoint, weights_only=True)
    torch.save({n: t if is_base(n) else t * 2 for n, t in tensors.items()}, tmp_path / checkpoint.name)
    assert base_digests(tmp_path / checkpoint.name) == base_digests(checkpoint)


def test_a_narrower_type_of_the_same_values_is_no_difference(shared: Path, tmp_path: Path) -> None:
    checkpoint = shared / STREAMS[0].checkpoint
    tensors = {name: tensor.bfloat16() for name, tensor in torch.load(checkpoint, weights_only=True).items()}
    torch.save(tensors, tmp_path / "half.pth")
    torch.save({name: tensor.float() for name, tensor in tensors.items()}, tmp_path / "single.pth")
    assert base_digests(tmp_path / "half.pth") == base_digests(tmp_path / "single.pth")


def test_seeded_checkpoints_differ_and_that_is_no_alarm(tiny: Path) -> None:
    bases = compare(tiny)
    assert not bases.identical
    assert len(bases.different) == bases.tensors
    assert "seeded weights do" in describe_bases(bases, seeded=True)
    assert "of another training" in describe_bases(bases, seeded=False)


def test_a_tensor_that_one_base_lacks_is_a_difference_and_the_order_of_tensors_is_none() -> None:
    one, other = {"x": "1", "y": "2"}, {"y": "2", "x": "1"}
    same = compare_bases({"a": one, "b": other})
    assert (same.identical, same.tensors) == (True, 2)
    assert same.sha256["a"] == same.sha256["b"]
    lacking = compare_bases({"a": one, "b": {"x": "1"}})
    assert (lacking.different, lacking.tensors) == (("y",), 2)
    assert lacking.sha256["a"] != lacking.sha256["b"]
