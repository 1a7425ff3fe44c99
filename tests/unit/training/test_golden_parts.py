"""The authors' loss, learning rates, frame choice, augmentation and measures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden import GOLDEN, read_rgb
from training.data.augmentation import rotated
from training.data.manifest import Item
from training.data.order import balanced, image_weights
from training.data.selection import Selection, select
from training.loss import focal_loss
from training.metrics import auc
from training.schedule import Schedule, scheduled_updates, updates_per_epoch

TRAINING = GOLDEN / "training"
RATES: dict[str, Any] = json.loads((TRAINING / "lr.json").read_text())["runs"]
FRAMES: dict[str, Any] = json.loads((TRAINING / "frames.json").read_text())
SAMPLER: dict[str, Any] = json.loads((TRAINING / "sampler.json").read_text())
METRICS: list[dict[str, Any]] = json.loads((TRAINING / "metrics.json").read_text())["cases"]
AUGMENT: dict[str, Any] = json.loads((TRAINING / "augment" / "cases.json").read_text())["cases"]


@pytest.mark.parametrize("name", list(RATES))
def test_learning_rates(name: str) -> None:
    run = RATES[name]
    total = scheduled_updates(run["micro_batches_per_epoch"], run["accumulation"], run["epochs"])
    assert total == run["total_steps_given_to_scheduler"]
    updates = updates_per_epoch(run["micro_batches_per_epoch"], run["accumulation"]) * run["epochs"]
    assert updates == run["updates"]
    schedule = Schedule(run["lr"], run["eta_min"], run["warmup_steps"], total)
    np.testing.assert_allclose([schedule(update) for update in range(updates)], run["lrs"], rtol=1e-12)


@pytest.mark.parametrize(("dtype", "suffix"), [(torch.float32, ""), (torch.float64, "_f64")])
def test_focal_loss(dtype: torch.dtype, suffix: str) -> None:
    golden = np.load(TRAINING / "focal.npz")
    logits = torch.from_numpy(golden["logits"]).to(dtype).requires_grad_()
    losses = focal_loss(logits, torch.from_numpy(golden["labels"]).long())
    losses.mean().backward()
    exact = dtype == torch.float64
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if exact else {"rtol": 5e-6, "atol": 1e-7}
    np.testing.assert_allclose(losses.detach(), golden[f"loss{suffix}"], **tolerance)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad, golden[f"grad_of_mean{suffix}"], rtol=0, atol=1e-12 if exact else 1e-7)


@pytest.mark.parametrize("mode", ["train", "test"])
def test_frames_kept(mode: str) -> None:
    caps = {
        name: (by_label.get("0", -1), by_label.get("1", -1)) for name, by_label in FRAMES["dynamic_frame_cap"].items()
    }
    rates = {
        name: (by_label.get("0", 0), by_label.get("1", 0)) for name, by_label in FRAMES["stochastic_drop_rate"].items()
    }
    selection = Selection(FRAMES["frame_num"][mode], caps, rates if mode == "train" else {}, seed=1024)
    for dataset, kinds in FRAMES["videos"].items():
        items = [
            Item(Path(frame), frame, FRAMES["label_of"][video["label"]], dataset, video=f"{kind}/{name}")
            for kind, videos in kinds.items()
            for name, video in videos.items()
            for frame in video["frames"]
        ]
        kept = sorted([item.name, item.label] for item in select(items, selection))
        assert kept == sorted(FRAMES["kept"][mode][dataset]), dataset


def sampler_items() -> list[Item]:
    names = list(SAMPLER["sizes"])
    pairs = zip(SAMPLER["items"]["dataset"], SAMPLER["items"]["label"], strict=True)
    return [Item(Path("x"), str(n), label, names[dataset]) for n, (dataset, label) in enumerate(pairs)]


def test_balanced_sampler() -> None:
    items = sampler_items()
    weights = image_weights(items)
    by_part: dict[tuple[str, int], list[int]] = {}
    for index, item in enumerate(items):
        by_part.setdefault((item.dataset, item.label), []).append(index)
    for (dataset, label), members in by_part.items():
        golden = SAMPLER["per_dataset_and_class"][dataset][("real", "fake")[label]]
        of_class = sum(weights[index] for index, item in enumerate(items) if item.label == label)
        assert weights[members[0]] == pytest.approx(golden["weight_per_image"], rel=1e-12)
        share = weights[members].sum() / of_class
        assert share == pytest.approx(golden["probability_per_draw_of_the_class"], rel=1e-12)

    batch, epochs = SAMPLER["batch_size"], 200
    orders = [balanced(items, batch, 1024, epoch) for epoch in range(epochs)]
    labels = np.array([item.label for item in items])
    assert {len(order) for order in orders} == {len(items) // batch * batch}
    for order in orders:
        assert (labels[order].reshape(-1, batch).sum(axis=1) == batch // 2).all()
    drawn = np.concatenate(orders)
    for (dataset, label), members in by_part.items():
        golden = SAMPLER["per_dataset_and_class"][dataset][("real", "fake")[label]]
        per_batch = np.isin(drawn, members).sum() / (len(drawn) / batch)
        assert per_batch == pytest.approx(golden["expected_per_batch"], abs=0.02)
    distinct = np.mean([len(np.unique(order)) / len(items) for order in orders])
    assert distinct == pytest.approx(SAMPLER["measured_share_of_distinct_images_in_an_epoch"], abs=0.01)
    assert not np.array_equal(orders[0], orders[1])


@pytest.mark.parametrize("name", list(AUGMENT))
def test_flip_and_rotation(name: str) -> None:
    case = AUGMENT[name]
    image = read_rgb(TRAINING / "augment" / case["input"])
    if case["flip"]:
        image = np.ascontiguousarray(image[:, ::-1])
    if case["angle"] is not None:
        image = rotated(image, case["angle"])
    np.testing.assert_array_equal(image, read_rgb(TRAINING / "augment" / name))


@pytest.mark.parametrize("case", METRICS)
def test_auc(case: dict[str, Any]) -> None:
    measured = auc(np.array(case["label"]), np.array(case["prob_fake"], np.float32))
    assert measured is not None
    assert measured.rounded == pytest.approx(case["auc"], abs=1e-9)
    assert measured.value == pytest.approx(case["auc_without_rounding"], abs=1e-9)
