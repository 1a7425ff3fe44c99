"""What is kept of a run is on the disk whole, or not at all; and measures of groups and splits by number."""

import hashlib
import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from ensemble.streams import GLOBAL_TEXTURE
from training import metrics
from training.data.copies import LEAST_CONTRAST, NEAR, Fingerprint, fingerprint, require_no_copies
from training.data.manifest import Item
from training.data.order import micro_batches, shuffled
from training.data.selection import Selection, frame_number, select
from training.data.splits import split_by_group
from training.data.survey import survey
from training.errors import DataError, RunError
from training.metrics import auc, auc_interval
from training.recipe import NO_CAP
from training.run.state import (
    Progress,
    State,
    learnt_tensors,
    read_state,
    restore_tensors,
    save_state,
    write_atomically,
)
from training.run.stopping import stop_on_signals

PROGRESS = Progress(updates=5, epoch=1, micro_batch=3, best=0.75, best_update=4, since_best=1, skipped=2, logged=99)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    state = State({"recipe": "a"}, PROGRESS, {"w": torch.arange(3.0)}, {"step": 7})
    save_state(tmp_path, state)
    found = read_state(tmp_path)
    assert found is not None
    assert (found.identity, found.progress, found.optimiser) == (state.identity, PROGRESS, {"step": 7})
    assert torch.equal(found.learnt["w"], state.learnt["w"])


def test_a_run_begins_at_nothing() -> None:
    assert asdict(Progress()) == {
        "updates": 0,
        "epoch": 0,
        "micro_batch": 0,
        "best": None,
        "best_update": 0,
        "since_best": 0,
        "validated": 0,
        "skipped": 0,
        "logged": 0,
        "unlogged": "",
    }


def test_a_state_is_on_the_disk_before_it_takes_the_last_one_s_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        happened.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")

    def replaced(path: Path, target: Any) -> Any:
        happened.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_atomically(tmp_path / "a.pt", {"a": 1})
    assert happened == ["sync .a.pt.partial", "replace"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_what_cannot_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "a.pt", {"a": 1})

    def full(content: Any, file: Any) -> None:
        file.write(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"a\.pt: cannot be written: disk full; make room: the last one is kept"):
        write_atomically(tmp_path / "a.pt", {"a": 2})
    assert torch.load(tmp_path / "a.pt", weights_only=True) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_state_that_is_damaged_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    told = r"state\.pt: cannot be read .* give another --output, or remove the file"
    with pytest.raises(RunError, match=told) as refused:
        read_state(tmp_path)
    assert "weights_only" not in str(refused.value)  # nobody is told to run what a damaged file may hold


def test_what_learns_is_copied_and_put_back_in_place() -> None:
    network = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))
    network[0].requires_grad_(False)
    kept = learnt_tensors(network)
    assert set(kept) == {"1.weight", "1.bias"}
    before = {name: value.clone() for name, value in kept.items()}
    parameter = network[1].weight
    with torch.no_grad():
        parameter.add_(1)
    assert torch.equal(kept["1.weight"], before["1.weight"])
    restore_tensors(network, kept)
    assert parameter is network[1].weight
    assert torch.equal(parameter, before["1.weight"])


def test_an_epoch_is_every_image_once_in_an_order_of_its_own() -> None:
    orders = [shuffled(10, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert tuple(shuffled(10, 0, 1)) == tuple(orders[1])
    assert [len(batch) for batch in micro_batches(orders[0], 4)] == [4, 4, 2]
    assert sorted(np.concatenate(micro_batches(orders[0], 4))) == list(range(10))


def test_an_auc_has_its_rounded_twin_and_needs_both_classes() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.51, 0.62, 0.54, 0.91])
    found = auc(labels, scores)
    assert found is not None
    assert (found.value, found.rounded, found.images) == (0.75, 0.625, 4)
    assert auc(labels[:2], scores[:2]) is None


def test_the_interval_of_an_auc_resamples_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    assert metrics.RESAMPLES == 1000
    monkeypatch.setattr(metrics, "RESAMPLES", 100)
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    scores = labels * 0.3 + rng.normal(0, 0.3, 200)
    alone = np.array([f"g{n}" for n in range(200)])
    low, high = auc_interval(labels, scores, alone)
    assert low < auc(labels, scores).value < high  # type: ignore[union-attr]
    assert 0.05 < high - low < 0.2
    assert auc_interval(labels, scores, alone) == (low, high)
    assert auc_interval(labels, scores, alone, seed=1) != (low, high)
    pairs = np.array([f"g{n // 20}" for n in range(200)])
    wide = auc_interval(labels, scores, pairs)
    assert wide != (low, high)
    assert all(np.isnan(auc_interval(labels[::2], scores[::2], alone[::2])))
    one_group = auc_interval(labels, scores, np.full(200, "g"))
    assert one_group[0] == one_group[1] == auc(labels, scores).value  # type: ignore[union-attr]


def test_an_interval_leaves_out_a_fortieth_on_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter(range(1001))
    monkeypatch.setattr(metrics, "RESAMPLES", 1001)
    monkeypatch.setattr(metrics, "roc_auc_score", lambda labels, probabilities: next(values))
    assert auc_interval(np.array([0, 1]), np.array([0.1, 0.9]), np.array(["g", "g"])) == (25, 975)


def prints(first: np.ndarray, second: np.ndarray) -> list[Fingerprint | None]:
    return [Fingerprint("a", np.packbits(first)), Fingerprint("b", np.packbits(second))]


@pytest.mark.parametrize(("differing", "found"), [(0, True), (8, True), (9, False), (40, False)])
def test_pictures_that_differ_in_eight_bits_of_256_look_the_same(differing: int, found: bool) -> None:
    bits = np.random.default_rng(1).integers(0, 2, 256).astype(np.uint8)
    other = bits.copy()
    other[np.linspace(0, 255, differing or 1, dtype=int)[:differing]] ^= 1
    items = [Item(Path("x"), "a", 0, group="a", split="train"), Item(Path("x"), "b", 1, group="b", split="test")]
    if found:
        with pytest.raises(DataError, match=r"a \(train\) and b \(test\) look the same"):
            require_no_copies(items, prints(bits, other))
    else:
        require_no_copies(items, prints(bits, other))
    assert (NEAR, LEAST_CONTRAST) == (8, 12)


def test_copies_within_a_split_and_what_cannot_be_read_are_no_leak() -> None:
    items = [
        Item(Path("x"), name, 0, group=name, split=split)
        for name, split in zip("abcd", ("train", "train", "test", "test"), strict=True)
    ]
    bits = np.packbits(np.random.default_rng(1).integers(0, 2, 256).astype(np.uint8))
    require_no_copies(items, [Fingerprint("1", bits), Fingerprint("1", bits), None, Fingerprint("2")])
    require_no_copies(items, [None, Fingerprint("1", ~bits), Fingerprint("2", bits), Fingerprint("2", bits)])
    with pytest.raises(DataError, match=r"^b \(train\) and c \(test\) look the same: in two splits"):  # told once
        require_no_copies(items, [None, Fingerprint("1", bits), Fingerprint("2", bits), None])


def test_a_surface_that_differs_by_a_level_alone_is_told_from_no_other() -> None:
    """Its bits are as many as a picture's, and chance."""
    noise = np.random.default_rng(0).integers(0, 2, (16, 17, 1)).astype(np.uint8)
    for contrast, known in ((1, False), (40, True)):
        image = np.repeat(100 + contrast * noise, 3, axis=2)
        found = fingerprint(b"as it is coded", image)
        assert (found.perceptual is not None) == known
        assert found.sha256 == hashlib.sha256(b"as it is coded").hexdigest()


def test_leaks_beyond_three_are_counted() -> None:
    items = [Item(Path("x"), f"{n}", 0, group=f"{n}", split=("train", "test")[n % 2]) for n in range(10)]
    found: list[Fingerprint | None] = [Fingerprint(f"{n // 2}", None) for n in range(10)]
    with pytest.raises(DataError, match=r"are the same file and 2 more: in two splits") as caught:
        require_no_copies(items, found)
    assert str(caught.value).count("are the same file") == 3


def test_a_split_that_is_given_stays_and_the_shares_are_as_asked() -> None:
    given = [Item(Path("x"), "a", 0, group="g", split="test")]
    assert split_by_group(given, 1.0, 0) == given
    items = [Item(Path("x"), f"{n}", 0, group=f"g{n}") for n in range(2000)]
    for share in (0.0, 0.1, 0.5, 1.0):
        judged = sum(item.split == "validation" for item in split_by_group(items, share, 3))
        assert judged == pytest.approx(2000 * share, abs=100)
    assert split_by_group(items, 0.5, 3) != split_by_group(items, 0.5, 4)


@pytest.mark.parametrize(
    ("name", "number"), [("a/b12.png", 12), ("007.jpg", 7), ("x3.y4.png", 3), ("none.png", 0), ("v2/frame.png", 0)]
)
def test_a_frame_s_number_ends_its_name(name: str, number: int) -> None:
    assert frame_number(name) == number


def test_the_first_frames_are_kept_and_caps_replace_their_number() -> None:
    items = [Item(Path("x"), f"f{n}.png", label, "d", video=f"v{label}") for label in (0, 1) for n in (10, 9, 2, 1)]
    kept = select(items, Selection(2, {"d": (NO_CAP, 3)}, {}, 0))
    assert [(item.label, item.name) for item in kept] == [
        (0, "f1.png"),
        (0, "f2.png"),
        (1, "f1.png"),
        (1, "f2.png"),
        (1, "f9.png"),
    ]
    assert select(items, Selection(2, {"d": (0, 0)}, {}, 0)) == []
    dropped = select(items, Selection(9, {}, {"d": (1.0, 0.0)}, 0))
    assert {item.label for item in dropped} == {1}


def test_a_smooth_gradient_is_told_from_no_other(tmp_path: Path) -> None:
    for name, columns in {"rising": np.arange(256), "falling": np.arange(256)[::-1]}.items():
        image = np.repeat(np.tile(columns.astype(np.uint8), (256, 1))[..., None], 3, axis=2)
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    (tmp_path / "text.png").write_bytes(b"no image")
    items = [Item(tmp_path / f"{name}.png", name, 0) for name in ("rising", "falling", "text", "gone")]
    *found, text, gone = (each.fingerprint for each in survey(items, GLOBAL_TEXTURE))
    assert all(each is not None and each.perceptual is None for each in found)
    assert text is None
    assert gone is None


def test_a_second_signal_ends_the_process_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as request:
        assert request.asked is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.asked == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before
